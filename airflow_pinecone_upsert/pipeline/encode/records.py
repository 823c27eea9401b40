"""Encoded records: one ``bytes`` for each, in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any, NamedTuple


class EncodedRecords(NamedTuple):
    """
    Records in order, ready to be sent.

    They are kept in columns, because the garbage collector would visit an object for each record.

    :param origins: The file's path or URL that each comes from, or ``XCom``.
    :param rows: The row of each there, counted from 0.
    :param ids: The id of each.
    :param bodies: The bytes of each, in a :class:`airflow_pinecone_upsert.pipeline.encode.wire_format.WireFormat`.
    :param entries: What a manifest will say of each once it is confirmed; empty bytes where there is no manifest.
    :param namespaces: The namespace of each; ``""`` is the default one.
    """

    origins: list[str]
    rows: list[int]
    ids: list[str]
    bodies: list[bytes]
    entries: list[bytes]
    namespaces: list[str]

    @classmethod
    def none(cls) -> EncodedRecords:
        """Return no records."""
        return cls([], [], [], [], [], [])

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """All columns; they have the same length."""
        return self

    def only(self, mask: Iterable[bool]) -> EncodedRecords:
        """
        Keep some of the records.

        :param mask: For each record, whether it stays.
        """
        kept = list(mask)
        return self._map(lambda column: list(compress(column, kept)))

    def extend(self, more: EncodedRecords) -> None:
        """Append more records."""
        for column, others in zip(self.columns, more.columns, strict=True):
            column.extend(others)

    def split(self, count: int) -> tuple[EncodedRecords, EncodedRecords]:
        """Return the first ``count`` records, and the others."""
        return self._map(lambda column: column[:count]), self._map(lambda column: column[count:])

    def by_namespace(self) -> dict[str, EncodedRecords]:
        """Divide the records by their namespaces, each time in order, from the namespace of the first one on."""
        offsets: dict[str, list[int]] = {namespace: [] for namespace in dict.fromkeys(self.namespaces)}
        if len(offsets) == 1:
            return dict.fromkeys(offsets, self)
        for offset, namespace in enumerate(self.namespaces):
            offsets[namespace].append(offset)
        return {namespace: self._at(chosen) for namespace, chosen in offsets.items()}

    def _at(self, offsets: Iterable[int]) -> EncodedRecords:
        return self._map(lambda column: list(map(column.__getitem__, offsets)))

    def _map(self, change: Callable[[list[Any]], list[Any]]) -> EncodedRecords:
        return EncodedRecords(*map(change, self.columns))
