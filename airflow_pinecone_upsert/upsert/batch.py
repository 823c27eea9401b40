"""
As many records in one request as fit, by count and by exact bytes.

What always holds: order is kept; no body exceeds either bound; a batch ends only where the next record would not fit,
or where it has the id of a record in the batch, because what a server makes of one id twice in a request is not defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.upsert.encode import Fragments


@dataclass(frozen=True)
class Envelope:
    """
    What stands around the records in a request's body.

    :param namespace: Left out of the body where it is the default one.
    """

    namespace: str = ""

    @cached_property
    def head(self) -> bytes:
        """What comes before the first record."""
        return b'{"vectors":['

    @cached_property
    def tail(self) -> bytes:
        """What comes behind the last record."""
        return b'],"namespace":%b}' % orjson.dumps(self.namespace) if self.namespace else b"]}"

    @property
    def size(self) -> int:
        """Bytes of the body of an empty batch."""
        return len(self.head) + len(self.tail)


class Rows(NamedTuple):
    """
    Rows of one origin that stand behind one another.

    :param origin: The file's path or URL.
    :param first: The first one.
    :param end: Behind the last one.
    """

    origin: str
    first: int
    end: int


@dataclass(frozen=True)
class Batch:
    """
    The records of one request, as the bytes that travel: nothing else of them is held until the server has answered.

    :param origins: Where each of them comes from, in the order of the source; one or more.
    :param rows: The row of each there.
    :param ids: The id of each, no two the same.
    :param body: The request's body.
    :param lengths: Bytes of each record in it.
    :param envelope: What stands around them.
    :param first: The first one's number among all fragments of the run, from 0.
    """

    origins: Sequence[str]
    rows: Sequence[int]
    ids: Sequence[str]
    body: bytes
    lengths: Sequence[int]
    envelope: Envelope
    first: int = 0

    @classmethod
    def of(cls, fragments: Fragments, envelope: Envelope, first: int = 0) -> Self:
        """Join records."""
        origins, rows, ids, bodies = fragments
        parts = list(bodies)
        # Head and tail go to the records beside them, so that two megabytes are copied once.
        parts[0] = envelope.head + parts[0]
        parts[-1] += envelope.tail
        return cls(origins, rows, ids, b",".join(parts), list(map(len, bodies)), envelope, first)

    def __len__(self) -> int:
        """Count the records."""
        return len(self.ids)

    @property
    def fragments(self) -> Fragments:
        """The records, their JSON cut out of the body."""
        starts = accumulate(self.lengths, lambda start, length: start + length + 1, initial=len(self.envelope.head))
        bodies = [self.body[start : start + length] for start, length in zip(starts, self.lengths, strict=False)]
        return Fragments(list(self.origins), list(self.rows), list(self.ids), bodies)

    @property
    def ranges(self) -> list[Rows]:
        """Where these records stand: one for each origin, in order."""
        found = []
        end = 0
        for origin, group in groupby(self.origins):
            start, end = end, end + len(list(group))
            found.append(Rows(origin, self.rows[start], self.rows[end - 1] + 1))
        return found

    @property
    def place(self) -> str:
        """Where these records stand, for a message."""
        parts = [f"{rows.origin}, rows {rows.first} to {rows.end - 1}" for rows in self.ranges]
        shown = parts if len(parts) <= 2 else [parts[0], "…", parts[-1]]  # noqa: PLR2004
        return "; ".join(shown)

    def halves(self) -> tuple[Self, Self]:
        """Split two or more records in the middle."""
        middle = len(self) // 2
        second = self.fragments
        first = second.take(middle)
        return self.of(first, self.envelope, self.first), self.of(second, self.envelope, self.first + middle)


def fill_batches(
    chunks: Iterable[Fragments], envelope: Envelope, *, max_records: int, max_bytes: int
) -> Iterator[Batch]:
    """
    Fill batches greedily.

    :param chunks: Fragments in order, none of them too long for a request.
    :param envelope: What stands around the records of a request.
    :param max_records: Records in a batch, at the most.
    :param max_bytes: Bytes of a body, at the most.
    :return: Batches, in order.
    """
    waiting = Fragments([], [], [], [])
    first = 0  # the number of the first one that waits

    def take(count: int) -> Batch:
        nonlocal first
        # Taken away before it is sent, so that no record is held twice meanwhile.
        batch = Batch.of(waiting.take(count), envelope, first)
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


def _full_counts(waiting: Fragments, max_records: int, max_bytes: int) -> Iterator[int]:
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
