"""The filter of rows that earlier tries settled: they are neither encoded nor sent again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from typing_extensions import Self

from airflow_pinecone_upsert.pipeline.position import RowRange
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.track.checkpoint import CheckpointState


class SettledRows:
    """
    Rows that are settled already.

    :param ranges: As a checkpoint has them.
    """

    def __init__(self, ranges: Iterable[RowRange] = ()) -> None:
        self._ranges: defaultdict[str, list[RowRange]] = defaultdict(list)
        for rows in ranges:
            self._ranges[rows.origin].append(rows)

    @classmethod
    def of(cls, state: CheckpointState | None) -> Self:
        """Return the rows that a checkpoint says are settled after its position."""
        return cls(state.settled_after if state else ())

    def pending(self, chunk: Chunk) -> Chunk:
        """Return the rows of a chunk that are not settled; the chunk itself where none is."""
        rows = chunk.row_range
        settled = [one for one in self._ranges.get(rows.origin, ()) if one.start < rows.stop and one.stop > rows.start]
        if not settled:
            return chunk
        numbers = np.asarray(chunk.rows)
        mask = np.ones(len(numbers), bool)
        for one in settled:
            mask &= (numbers < one.start) | (numbers >= one.stop)
        return chunk.only(mask)
