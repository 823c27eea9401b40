"""
Grouping: the records of one namespace share requests, also where those of many namespaces alternate in the source.

A request is for one namespace. Sorted by namespace, records fill requests as those of a single namespace do. Otherwise
they wait in a window for others of their namespace, and the namespace whose first record has waited longest leaves it
first: where n namespaces alternate evenly, a request gets twice the n-th part of the window.

Invariants: the order within a namespace is kept; what waits is bounded by the window and one chunk; and so is, by twice the
window, what was read after a record that waits, so that little is read again after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest

WINDOW_BYTES: Final = 32_000_000
"""Of encoded records that wait for others of their namespace."""

_RECORD_BYTES: Final = 500
"""What a record counts besides its bytes: its id, row and entries are in memory, too; and it bounds the number of rows."""

_MAX_AGE: Final = 2
"""How many windows may pass while a record waits."""


@dataclass
class _Group:
    """
    The records of one namespace that wait.

    :param batcher: Holds them.
    :param since: How much had passed when the first of them came.
    :param size: How much they are.
    """

    batcher: Batcher
    since: int
    size: int = 0


class NamespaceBatcher:
    """
    Fills requests with records of one namespace each.

    :param chunks: Records in order, none of them too long for a request.
    :param create: Returns the batcher of a namespace.
    :param window_bytes: How much may wait.
    """

    def __init__(
        self,
        chunks: Iterable[EncodedRecords],
        create: Callable[[str], Batcher],
        *,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._chunks = chunks
        self._create = create
        self._window = window_bytes
        self._groups: dict[str, _Group] = {}  # the one whose first record has waited longest is the first
        self._size = 0  # of all that wait
        self._passed = 0  # of all that came

    def __iter__(self) -> Iterator[UpsertRequest]:
        """Yield the requests; those of one namespace in order."""
        for records in self._chunks:
            parts = records.by_namespace()
            del records  # what is sent must not be held here
            since = self._passed
            while parts:
                namespace = next(iter(parts))
                yield from self._add(namespace, parts.pop(namespace), since)
                yield from self._evicted()
        self._window = -1
        yield from self._evicted()

    def _add(self, namespace: str, records: EncodedRecords, since: int) -> Iterator[UpsertRequest]:
        group = self._groups.get(namespace) or _Group(self._create(namespace), since)
        self._passed += _counted(sum(map(len, records.bodies)), len(records.ids))
        waited = len(group.batcher.waiting.ids)
        group.batcher.extend(records)
        del records
        for request in group.batcher.full():
            waited -= len(request)
            if waited <= 0:  # what still waits came just now, and is the last to leave
                group.since = since
                self._groups.pop(namespace, None)
            yield request
        size = _counted(group.batcher.waiting_bytes, len(group.batcher.waiting.ids))
        self._size += size - group.size
        group.size = size
        if size:
            self._groups[namespace] = group

    def _evicted(self) -> Iterator[UpsertRequest]:
        while self._groups:
            namespace, group = next(iter(self._groups.items()))
            if self._size <= self._window and self._passed - group.since <= _MAX_AGE * self._window:
                return
            del self._groups[namespace]
            self._size -= group.size
            yield from group.batcher.rest()


def _counted(body_bytes: int, records: int) -> int:
    return body_bytes + _RECORD_BYTES * records
