"""What happened: the outcome of each batch, and their sum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_pinecone_upsert.api.errors import PineconeUpsertError, RateLimitError
from airflow_pinecone_upsert.upsert.batch import Batch


@dataclass(frozen=True)
class Attempt:
    """
    One request that is over.

    :param batch: Its records.
    :param body_bytes: Length of its body.
    :param confirmed: Records that the server confirmed.
    :param repeated: It carried records that an earlier request carried.
    :param error: Why it failed; None where every record was confirmed.
    :param latency_s: From its start to its answer.
    """

    batch: Batch
    body_bytes: int
    confirmed: int
    repeated: bool
    error: PineconeUpsertError | None
    latency_s: float


@dataclass(frozen=True)
class Refusal:
    """
    One record that the server refuses, while it takes others.

    :param batch: It alone.
    :param error: The server's words.
    """

    batch: Batch
    error: PineconeUpsertError


@dataclass(frozen=True)
class Failure:
    """
    A batch that will not be sent again, and is not confirmed.

    :param batch: Its records. The server may hold all of them nevertheless.
    :param error: Why the last request for it failed.
    :param confirmed: How many of them the server confirmed; which ones it does not say.
    """

    batch: Batch
    error: PineconeUpsertError
    confirmed: int = 0

    @property
    def unconfirmed(self) -> int:
        """Records that the server did not confirm."""
        return len(self.batch) - self.confirmed


Event = Attempt | Refusal | Failure


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


@dataclass
class Tally:
    """The report while it grows, and what failed for good."""

    upserted_count: int = 0
    request_count: int = 0
    request_bytes: int = 0
    retry_count: int = 0
    throttled_count: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count what the sender reports."""
        match event:
            case Attempt():
                self.upserted_count += event.confirmed
                self.request_count += 1
                self.request_bytes += event.body_bytes
                self.retry_count += event.repeated
                self.throttled_count += isinstance(event.error, RateLimitError)
            case Failure():
                self.failures.append(event)
