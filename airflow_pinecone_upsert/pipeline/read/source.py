"""The protocol of a source of records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk


class RecordSource(Protocol):
    """Records in a fixed order."""

    @property
    def identity(self) -> Any:
        """What JSON can hold, and what differs where a place in it would mean another record; None: no place lasts."""
        ...

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        """
        Read the records.

        :param shape: The index they are for.
        :param start: The first record; None for the first one of all. Given only where there is an identity.
        :raises SourceError: The source as a whole cannot be read.
        """
        ...

    def share_before(self, place: Position) -> float | None:
        """Estimate which share of the source, from 0 to 1, lies before a place that was read; None: not known."""
        ...
