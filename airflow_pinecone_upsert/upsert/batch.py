"""
As many records in one request as fit, by count and by exact bytes.

What always holds: order is kept; no body exceeds either bound; a batch ends only where the next record would not fit,
or where it has the id of a record in the batch, because what a server makes of one id twice in a request is not defined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import orjson

from airflow_pinecone_upsert.upsert.encode import Fragment


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

    def include(self, fragment: Fragment) -> bool:
        """Tell whether a record's row is one of them."""
        return fragment.origin == self.origin and self.first <= fragment.row < self.end


@dataclass(frozen=True)
class Batch:
    """
    The records of one request.

    :param fragments: One or more, in the order of the source.
    :param envelope: What stands around them.
    :param first: The first one's number among all fragments of the run, from 0.
    """

    fragments: Sequence[Fragment]
    envelope: Envelope
    first: int = 0

    def __len__(self) -> int:
        """Count the records."""
        return len(self.fragments)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids, each once."""
        return frozenset(fragment.id for fragment in self.fragments)

    @property
    def body(self) -> bytes:
        """The request's body, the same bytes each time. Joined anew, so that a waiting batch is not held twice."""
        parts = [fragment.body for fragment in self.fragments]
        # Head and tail go to the records beside them, so that two megabytes are copied once.
        parts[0] = self.envelope.head + parts[0]
        parts[-1] += self.envelope.tail
        return b",".join(parts)

    @property
    def rows(self) -> list[Rows]:
        """Where these records stand: one for each origin, in order."""
        groups = groupby(self.fragments, key=lambda fragment: fragment.origin)
        rows = [(origin, [fragment.row for fragment in group]) for origin, group in groups]
        return [Rows(origin, numbers[0], numbers[-1] + 1) for origin, numbers in rows]

    @property
    def place(self) -> str:
        """Where these records stand, for a message."""
        parts = [f"{rows.origin}, rows {rows.first} to {rows.end - 1}" for rows in self.rows]
        shown = parts if len(parts) <= 2 else [parts[0], "…", parts[-1]]  # noqa: PLR2004
        return "; ".join(shown)

    def halves(self) -> tuple[Batch, Batch]:
        """Split two or more records in the middle."""
        middle = len(self.fragments) // 2
        return (
            Batch(self.fragments[:middle], self.envelope, self.first),
            Batch(self.fragments[middle:], self.envelope, self.first + middle),
        )


def fill_batches(
    chunks: Iterable[Sequence[Fragment]], envelope: Envelope, *, max_records: int, max_bytes: int
) -> Iterator[Batch]:
    """
    Fill batches greedily.

    :param chunks: Fragments in order, none of them too long for a request.
    :param envelope: What stands around the records of a request.
    :param max_records: Records in a batch, at the most.
    :param max_bytes: Bytes of a body, at the most.
    :return: Batches, in order.
    """
    pending: list[Fragment] = []
    first = 0  # the number of pending[0]
    for fragments in chunks:
        pending += fragments
        start = 0
        for end in _full_ends(pending, max_records, max_bytes - envelope.size):
            yield Batch(pending[start:end], envelope, first + start)
            start = end
        del pending[:start]
        first += start
    if pending:
        yield Batch(pending, envelope, first)


def _full_ends(fragments: Sequence[Fragment], max_records: int, max_bytes: int) -> Iterator[int]:
    """Yield the end of each batch that is full for certain; what is behind the last one may be filled up yet."""
    # One comma for each record but the first: count it for all, and allow one more byte.
    lengths = np.fromiter((len(fragment.body) + 1 for fragment in fragments), np.int64, len(fragments))
    ends_at = np.cumsum(lengths)
    start = sent = 0
    while start < len(fragments):
        by_bytes = int(np.searchsorted(ends_at, sent + max_bytes + 1, side="right"))
        end = _before_repeated_id(fragments, start, min(by_bytes, start + max_records))
        if end == len(fragments) and end - start < max_records:
            return
        yield end
        start, sent = end, int(ends_at[end - 1])


def _before_repeated_id(fragments: Sequence[Fragment], start: int, end: int) -> int:
    ids = [fragment.id for fragment in fragments[start:end]]
    if len(set(ids)) == len(ids):
        return min(end, len(fragments))
    seen: set[str] = set()
    for offset, record_id in enumerate(ids):
        if record_id in seen:
            return start + offset
        seen.add(record_id)
    raise AssertionError  # pragma: no cover - the lengths differ
