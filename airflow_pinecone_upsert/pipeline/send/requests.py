"""Requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Final

import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedRecords
from airflow_pinecone_upsert.pipeline.position import RowRange

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


class RequestBody:
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
class UpsertRequest:
    """
    The records of one request.

    :param fragments: In the order of the source; one or more, no two of the same id.
    :param envelope: What stands around them.
    :param first: The first one's number among all fragments of the run, from 0.
    """

    fragments: EncodedRecords
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
    def body(self) -> RequestBody:
        """The request's body."""
        return RequestBody(self.fragments.bodies, self.envelope)

    @property
    def ranges(self) -> list[RowRange]:
        """Where these records stand: one for each origin, in order."""
        rows = self.fragments.rows
        found = []
        end = 0
        for origin, group in groupby(self.fragments.origins):
            start, end = end, end + len(list(group))
            found.append(RowRange(origin, rows[start], rows[end - 1] + 1))
        return found

    @property
    def place(self) -> str:
        """Where these records stand, for a message."""
        parts = [f"{rows.origin}, rows {rows.first} to {rows.end - 1}" for rows in self.ranges]
        preview = parts if len(parts) <= 2 else [parts[0], "…", parts[-1]]  # noqa: PLR2004
        return "; ".join(preview)

    def halves(self) -> tuple[Self, Self]:
        """Split two or more records in the middle."""
        middle = len(self) // 2
        first, second = self.fragments.cut(middle)
        return replace(self, fragments=first), replace(self, fragments=second, first=self.first + middle)
