"""
As many records in one request as fit, by count and by exact bytes.

What always holds: order is kept; no body exceeds either bound; a batch ends only where the next record would not fit,
or where it has the id of a record in the batch, because what a server makes of one id twice in a request is not defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.upsert.encode import Fragments

_PIECE_BYTES: Final = 128 * 1024
"""Of a body, about: smaller ones cost a turn of the interpreter's lock each, larger ones memory that does not come back."""


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


class Joined:
    """
    The body of a request, joined piece by piece while it is sent.

    In one block it would be copied as often, and blocks of two megabytes among those of single records fragment the
    heap: a run of 400,000 records held 13 MB more than one of 20,000, and holds 3 MB more in pieces.

    :param bodies: The JSON object of each record; one or more.
    :param envelope: What stands around them.
    """

    def __init__(self, bodies: Sequence[bytes], envelope: Envelope) -> None:
        self._bodies = bodies
        self._envelope = envelope
        self._size = envelope.size + sum(map(len, bodies)) + len(bodies) - 1

    def __len__(self) -> int:
        """Count the bytes."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes, as often as they are sent."""
        bodies = list(self._bodies)
        records = max(1, len(bodies) * _PIECE_BYTES // self._size)
        starts = range(0, len(bodies), records)
        # Head, tail and commas go to the records beside them, so that the pieces are copied once.
        for start in starts:
            bodies[start] = (b"," if start else self._envelope.head) + bodies[start]
        bodies[-1] += self._envelope.tail
        return (b",".join(bodies[start : start + records]) for start in starts)


@dataclass(frozen=True)
class Batch:
    """
    The records of one request.

    :param fragments: In the order of the source; one or more, no two of the same id.
    :param envelope: What stands around them.
    :param first: The first one's number among all fragments of the run, from 0.
    """

    fragments: Fragments
    envelope: Envelope
    first: int = 0

    def __len__(self) -> int:
        """Count the records."""
        return len(self.ids)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each record."""
        return self.fragments.ids

    @property
    def body(self) -> Joined:
        """The request's body."""
        return Joined(self.fragments.bodies, self.envelope)

    @property
    def ranges(self) -> list[Rows]:
        """Where these records stand: one for each origin, in order."""
        rows = self.fragments.rows
        found = []
        end = 0
        for origin, group in groupby(self.fragments.origins):
            start, end = end, end + len(list(group))
            found.append(Rows(origin, rows[start], rows[end - 1] + 1))
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
        first, second = self.fragments.cut(middle)
        return replace(self, fragments=first), replace(self, fragments=second, first=self.first + middle)


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
        nonlocal waiting, first
        # Taken away before it is sent, so that no record is held twice meanwhile.
        taken, waiting = waiting.cut(count)
        batch = Batch(taken, envelope, first)
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
