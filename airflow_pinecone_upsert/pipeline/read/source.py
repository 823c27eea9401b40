"""The protocol of a source of records."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk


class RecordSource(Protocol):
    """Records in a fixed order. ``str()`` describes them for the log."""

    @property
    def identity(self) -> Any:
        """
        A JSON value that differs where a position would mean another record.

        None where a position does not mean the same in a later try, which then starts at the first row.
        """
        ...

    @property
    def not_resumable(self) -> str | None:
        """Why ``identity`` is None, as a clause for the log; None where the user does not expect otherwise."""
        ...

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        """
        Read the records, in bounded memory.

        :param shape: The index that they are for.
        :param start: The first record; None for the first one of all. Given only where there is an identity.
        :raises SourceError: The source as a whole cannot be read.
        """
        ...

    def content_digest(self, position: Position, begun: Collection[str], earlier: Any) -> Any:
        """
        Return a small JSON value that identifies the content before a position, as far as it was read.

        :param position: Every row before it was read.
        :param begun: The origins after it of which rows were read.
        :param earlier: The value of the checkpoint that this try resumed from; None where it began at the first row.
        """
        ...

    def content_change(self, digest: Any) -> str | None:
        """
        Compare the content with what an earlier try read, although ``identity`` is the same.

        :param digest: What :meth:`content_digest` returned.
        :return: What changed, as the log names it; None where nothing did.
        :raises StorageError: The source does not respond.
        """
        ...

    def share_before(self, position: Position) -> float | None:
        """Estimate the share of the source, from 0 to 1, before a position that was read; None where it is unknown."""
        ...
