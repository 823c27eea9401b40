"""
Batching: as many records in one request as fit, by count and by exact bytes.

Invariants: order is kept; no body exceeds either bound, but for a single record that is larger than a bound that the
server lowered; no body that is longer than the safe reading allows exceeds the bound of its binary size; a batch ends only
where the next record does not fit, or where it has the id of a record in the batch, because what a server makes of one id
twice in a request is not defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.learned_limits import RequestSize
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest


class Batcher:
    """
    Fills requests greedily.

    :param chunks: Records in order, none of them too long for a request.
    :param envelope: The part of a request's body around the records.
    :param max_records: Records in a request, at most.
    :param size: Bytes of a body, at most, for all batchers of a run; it may change meanwhile.
    """

    def __init__(
        self, chunks: Iterable[EncodedRecords], envelope: Envelope, *, max_records: int, size: RequestSize
    ) -> None:
        self._chunks = chunks
        self._envelope = envelope
        self._max_records = max_records
        self._size = size
        self._waiting = EncodedRecords.none()
        self._waiting_ids: set[str] = set()
        self._waiting_bytes = 0

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
        self._waiting_ids.update(records.ids)
        self._waiting_bytes += sum(map(len, records.bodies))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records that wait."""
        return self._waiting_bytes

    def rest(self) -> Iterator[UpsertRequest]:
        """Yield requests of all records that wait, the last one of which may not be full."""
        while self._waiting.ids:  # also fewer than fit; a lowered bound may make them more than one request
            count = next(self._full_counts(), len(self._waiting.ids))
            yield self._take(count)

    def full(self) -> Iterator[UpsertRequest]:
        """Yield the requests that are certainly full."""
        if self._is_too_little():
            return
        max_bytes = None
        while max_bytes != self._size.max_bytes:  # counted again where it has changed in between
            max_bytes = self._size.max_bytes
            # All counts before the first batch is taken, because taking shortens what they are counted in.
            for count in list(self._full_counts()):
                yield self._take(count)
                if max_bytes != self._size.max_bytes:
                    break

    def _take(self, count: int) -> UpsertRequest:
        # Removed before it is sent, so that no record is held twice meanwhile.
        taken, self._waiting = self._waiting.split(count)
        self._waiting_ids = set(self._waiting.ids)
        self._waiting_bytes -= sum(map(len, taken.bodies))
        request = UpsertRequest(taken, self._envelope)
        self._size.made(request)
        return request

    def _is_too_little(self) -> bool:
        """Return whether all that waits fits into a request and leaves room, as is known without a look at each record."""
        count = len(self._waiting.ids)
        body_bytes = self._envelope.size + self._waiting_bytes + len(self._envelope.separator) * count
        size = self._size
        max_bytes = size.max_bytes if size.max_binary is None else min(size.max_bytes, size.max_binary)
        return count < self._max_records and len(self._waiting_ids) == count and body_bytes <= max_bytes

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
            fitting = self._fitting_binary(start, max(start + 1, min(fitting, start + self._max_records)), ends_at)
            stop = start + _before_repeated_id(ids[start:fitting])
            if stop == len(ids) and stop - start < self._max_records:
                return
            yield stop - start
            start, sent = stop, int(ends_at[stop - 1])

    def _fitting_binary(self, start: int, stop: int, ends_at: npt.NDArray[np.int64]) -> int:
        """Return where a batch ends by the binary size of its records, which a short enough body cannot exceed."""
        max_binary = self._size.max_binary
        if max_binary is None or ends_at[stop - 1] - (ends_at[start - 1] if start else 0) <= max_binary:
            return stop
        sizes = np.cumsum(self._envelope.wire_format.binary_sizes(self._waiting.bodies[start:stop]))
        return start + max(1, int(np.searchsorted(sizes, max_binary, side="right")))


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
