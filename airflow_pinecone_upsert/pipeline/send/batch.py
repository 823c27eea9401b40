"""
As many records in one request as fit, by count and by exact bytes.

What always holds: order is kept; no body exceeds either bound; a batch ends only where the next record would not fit,
or where it has the id of a record in the batch, because what a server makes of one id twice in a request is not defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest


def fill_batches(
    chunks: Iterable[EncodedRecords], envelope: Envelope, *, max_records: int, max_bytes: int
) -> Iterator[UpsertRequest]:
    """
    Fill batches greedily.

    :param chunks: Fragments in order, none of them too long for a request.
    :param envelope: What stands around the records of a request.
    :param max_records: Records in a batch, at the most.
    :param max_bytes: Bytes of a body, at the most.
    :return: Batches, in order.
    """
    waiting = EncodedRecords([], [], [], [])
    first = 0  # the number of the first one that waits

    def take(count: int) -> UpsertRequest:
        nonlocal waiting, first
        # Taken away before it is sent, so that no record is held twice meanwhile.
        taken, waiting = waiting.cut(count)
        batch = UpsertRequest(taken, envelope, first)
        first += count
        return batch

    for fragments in chunks:
        waiting.add(fragments)
        del fragments
        # All counts before the first batch is taken, because that shortens what they are counted in.
        for count in list(_full_counts(waiting, max_records, max_bytes - envelope.size)):
            yield take(count)
    if waiting.ids:
        yield take(len(waiting.ids))


def _full_counts(waiting: EncodedRecords, max_records: int, max_bytes: int) -> Iterator[int]:
    """Yield the records of each batch that is full for certain; what is behind the last one may be filled up yet."""
    ids, bodies = waiting.ids, waiting.bodies
    # One comma for each record but the first: count it for all, and allow one more byte.
    ends_at = np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)) + 1)
    start = sent = 0
    while start < len(ids):
        by_bytes = int(np.searchsorted(ends_at, sent + max_bytes + 1, side="right"))
        end = start + _before_repeated_id(ids[start : min(by_bytes, start + max_records)])
        if end == len(ids) and end - start < max_records:
            return
        yield end - start
        start, sent = end, int(ends_at[end - 1])


def _before_repeated_id(ids: Sequence[str]) -> int:
    """Count the ids before the first one that stands twice."""
    if len(set(ids)) == len(ids):
        return len(ids)
    seen: set[str] = set()
    for count, record_id in enumerate(ids):
        if record_id in seen:
            return count
        seen.add(record_id)
    raise AssertionError  # pragma: no cover - the lengths differ
