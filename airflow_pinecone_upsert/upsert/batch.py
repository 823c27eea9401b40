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

from airflow_pinecone_upsert.upsert.encode import Fragments, RecordRef


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

    def include(self, ref: RecordRef) -> bool:
        """Tell whether a record's row is one of them."""
        return ref.origin == self.origin and self.first <= ref.row < self.end


@dataclass(frozen=True)
class Batch:
    """
    The records of one request, as the bytes that travel: nothing else of them is held until the server has answered.

    :param refs: Which they are: one or more, in the order of the source.
    :param body: The request's body.
    :param lengths: Bytes of each record in it.
    :param envelope: What stands around them.
    :param first: The first one's number among all fragments of the run, from 0.
    """

    refs: Sequence[RecordRef]
    body: bytes
    lengths: Sequence[int]
    envelope: Envelope
    first: int = 0

    @classmethod
    def of(cls, refs: Sequence[RecordRef], bodies: Sequence[bytes], envelope: Envelope, first: int = 0) -> Self:
        """
        Join records.

        :param bodies: The JSON object of each.
        """
        parts = list(bodies)
        # Head and tail go to the records beside them, so that two megabytes are copied once.
        parts[0] = envelope.head + parts[0]
        parts[-1] += envelope.tail
        return cls(refs, b",".join(parts), list(map(len, bodies)), envelope, first)

    def __len__(self) -> int:
        """Count the records."""
        return len(self.refs)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids, each once."""
        return frozenset(ref.id for ref in self.refs)

    @property
    def bodies(self) -> list[bytes]:
        """The JSON object of each record, cut out of the body."""
        starts = accumulate(self.lengths, lambda start, length: start + length + 1, initial=len(self.envelope.head))
        return [self.body[start : start + length] for start, length in zip(starts, self.lengths, strict=False)]

    @property
    def rows(self) -> list[Rows]:
        """Where these records stand: one for each origin, in order."""
        groups = groupby(self.refs, key=lambda ref: ref.origin)
        rows = [(origin, [ref.row for ref in group]) for origin, group in groups]
        return [Rows(origin, numbers[0], numbers[-1] + 1) for origin, numbers in rows]

    @property
    def place(self) -> str:
        """Where these records stand, for a message."""
        parts = [f"{rows.origin}, rows {rows.first} to {rows.end - 1}" for rows in self.rows]
        shown = parts if len(parts) <= 2 else [parts[0], "…", parts[-1]]  # noqa: PLR2004
        return "; ".join(shown)

    def halves(self) -> tuple[Self, Self]:
        """Split two or more records in the middle."""
        middle = len(self) // 2
        refs, bodies = self.refs, self.bodies
        return (
            self.of(refs[:middle], bodies[:middle], self.envelope, self.first),
            self.of(refs[middle:], bodies[middle:], self.envelope, self.first + middle),
        )


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
    refs: list[RecordRef] = []
    bodies: list[bytes] = []
    first = 0  # the number of refs[0]

    def take(count: int) -> Batch:
        nonlocal first
        batch = Batch.of(refs[:count], bodies[:count], envelope, first)
        # Before it is sent, so that no record is held twice meanwhile.
        del refs[:count], bodies[:count]
        first += count
        return batch

    for fragments in chunks:
        refs += fragments.refs
        bodies += fragments.bodies
        del fragments
        # All counts before the first batch is taken, because that shortens what they are counted in.
        for count in list(_full_counts(refs, bodies, max_records, max_bytes - envelope.size)):
            yield take(count)
    if refs:
        yield take(len(refs))


def _full_counts(refs: Sequence[RecordRef], bodies: Sequence[bytes], max_records: int, max_bytes: int) -> Iterator[int]:
    """Yield the records of each batch that is full for certain; what is behind the last one may be filled up yet."""
    # One comma for each record but the first: count it for all, and allow one more byte.
    ends_at = np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)) + 1)
    start = sent = 0
    while start < len(refs):
        by_bytes = int(np.searchsorted(ends_at, sent + max_bytes + 1, side="right"))
        end = _before_repeated_id(refs, start, min(by_bytes, start + max_records))
        if end == len(refs) and end - start < max_records:
            return
        yield end - start
        start, sent = end, int(ends_at[end - 1])


def _before_repeated_id(refs: Sequence[RecordRef], start: int, end: int) -> int:
    ids = [ref.id for ref in refs[start:end]]
    if len(set(ids)) == len(ids):
        return min(end, len(refs))
    seen: set[str] = set()
    for offset, record_id in enumerate(ids):
        if record_id in seen:
            return start + offset
        seen.add(record_id)
    raise AssertionError  # pragma: no cover - the lengths differ
