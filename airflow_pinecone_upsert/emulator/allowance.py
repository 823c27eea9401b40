"""
The documented limits of upserts, 2 MB a request and 50 MB/s a namespace, in one of two readings.

Pinecone does not document how it measures them: ``json`` counts the bytes that were sent, ``binary`` the records as they are
stored. Over gRPC both count nearly the same.

Invariant: a rejected request takes nothing of the allowance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.records import Row
from airflow_pinecone_upsert.emulator.rules import ApiError

MEASURES: Final = ("json", "binary")

_BUCKET_S: Final = 1.0
"""A namespace that was not written to may take this many seconds' worth at once; the service's number is not known."""

_RESOURCE_EXHAUSTED: Final = 8


class Allowance:
    """
    What the namespaces of an index may still take.

    :param measure: ``json`` or ``binary``; ``None`` enforces neither limit.
    :param clock: Returns the time in seconds.
    :raises ValueError: There is no such measure.
    """

    def __init__(self, measure: str | None, clock: Callable[[], float]) -> None:
        if measure is not None and measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {measure!r}.")
        self._measure = measure
        self._clock = clock
        self._taken: dict[str, tuple[float, float]] = {}  # of each namespace: bytes, and when they were taken

    def take(self, namespace: str, sent_bytes: int, rows: Sequence[Row]) -> None:
        """
        Take a request from the allowance.

        :param namespace: The namespace.
        :param sent_bytes: The size of the request's body.
        :param rows: Its records.
        :raises ApiError: The request is larger than any may be, or than what the namespace may take now.
        """
        if self._measure is None:
            return
        size = sent_bytes if self._measure == "json" else sum(row.binary_bytes for row in rows)
        if size > limits.MAX_REQUEST_BYTES:
            raise request_too_large(size)
        now = self._clock()
        before, since_s = self._taken.get(namespace, (0.0, now))
        taken = max(0.0, before - limits.MAX_BYTES_PER_SECOND * (now - since_s)) + size
        if taken > limits.MAX_BYTES_PER_SECOND * _BUCKET_S:
            raise ApiError(
                "Request failed. You've reached the max upsert size limit per second for index. Pace your upserts.",
                status=429,
                code=_RESOURCE_EXHAUSTED,
            )
        self._taken[namespace] = taken, now


def request_too_large(size: int) -> ApiError:
    """Return the error for a request of ``size`` bytes."""
    return ApiError(f"Request size {round(size / 1_000_000)}MB exceeds the maximum supported size of 2MB")
