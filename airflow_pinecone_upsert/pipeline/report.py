"""What happened: the outcome of each batch, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UpsertReport:
    """
    The sum of a run, over all its tries. Every count is of what the server said, none of what was hoped for.

    :param upserted_count: Records that the server confirmed, the sum of its ``upsertedCount``.
    :param resumed_count: Those among them that an earlier try had sent.
    :param rejected_count: Records set aside.
    :param rejects_paths: The files that hold those.
    :param request_count: Requests sent, repeated ones included.
    :param request_bytes: Bytes of their bodies.
    :param retry_count: Requests that repeated an earlier one, whole or in part.
    :param throttled_count: Requests that the server refused because they came too fast (429).
    :param duration_s: Seconds from the first read to the last answer.
    :param namespace: Where the records are; ``""`` is the default namespace.
    :param index_host: The index.
    """

    upserted_count: int = 0
    resumed_count: int = 0
    rejected_count: int = 0
    rejects_paths: tuple[str, ...] = ()
    request_count: int = 0
    request_bytes: int = 0
    retry_count: int = 0
    throttled_count: int = 0
    duration_s: float = 0.0
    namespace: str = ""
    index_host: str = ""

    def as_output(self) -> dict[str, Any]:
        """Return the task's output, under the API's kind of names."""
        return {
            "upsertedCount": self.upserted_count,
            "resumedCount": self.resumed_count,
            "rejectedCount": self.rejected_count,
            "rejectsPaths": list(self.rejects_paths),
            "requestCount": self.request_count,
            "requestBytes": self.request_bytes,
            "retryCount": self.retry_count,
            "throttledCount": self.throttled_count,
            "durationSeconds": round(self.duration_s, 3),
            "namespace": self.namespace,
            "indexHost": self.index_host,
        }
