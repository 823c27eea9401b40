"""
The encoder: from Arrow columns to the bytes of each record, in JSON or protobuf, with every rule checked.

Invariants: an encoded record is complete and valid by Pinecone's limits; a float32 is written so that it reads back bit
for bit, in JSON in its shortest such form; no Python object is created for a component of a vector.

A rule checks a whole column at once. orjson writes NaN as ``null``, so finiteness is checked before encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.limits import (
    MAX_DECODED_REQUEST_BYTES,
    MAX_DIMENSION,
    MAX_METADATA_BYTES,
    MAX_SPARSE_INDEX,
    MAX_SPARSE_VALUES,
)
from airflow_pinecone_upsert.exceptions import RecordError, SetupError, SourceError
from airflow_pinecone_upsert.pipeline.encode.ids import check_ids
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.metadata import metadata_rows, metadata_values, too_long
from airflow_pinecone_upsert.pipeline.encode.namespaces import check_namespaces
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.encode.vector_forms import plain_lists
from airflow_pinecone_upsert.pipeline.encode.wire_format import Vector, WireFormat
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk, as_numpy
from airflow_pinecone_upsert.pipeline.violation import Violation, preview

_Offsets = npt.NDArray[np.int64]

_ROUNDED_TWICE: Final = np.uint32(0x15AE43FD)
"""
7.038531e-26: its shortest form, read as a double and then rounded to float32 as a server may do, is its neighbour.

It is the only one: all 2**31 float32 of one sign were written by orjson 3.13 and read in this way.
"""

_FIX_VECTOR: Final = "Fix the embedding or drop the record."


class EncodedChunk(NamedTuple):
    """
    The rows of a chunk: each of them is one or the other.

    :param records: The valid ones.
    :param errors: The invalid ones, in order: the first rule that each breaks.
    """

    records: EncodedRecords
    errors: list[RecordError]


def encode(
    chunk: Chunk, shape: IndexShape, *, max_bytes: int, wire_format: WireFormat = JSON, namespace: str = ""
) -> EncodedChunk:
    """
    Encode the records of a chunk.

    :param chunk: The records.
    :param shape: The index they are for.
    :param max_bytes: The longest record that fits into a request for the namespace of the run.
    :param wire_format: How the records are written.
    :param namespace: That of the run, for records that name none.
    :raises SourceError: No value of a column can be read, for example because its time zone is unknown.
    :raises SetupError: There are sparse vectors, and the index takes none next to dense ones.
    """
    return _Encoder(chunk, shape, max_bytes, wire_format, namespace).run()


class _Encoder:
    """The columns of one chunk, and the first broken rule of each row."""

    def __init__(
        self, chunk: Chunk, shape: IndexShape, max_bytes: int, wire_format: WireFormat, namespace: str
    ) -> None:
        self._chunk = chunk
        self._namespace = namespace
        self._shape = shape
        self._max_bytes = max_bytes
        self._wire_format = wire_format
        self._violations: dict[int, Violation] = dict(chunk.violations)
        self._ids: list[str] = []

    def run(self) -> EncodedChunk:
        self._ids, violations = check_ids(self._chunk.records.column("id"), self._chunk.names["id"])
        self._add(violations.items())
        namespaces, violations = check_namespaces(self._chunk, self._namespace)
        self._add(violations.items())
        dense = self._dense()
        sparse = self._sparse()
        self._check_parts(dense, sparse)
        metadata = self._metadata()
        nothing: repeat[None] = repeat(None)
        bodies = self._bodies(self._ids, dense or nothing, sparse or nothing, metadata or nothing)
        self._check_sizes(bodies, metadata, namespaces)
        chunk, count = self._chunk, len(bodies)
        entries = [b""] * count
        records = EncodedRecords([chunk.origin] * count, list(chunk.rows), self._ids, bodies, entries, namespaces)
        if not self._violations:
            return EncodedChunk(records, [])
        valid = records.only(offset not in self._violations for offset in range(count))
        return EncodedChunk(
            valid, [self._error(offset, self._violations[offset]) for offset in sorted(self._violations)]
        )

    def _bodies(self, *parts: Iterable[Any]) -> list[bytes]:
        try:
            return list(map(self._wire_format.encode, *parts))
        except UnicodeError:  # lone surrogates in metadata that came as Python values: find the records that have them
            return [self._body_of_text(offset, *record) for offset, record in enumerate(zip(*parts, strict=False))]

    def _body_of_text(self, offset: int, *parts: Any) -> bytes:
        try:
            return self._wire_format.encode(*parts)
        except UnicodeError as exc:
            reason, remedy = f"not valid Unicode ({exc})", "Fix the text's encoding."
            self._add([(offset, Violation(self._chunk.names["metadata"], reason, remedy))])
            return b""

    def _error(self, offset: int, violation: Violation) -> RecordError:
        return RecordError(
            violation.reason,
            remedy=violation.remedy,
            origin=self._chunk.origin,
            row=self._chunk.rows[offset],
            record_id=None if violation.field == self._chunk.names["id"] else self._ids[offset] or None,
            field=violation.field,
            value=violation.value,
        )

    def _note(
        self,
        offsets: _Offsets,
        field: str,
        reason: str | Callable[[int], str],
        remedy: str,
        value: Callable[[int], Any],
    ) -> None:
        """Note a rule that rows break."""
        texts = {offset: reason if isinstance(reason, str) else reason(offset) for offset in offsets.tolist()}
        self._add((offset, Violation(field, text, remedy, preview(value(offset)))) for offset, text in texts.items())

    def _add(self, violations: Iterable[tuple[int, Violation]]) -> None:
        """Keep the first broken rule of each row."""
        for offset, violation in violations:
            self._violations.setdefault(offset, violation)

    # Dense vectors -------------------------------------------------------------------------------

    def _dense(self) -> list[Vector | None] | None:
        column = self._column("values")
        if column is None:
            return None
        name = self._chunk.names["values"]
        column, violations = plain_lists(column, name)
        self._add(violations.items())
        lists = _Lists(column)
        flat = self._float32(lists, name)
        vectors = self._split(lists, flat)
        lengths = lists.lengths
        present = lists.present
        dimension = self._shape.dimension
        self._note(np.flatnonzero(present & (lengths == 0)), name, "the vector is empty", _FIX_VECTOR, lambda _: [])
        if self._shape.sparse:
            remedy = "Leave the column null, or name an index for dense vectors."
            self._note(
                np.flatnonzero(present), name, "the index holds sparse vectors only", remedy, lambda o: vectors[o]
            )
        elif dimension is not None:
            wrong = np.flatnonzero(present & (lengths != dimension))
            remedy = f"The index has {dimension} dimensions. Embed with the model that it was made for."
            self._note(wrong, name, f"the vector must have {dimension} components", remedy, lengths.__getitem__)
        self._note(
            np.flatnonzero(present & (lengths > MAX_DIMENSION)),
            name,
            f"a vector has at most {MAX_DIMENSION:,} components",
            _FIX_VECTOR,
            lengths.__getitem__,
        )
        filled = np.flatnonzero(lengths)
        suspects = filled[flat[lists.starts[filled]] == 0]
        zero = np.array([row for row in suspects if not vectors[row].any()], np.int64)
        reason = "a dense vector must have at least one component that is not zero (after rounding to float32)"
        self._note(zero, name, reason, _FIX_VECTOR, lambda offset: vectors[offset])
        return vectors

    def _float32(self, lists: _Lists, name: str) -> Vector:
        """Round to float32, once, and check that every component is a finite number."""
        self._note(lists.rows_of_nulls(), name, "a component is null", _FIX_VECTOR, lambda _: None)
        wide = _to_numpy(lists.flat)
        with np.errstate(over="ignore", under="ignore"):
            narrow = np.ascontiguousarray(wide, dtype=np.float32)
        finite = np.isfinite(narrow)
        if not finite.all():
            first = lists.first_of_each_row(np.flatnonzero(~finite))
            self._note(
                np.array(list(first), np.int64),
                name,
                lambda row: f"component {first[row] - lists.starts[row]} is not a finite float32",
                "Components are numbers between ±3.4e38. " + _FIX_VECTOR,
                lambda row: wide[first[row]],
            )
        return narrow

    def _split(self, lists: _Lists, flat: Vector) -> list[Any]:
        """Cut float32 into vectors that are written exactly: a view per row; None where the row has no list."""
        return _split_exact(lists, flat) if self._wire_format.is_decimal else lists.split(flat)

    # Sparse vectors ------------------------------------------------------------------------------

    def _sparse(self) -> list[dict[str, Any] | None] | None:
        column = self._column("sparse_values")
        if column is None:
            return None
        name = self._chunk.names["sparse_values"]
        if self._shape.rejects_sparse_values:
            raise SetupError(
                f"{self._chunk.origin} has sparse vectors in {name!r}, and the index has the metric {self._shape.metric}: "
                "only an index with the metric dotproduct takes both. Use such an index, or remove them."
            )
        parts = column.flatten()  # type: ignore[attr-defined]  # every array of structs has it
        children = dict(zip((field.name for field in column.type), parts, strict=True))
        indices, values = _Lists(children["indices"]), _Lists(children["values"])
        present = as_numpy(column.is_valid())
        counts = indices.lengths

        def note(rows: npt.NDArray[np.bool_], reason: str, remedy: str, value: Callable[[int], Any]) -> None:
            self._note(np.flatnonzero(present & rows), name, reason, remedy, value)

        sizes = [f"{a} indices, {b} values" for a, b in zip(counts, values.lengths, strict=True)]
        remedy = "Fix the sparse vector or leave it null."
        note(counts != values.lengths, "indices and values differ in length", remedy, sizes.__getitem__)
        note(counts == 0, "a sparse vector has at least one entry", remedy, sizes.__getitem__)
        too_many = f"a sparse vector has at most {MAX_SPARSE_VALUES:,} entries"
        note(counts > MAX_SPARSE_VALUES, too_many, "Keep the entries of the largest weight.", sizes.__getitem__)
        vectors = self._split(values, self._float32(values, f"{name}.values"))
        numbers = self._indices(indices, f"{name}.indices")
        return [
            None if i is None or v is None else {"indices": i, "values": v}
            for i, v in zip(numbers, vectors, strict=True)
        ]

    def _indices(self, lists: _Lists, name: str) -> list[npt.NDArray[np.int64] | None]:
        remedy = f"Indices are distinct whole numbers from 0 to {MAX_SPARSE_INDEX:,}."
        self._note(lists.rows_of_nulls(), name, "an index is null", remedy, lambda _: None)
        flat = _to_numpy(lists.flat)
        first = lists.first_of_each_row(np.flatnonzero((flat < 0) | (flat > MAX_SPARSE_INDEX)))
        rows = np.array(list(first), np.int64)
        self._note(rows, name, "an index is not a uint32", remedy, lambda row: flat[first[row]])
        split = lists.split(np.ascontiguousarray(flat, dtype=np.int64))
        twice = [o for o, row in enumerate(split) if row is not None and len(np.unique(row)) < len(row)]
        self._note(np.array(twice, np.int64), name, "an index occurs twice", remedy, lambda row: _repeated(split[row]))
        return split

    # The whole record ----------------------------------------------------------------------------

    def _check_parts(self, dense: Sequence[object] | None, sparse: Sequence[object] | None) -> None:
        count = len(self._ids)
        no_dense = np.array([vector is None for vector in dense], bool) if dense else np.full(count, fill_value=True)
        no_sparse = np.array([vector is None for vector in sparse], bool) if sparse else np.full(count, fill_value=True)
        names = self._chunk.names
        if self._shape.sparse:
            missing, name, reason = (
                no_sparse,
                names["sparse_values"],
                "the index holds sparse vectors, and there is none",
            )
        elif self._shape.dimension is not None:
            missing, name, reason = no_dense, names["values"], "the vector is missing"
        else:
            missing, name, reason = (
                no_dense & no_sparse,
                names["values"],
                "there is neither a dense nor a sparse vector",
            )
        self._note(np.flatnonzero(missing), name, reason, _FIX_VECTOR, lambda _: None)

    def _metadata(self) -> list[dict[str, Any] | None] | None:
        name = self._chunk.names["metadata"]
        if self._chunk.metadata is not None:
            rows, violations = metadata_values(self._chunk.metadata, name)
        elif (column := self._column("metadata")) is not None:
            try:
                rows, violations = metadata_rows(column, name)
            except (pa.ArrowException, LookupError) as exc:  # for example a time zone that this system does not know
                raise SourceError(
                    f"{self._chunk.origin}: the metadata cannot be read: {exc}. Convert the column to another type."
                ) from exc
        else:
            return None
        self._add(violations.items())
        return rows

    def _check_sizes(
        self, bodies: Sequence[bytes], metadata: Sequence[dict[str, Any] | None] | None, namespaces: Sequence[str]
    ) -> None:
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        if metadata is not None:
            name = self._chunk.names["metadata"]
            suspects = np.flatnonzero(lengths * self._wire_format.max_json_growth > MAX_METADATA_BYTES).tolist()
            for offset in suspects:
                plain = metadata[offset] or {}
                violation = too_long(plain, len(orjson.dumps(plain)), name)
                self._add([(offset, violation)] if violation else [])
        remedy = f"Raise max_request_bytes (at most {MAX_DECODED_REQUEST_BYTES:,}) or shorten the metadata."
        tails = {name: len(self._wire_format.tail(name)) for name in {self._namespace, *namespaces}}
        longest = {name: self._max_bytes + tails[self._namespace] - tail for name, tail in tails.items()}
        too_large = np.flatnonzero(lengths > min(longest.values()))
        too_large = np.array([row for row in too_large.tolist() if lengths[row] > longest[namespaces[row]]], np.int64)
        self._note(
            too_large,
            "record",
            lambda offset: (
                f"the record must have at most {longest[namespaces[offset]]:,} bytes of "
                f"{self._wire_format.name} to fit into a request"
            ),
            remedy,
            lambda offset: len(bodies[offset]),
        )

    def _column(self, part: str) -> pa.Array[Any] | None:
        records = self._chunk.records
        if part not in records.schema.names or records.column(part).null_count == len(records):
            return None
        return records.column(part)


class _Lists:
    """
    A list column of n rows as flat values and where each row begins.

    :param column: Of any list type.
    """

    def __init__(self, column: pa.Array[Any]) -> None:
        self.flat: pa.Array[Any] = column.flatten()  # type: ignore[attr-defined]  # every array of lists has it
        self.present: npt.NDArray[np.bool_] = as_numpy(column.is_valid())
        lengths = pc.list_value_length(column)
        zeroed = as_numpy(lengths) if not lengths.null_count else [length or 0 for length in lengths.to_pylist()]
        self.lengths: _Offsets = np.asarray(zeroed, dtype=np.int64)
        self.ends: _Offsets = np.cumsum(self.lengths)
        self.starts: _Offsets = self.ends - self.lengths

    def rows_of(self, positions: _Offsets) -> _Offsets:
        """Return the row of each position in :attr:`flat`."""
        return np.searchsorted(self.ends, positions, side="right").astype(np.int64)

    def rows_of_nulls(self) -> _Offsets:
        """Return the row of each null element; where none is null, without looking at them."""
        if not self.flat.null_count:
            return np.empty(0, np.int64)
        return self.rows_of(_where(self.flat.is_null()))

    def first_of_each_row(self, positions: _Offsets) -> dict[int, int]:
        """Return the rows that ascending positions in :attr:`flat` are in, each with the first of its positions."""
        rows = self.rows_of(positions)
        return dict(zip(rows[::-1].tolist(), positions[::-1].tolist(), strict=True))

    def split(self, flat: npt.NDArray[Any]) -> list[Any]:
        """Cut an array as long as :attr:`flat` into a view per row; None where the row has no list."""
        count = len(self.lengths)
        if count and self.present.all() and (self.lengths == self.lengths[0]).all():
            return list(flat.reshape(count, -1)) if self.lengths[0] else [flat] * count
        cuts = zip(self.starts.tolist(), self.ends.tolist(), self.present.tolist(), strict=True)
        return [flat[start:end] if is_present else None for start, end, is_present in cuts]


def _split_exact(lists: _Lists, flat: Vector) -> list[Any]:
    """
    Cut float32 into vectors whose shortest decimal form reads back exactly.

    :return: A view per row; None where the row has no list. In a rare case float64, of the same values.
    """
    vectors = lists.split(flat)
    for row in np.unique(lists.rows_of(np.flatnonzero(flat.view(np.uint32) & 0x7FFF_FFFF == _ROUNDED_TWICE))):
        vectors[row] = vectors[row].astype(np.float64)
    return vectors


def _where(mask: pa.BooleanArray) -> _Offsets:
    return np.flatnonzero(as_numpy(mask))


def _to_numpy(flat: pa.Array[Any]) -> npt.NDArray[Any]:
    """View the values without a copy where no component is null; a null, whose violation was noted, reads as 1."""
    if pa.types.is_null(flat.type):
        return np.ones(len(flat), np.float32)
    if flat.null_count:
        flat = (flat.cast(pa.float32()) if pa.types.is_float16(flat.type) else flat).fill_null(1)
    return as_numpy(flat)


def _repeated(row: npt.NDArray[np.int64] | None) -> Any:
    values, counts = np.unique(row if row is not None else [], return_counts=True)
    return values[counts > 1][0]
