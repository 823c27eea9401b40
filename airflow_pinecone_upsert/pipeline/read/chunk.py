"""
Chunks: a few hundred records as Arrow columns under the names ``id``, ``values``, ``sparse_values`` and ``metadata``.

The types of the columns were checked when the source was opened; the encoder checks the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.position import RowRange
from airflow_pinecone_upsert.pipeline.violation import Violation

XCOM: Final = "XCom"
"""The origin of records that come from no file."""

PARTS: Final[Mapping[str, str]] = {name: name for name in ("id", "values", "sparse_values", "metadata")}
"""The parts of a record, under the names that they have where the user named no columns."""

NAMESPACE: Final = "namespace"
"""The column of the namespace that each record names, where records name them."""

_CHUNK_BYTES: Final = 2_000_000
"""Of float32 components in one chunk: a few hundred records, so that Arrow's and our copies of it stay small."""

_MAX_CHUNK_ROWS: Final = 2_000


def rows_per_chunk(shape: IndexShape) -> int:
    """Return how many records a source puts into one chunk."""
    return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // (4 * (shape.dimension or 1_536))))


@dataclass(frozen=True)
class Chunk:
    """
    Rows of one origin, in order.

    :param origin: The file's path or URL, or ``XCom``.
    :param rows: The row of each record in the origin, counted from 0, ascending; one or more.
    :param records: ``id``, and those of ``values``, ``sparse_values``, ``metadata`` and ``namespace`` that exist.
    :param names: What the user calls these columns.
    :param violations: What the source itself found, by offset in ``records``; such a row is null there.
    :param metadata: The metadata as Python values, instead of a column: mappings, JSON texts, or nothing.
    :param objects: The records as Python objects, where they came so.
    """

    origin: str
    rows: Sequence[int]
    records: pa.RecordBatch
    names: Mapping[str, str]
    violations: Mapping[int, Violation] = field(default_factory=dict)
    metadata: Sequence[Any] | None = None
    objects: Sequence[Any] = ()

    @property
    def row_range(self) -> RowRange:
        """The rows from the first to the last."""
        return RowRange(self.origin, self.rows[0], self.rows[-1] + 1)

    def only(self, mask: npt.NDArray[np.bool_]) -> Chunk:
        """
        Keep some of the records.

        :param mask: For each record, whether it stays. Shape (n,).
        """
        offsets = np.flatnonzero(mask).tolist()
        if not offsets:  # without a filter, which costs as much as comparing the records
            return Chunk(self.origin, [], self.records.slice(0, 0), self.names, {}, self.metadata and [])
        violations = {new: self.violations[old] for new, old in enumerate(offsets) if old in self.violations}
        return Chunk(
            self.origin,
            list(compress(self.rows, mask)),
            self.records.filter(as_mask(mask)),
            self.names,
            violations,
            None if self.metadata is None else list(compress(self.metadata, mask)),
            list(compress(self.objects, mask)),
        )


def stored_value(column: pa.Array[Any]) -> bytes | int | None:
    """Return what the value of one row is stored as, for values that Python does not have; None if that is unknown."""
    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        encoded: bytes = column[0].as_buffer().to_pybytes()
        return encoded
    if types.is_temporal(kind):
        ticks: int = column.view(pa.int32() if kind.bit_width == pa.int32().bit_width else pa.int64())[0].as_py()
        return ticks
    return None


def list_array(rows: Sequence[np.ndarray[Any, Any] | None], kind: pa.DataType) -> pa.ListArray[Any]:
    """Make a column of lists from arrays; None becomes null."""
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [row for row in rows if row is not None]
    flat = np.concatenate(present) if present else np.empty(0)
    mask = pa.array([row is None for row in rows])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, kind), mask=mask)


def without_dictionary(column: pa.DictionaryArray[Any, Any]) -> pa.Array[Any]:
    """Decode a dictionary, also one of string views, as Polars makes: Arrow itself cannot."""
    if types.is_string_view(column.dictionary.type):
        column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.large_string()))
    return column.dictionary_decode()


def as_numpy(array: pa.Array[Any]) -> npt.NDArray[Any]:
    """
    View an array without nulls as numpy, without a copy unless it is boolean.

    By DLPack, because every other way imports pandas where it is installed, for 30 MB and a third of a second.
    """
    if types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(array)


def as_mask(mask: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """Return booleans as Arrow has them, without pandas, which ``pa.array`` imports for an array of numpy."""
    bits = np.packbits(mask, bitorder="little").tobytes()
    array: pa.BooleanArray = pa.Array.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(bits)])  # type: ignore[assignment]
    return array
