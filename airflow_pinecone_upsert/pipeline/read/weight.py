"""
How many bytes the rows of a table or Python records need, so that a chunk has a bounded size whatever they hold.

Invariants:

- Memory is not estimated from the number of rows alone: a row may have 40 KB of metadata, or thousands of keys.
- A dictionary counts as often as its values occur, because they are decoded before they are encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from airflow_pinecone_upsert.pipeline.read.chunk import as_numpy
from airflow_pinecone_upsert.pipeline.read.footer import Leaf

MAX_CHUNK_BYTES: Final = 8_000_000
"""Of all columns of a chunk, as Arrow holds them, and :data:`OBJECT_BYTES` for each value that becomes an object."""

OBJECT_BYTES: Final = 32
"""Of a Python object in a dict, without its text: some take three times as much, and a cached integer takes a third."""

_NESTING: Final = 3
"""Of Python values: texts in a list in a mapping. What is nested deeper is not valid, and not weighed."""

_UNKNOWN_BYTES: Final = 16
"""Of a value of a type that no record may have."""

_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
"""Bytes of a value in Arrow, by its type in Parquet. Others vary in length."""

_Bytes = npt.NDArray[np.int64] | int
"""For each of n rows, or the same for all of them."""


class BatchSizer:
    """
    Cuts batches into pieces of bounded size, and chooses how many rows the next batch has.

    It begins with what is safe by the footer, and then follows what the last batch weighed. A batch has at most twice the
    rows of the one before, so that one whose rows are much heavier is still bounded.

    :param vectors: The columns whose values do not become Python objects.
    :param max_rows: Of a batch.
    :param first_rows: Of the first batch.
    """

    def __init__(self, vectors: Collection[str], max_rows: int, first_rows: int) -> None:
        self._vectors = vectors
        self._max_rows = max_rows
        self._by_type: dict[str, int | None] = {}  # by column: the bytes of each row, where they do not vary
        self.rows = min(max_rows, first_rows)

    def cut(self, batch: pa.RecordBatch, other_bytes: _Bytes = 0) -> list[pa.RecordBatch]:
        """
        Return the batch in pieces of at most :data:`MAX_CHUNK_BYTES` each, but of at least one row.

        :param other_bytes: What each row needs that is not in the batch.
        """
        if not batch.num_rows:
            return []
        ends = np.cumsum(np.full(batch.num_rows, 1, np.int64) * (self._row_bytes(batch) + other_bytes))
        fitting = MAX_CHUNK_BYTES * batch.num_rows // int(ends[-1])
        self.rows = max(1, min(self._max_rows, 2 * self.rows, fitting))
        pieces = []
        start = 0
        while start < batch.num_rows:
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + MAX_CHUNK_BYTES, side="right")))
            pieces.append(batch.slice(start, stop - start))
            start = stop
        return pieces

    def _row_bytes(self, batch: pa.RecordBatch) -> _Bytes:
        total: _Bytes = 1  # no row is free
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            object_bytes = 0 if name in self._vectors else OBJECT_BYTES
            if name not in self._by_type:
                self._by_type[name] = _bytes_by_type(column.type, object_bytes)
            constant = self._by_type[name]
            total = total + (row_bytes(column, object_bytes) if constant is None else constant)
        return total


def rows_by_footer(footer: pq.FileMetaData, leaves: Sequence[Leaf], vectors: Collection[str]) -> int:
    """
    Return how many rows fit into one chunk by what the footer says, if the rows of a row group are of similar size.

    :param leaves: The columns to read. The footer was checked for these.
    :param vectors: Those whose values do not become Python objects.
    """
    heaviest = 1.0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if group.num_rows:
            heaviest = max(heaviest, sum(_bytes_per_row(group, leaf, vectors) for leaf in leaves))
    return max(1, int(MAX_CHUNK_BYTES / heaviest))


def _bytes_per_row(group: pq.RowGroupMetaData, leaf: Leaf, vectors: Collection[str]) -> float:
    chunk = group.column(leaf.number)
    values_per_row = chunk.num_values / group.num_rows
    objects = 0 if leaf.column in vectors else OBJECT_BYTES * values_per_row
    if width := _WIDTHS.get(chunk.physical_type):
        return objects + width * values_per_row
    # One entry of a dictionary may fill it, and every row may have this entry.
    return objects + chunk.total_uncompressed_size / (1 if chunk.has_dictionary_page else group.num_rows)


def python_bytes(value: Any, nesting: int = _NESTING) -> int:
    """
    Estimate how many bytes a Python value needs, as it occurs in a record: 1 µs for metadata of five keys.

    :param value: Texts, one byte a character, numbers, lists, mappings and arrays; any other value counts like a number,
        and a list that begins with a number is one of numbers: no other is valid.
    :param nesting: How many levels of lists and mappings are weighed.
    """
    if isinstance(value, (str, bytes)):
        return OBJECT_BYTES + len(value)
    if isinstance(value, (int, float)) or not nesting:  # first what is frequent: to recognise a mapping takes longer
        return OBJECT_BYTES
    if isinstance(value, np.ndarray):
        return OBJECT_BYTES + value.nbytes
    items: Collection[Any] = ()
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], (int, float)):
            return OBJECT_BYTES * len(value)
        items = value
    elif isinstance(value, Mapping):
        items = [*value, *value.values()]
    total = OBJECT_BYTES
    for item in items:  # most of them are texts: a call for each would take as long as all the rest
        total += OBJECT_BYTES + len(item) if isinstance(item, str) else python_bytes(item, nesting - 1)
    return total


def _bytes_by_type(kind: pa.DataType, object_bytes: int) -> int | None:
    """Return what :func:`row_bytes` returns for every array of a type; None where it depends on the values."""
    if types.is_struct(kind):
        children = [_bytes_by_type(kind.field(number).type, object_bytes) for number in range(kind.num_fields)]
        return None if None in children else sum(filter(None, children))
    if types.is_fixed_size_list(kind):
        child = _bytes_by_type(kind.value_type, object_bytes)
        return None if child is None else child * kind.list_size
    if types.is_primitive(kind):
        return object_bytes + kind.bit_width // 8
    return None


def row_bytes(column: pa.Array[Any], object_bytes: int) -> _Bytes:  # noqa: PLR0911 - one case per type
    """
    Return how many bytes each row of a column needs.

    :param object_bytes: For each value in it, whatever its type.
    """
    match column:
        case pa.ExtensionArray():
            return row_bytes(column.storage, object_bytes)
        case pa.DictionaryArray():
            return _of_dictionary(column, object_bytes)
        case pa.StructArray():
            total: _Bytes = 0
            for child in column.flatten():
                total = total + row_bytes(child, object_bytes)
            return total
        case pa.MapArray():  # before its base class, the list
            entries = row_bytes(column.keys, object_bytes) + row_bytes(column.items, object_bytes)
            return _sums(entries, as_numpy(column.offsets))
        case pa.ListArray() | pa.LargeListArray():
            return _sums(row_bytes(column.values, object_bytes), as_numpy(column.offsets))
        case pa.FixedSizeListArray():
            return _of_fixed_size_lists(column, object_bytes)
    return object_bytes + _of_plain(column)


def _of_plain(column: pa.Array[Any]) -> _Bytes:
    kind = column.type
    if types.is_string(kind) or types.is_binary(kind):
        return np.diff(_numbers(column, np.int32, len(column) + 1)).astype(np.int64)
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return np.diff(_numbers(column, np.int64, len(column) + 1))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        views = _numbers(column, "4i4", len(column))  # the first of four numbers is the length
        return views[:, 0].astype(np.int64)
    return kind.bit_width // 8 if types.is_primitive(kind) else _UNKNOWN_BYTES


def _numbers(column: pa.Array[Any], dtype: Any, count: int) -> npt.NDArray[Any]:
    """View the second buffer of an array: the offsets of texts, or fixed-width values, those of nulls included."""
    buffer = column.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(count, np.dtype(dtype))
    numbers: npt.NDArray[Any] = np.frombuffer(memoryview(buffer), dtype)
    return numbers[column.offset : column.offset + count]


def _of_dictionary(column: pa.DictionaryArray[Any, Any], object_bytes: int) -> _Bytes:
    entries = row_bytes(column.dictionary, object_bytes)
    if isinstance(entries, int):
        return entries
    if not len(entries):
        return object_bytes
    indices = _numbers(column.indices, column.indices.type.to_pandas_dtype(), len(column)).astype(np.int64)
    of_each: npt.NDArray[np.int64] = entries[np.clip(indices, 0, len(entries) - 1)]  # that of a null may be anything
    return of_each


def _of_fixed_size_lists(column: pa.FixedSizeListArray[Any, Any], object_bytes: int) -> _Bytes:
    size = column.type.list_size
    entries = row_bytes(column.values, object_bytes)
    if isinstance(entries, int):
        return int(entries * size)
    own = entries[column.offset * size : (column.offset + len(column)) * size]
    sums: npt.NDArray[np.int64] = own.reshape(-1, size).sum(axis=1)
    return sums


def _sums(entries: _Bytes, offsets: npt.NDArray[np.int64]) -> _Bytes:
    """Return the sum of the entries between each two offsets."""
    if isinstance(entries, int):
        return np.diff(offsets).astype(np.int64) * entries
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(entries)])
    return np.diff(ends[offsets])
