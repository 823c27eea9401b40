"""
Chunks: some hundred records as Arrow columns under the names ``id, values, sparse_values, metadata``.

A column's shape is checked once, by its type; what the values hold is the encoder's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.violation import Violation

XCOM: Final = "XCom"
"""The origin of records that come from no file."""

PARTS: Final[Mapping[str, str]] = {name: name for name in ("id", "values", "sparse_values", "metadata")}
"""The parts of a record, under the names that they have where no user named columns."""


_CHUNK_BYTES: Final = 2_000_000
"""Of float32 components in one chunk: some hundred records, so that Arrow's and our copies of it stay small."""

_MAX_CHUNK_ROWS: Final = 2_000


def rows_per_chunk(shape: IndexShape) -> int:
    """Tell how many records a source puts into one chunk."""
    return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // (4 * (shape.dimension or 1_536))))


@dataclass(frozen=True)
class Chunk:
    """
    Rows of one origin that stand behind one another.

    :param origin: The file's path or URL, or ``XCom``.
    :param first_row: Row of ``records[0]`` in the origin, counted from 0.
    :param records: ``id``, and those of ``values``, ``sparse_values`` and ``metadata`` that exist.
    :param names: What the user calls these columns.
    :param problems: What the source itself found, by offset in ``records``; such a row is null there.
    :param rows: The records as Python holds them, where they came so; as long as ``records``.
    """

    origin: str
    first_row: int
    records: pa.RecordBatch
    names: Mapping[str, str]
    problems: Mapping[int, Violation] = field(default_factory=dict)
    rows: Sequence[Any] = ()


def as_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """
    View an array without nulls as numpy, without a copy unless it is boolean.

    By DLPack, because every other way imports pandas where it is installed, for 30 MB and a third of a second.
    """
    if types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(array)
