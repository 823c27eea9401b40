"""
Batching: as many records in one request as fit, by count and by exact bytes.

Invariants: order is kept; no body exceeds either bound, but for a single record that is larger than a bound that the
server lowered; a batch ends only where the next record does not fit, or where it has the id of a record in the batch,
because what a server makes of one id twice in a request is not defined.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

log = logging.getLogger(__name__)


class RequestSize:
    """
    How many bytes a body may have, for all batchers of a run.

    :param max_bytes: At most.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes

    def too_large(self, request: UpsertRequest) -> None:
        """
        Remember for the rest of the run that the server rejected the size of a request.

        The halves of this one are sent in any case, so half of its size is what the next batches may have.
        """
        half = len(request.body) // 2
        if len(request) > 1 and half < self.max_bytes:
            self.max_bytes = half
            log.warning(
                "The server rejected the size of a request of %s bytes: further ones have at most %s.",
                f"{len(request.body):,}",
                f"{half:,}",
            )


class Batcher:
    """
    Fills requests greedily.

    :param chunks: Records in order, none of them too long for a request.
    :param envelope: The part of a request's body around the records.
    :param max_records: Records in a request, at most.
    :param size: Bytes of a body, at most; it may become less meanwhile.
    """

    def __init__(
        self, chunks: Iterable[EncodedRecords], envelope: Envelope, *, max_records: int, size: RequestSize
    ) -> None:
        self._chunks = chunks
        self._envelope = envelope
        self._max_records = max_records
        self._size = size
        self._waiting = EncodedRecords.none()

    def __iter__(self) -> Iterator[UpsertRequest]:
        """Yield the requests, in order."""
        for records in self._chunks:
            self.extend(records)
            del records
            yield from self.full()
        yield from self.rest()

    @property
    def waiting(self) -> EncodedRecords:
        """The records that are in no request yet."""
        return self._waiting

    def extend(self, records: EncodedRecords) -> None:
        """Append records to those that wait."""
        self._waiting.extend(records)

    def rest(self) -> Iterator[UpsertRequest]:
        """Yield requests of all records that wait, the last one of which may not be full."""
        while self._waiting.ids:  # also fewer than fit; a lowered bound may make them more than one request
            count = next(self._full_counts(), len(self._waiting.ids))
            yield self._take(count)

    def full(self) -> Iterator[UpsertRequest]:
        """Yield the requests that are certainly full."""
        max_bytes = None
        while max_bytes != self._size.max_bytes:  # counted again where the server has lowered it in between
            max_bytes = self._size.max_bytes
            # All counts before the first batch is taken, because taking shortens what they are counted in.
            for count in list(self._full_counts()):
                yield self._take(count)
                if max_bytes != self._size.max_bytes:
                    break

    def _take(self, count: int) -> UpsertRequest:
        # Removed before it is sent, so that no record is held twice meanwhile.
        taken, self._waiting = self._waiting.split(count)
        return UpsertRequest(taken, self._envelope)

    def _full_counts(self) -> Iterator[int]:
        """Yield the number of records of each batch that is certainly full; what follows the last one may yet grow."""
        ids, bodies = self._waiting.ids, self._waiting.bodies
        max_bytes = self._size.max_bytes - self._envelope.size
        # One separator for each record but the first: count it for all, and allow for one more.
        separator = len(self._envelope.separator)
        ends_at = np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)) + separator)
        start = sent = 0
        while start < len(ids):
            fitting = int(np.searchsorted(ends_at, sent + max_bytes + separator, side="right"))
            stop = start + _before_repeated_id(ids[start : max(start + 1, min(fitting, start + self._max_records))])
            if stop == len(ids) and stop - start < self._max_records:
                return
            yield stop - start
            start, sent = stop, int(ends_at[stop - 1])


def _before_repeated_id(ids: Sequence[str]) -> int:
    """Count the ids before the first one that occurs twice."""
    if len(set(ids)) == len(ids):
        return len(ids)
    seen: set[str] = set()
    for count, record_id in enumerate(ids):
        if record_id in seen:
            return count
        seen.add(record_id)
    raise AssertionError  # pragma: no cover - the lengths differ
