"""
From Arrow columns to one JSON fragment of bytes per record, every rule checked on the way.

What always holds: a fragment is complete and valid by the rules of Pinecone's limits; a float32 is written in its
shortest form that reads back bit for bit; no Python object is made for a component of a vector.

A rule looks at a whole column. orjson writes NaN as ``null``, so finiteness is checked before, never after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress, repeat
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.limits import (
    MAX_DECODED_REQUEST_BYTES,
    MAX_DIMENSION,
    MAX_ID_LENGTH,
    MAX_METADATA_BYTES,
    MAX_SPARSE_INDEX,
    MAX_SPARSE_VALUES,
)
from airflow_pinecone_upsert.exceptions import RecordError, SourceError
from airflow_pinecone_upsert.pipeline.encode.metadata import metadata_rows, too_long
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk, as_numpy
from airflow_pinecone_upsert.pipeline.violation import Violation, preview

_Offsets = npt.NDArray[np.int64]
_Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_ROUNDED_TWICE: Final = np.uint32(0x15AE43FD)
"""
7.038531e-26: read as a double and then rounded to float32, its shortest form is its neighbour. A server may read so.

It is the only one: all 2**31 float32 of one sign were written by orjson 3.13 and read in this way.
"""

_MEND_VECTOR: Final = "Fix the embedding or drop the record."


class EncodedRecords(NamedTuple):
    """
    Records in order, ready to be sent; in columns, because the garbage collector would visit an object for each.

    :param origins: The file's path or URL that each comes from, or ``XCom``.
    :param rows: The row of each there, counted from 0.
    :param ids: The id of each.
    :param bodies: The JSON object of each.
    """

    origins: list[str]
    rows: list[int]
    ids: list[str]
    bodies: list[bytes]

    @property
    def columns(self) -> tuple[list[Any], ...]:
        """All of them, as columns of the same length."""
        return self

    def only(self, wanted: Iterable[bool]) -> EncodedRecords:
        """
        Leave some out.

        :param wanted: For each, whether it stays.
        """
        kept = list(wanted)
        return self._each(lambda column: list(compress(column, kept)))

    def add(self, more: EncodedRecords) -> None:
        """Put more behind them."""
        for column, others in zip(self.columns, more.columns, strict=True):
            column.extend(others)

    def cut(self, count: int) -> tuple[EncodedRecords, EncodedRecords]:
        """Return the first ones, and the others."""
        return self._each(lambda column: column[:count]), self._each(lambda column: column[count:])

    def _each(self, change: Callable[[list[Any]], list[Any]]) -> EncodedRecords:
        return EncodedRecords(*map(change, self.columns))


class EncodedChunk(NamedTuple):
    """
    What became of the rows of a chunk: each of them is one or the other.

    :param fragments: Those that are valid.
    :param errors: Of those that break a rule, in order: the first rule of each.
    """

    fragments: EncodedRecords
    errors: list[RecordError]


def encode(chunk: Chunk, shape: IndexShape, *, max_bytes: int) -> EncodedChunk:
    """
    Encode the records of a chunk.

    :param chunk: The records.
    :param shape: The index they are for.
    :param max_bytes: The longest fragment that fits into a request.
    :raises SourceError: A column's values cannot be read, for example text that is not UTF-8.
    """
    return _Encoder(chunk, shape, max_bytes).run()


class _Encoder:
    """The columns of one chunk, and the first broken rule of each row."""

    def __init__(self, chunk: Chunk, shape: IndexShape, max_bytes: int) -> None:
        self._chunk = chunk
        self._shape = shape
        self._max_bytes = max_bytes
        self._problems: dict[int, Violation] = dict(chunk.problems)
        self._ids: list[str] = []

    def run(self) -> EncodedChunk:
        self._ids = self._check_ids()
        dense = self._dense()
        sparse = self._sparse()
        self._check_parts(dense, sparse)
        metadata = self._metadata()
        nothing: repeat[None] = repeat(None)
        bodies = list(map(_body, self._ids, dense or nothing, sparse or nothing, metadata or nothing))
        self._check_sizes(bodies, metadata)
        chunk, count = self._chunk, len(bodies)
        rows = list(range(chunk.first_row, chunk.first_row + count))
        fragments = EncodedRecords([chunk.origin] * count, rows, self._ids, bodies)
        if not self._problems:
            return EncodedChunk(fragments, [])
        valid = fragments.only(offset not in self._problems for offset in range(count))
        return EncodedChunk(valid, [self._error(offset, self._problems[offset]) for offset in sorted(self._problems)])

    def _error(self, offset: int, problem: Violation) -> RecordError:
        return RecordError(
            problem.reason,
            remedy=problem.remedy,
            origin=self._chunk.origin,
            row=self._chunk.first_row + offset,
            record_id=None if problem.field == self._chunk.names["id"] else self._ids[offset] or None,
            field=problem.field,
            value=problem.value,
        )

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        """Name the column that Arrow cannot turn into Python's objects."""
        try:
            yield
        except (pa.ArrowException, ValueError, OverflowError, LookupError) as exc:
            chunk = self._chunk
            raise SourceError(
                f"{chunk.origin}, rows {chunk.first_row} to {chunk.first_row + len(chunk.records) - 1} (counted from "
                f"0): column {chunk.names[part]!r} cannot be read: {exc}. Fix its values or convert the column."
            ) from exc

    def _note(
        self,
        offsets: _Offsets,
        field: str,
        reason: str | Callable[[int], str],
        remedy: str,
        value: Callable[[int], Any],
    ) -> None:
        """Keep a rule that rows break."""
        texts = {offset: reason if isinstance(reason, str) else reason(offset) for offset in offsets.tolist()}
        self._add((offset, Violation(field, text, remedy, preview(value(offset)))) for offset, text in texts.items())

    def _add(self, problems: Iterable[tuple[int, Violation]]) -> None:
        """Keep the first broken rule of each row."""
        for offset, problem in problems:
            self._problems.setdefault(offset, problem)

    # Ids -----------------------------------------------------------------------------------------

    def _check_ids(self) -> list[str]:
        name = self._chunk.names["id"]
        with self._reading("id"):
            column = self._chunk.records.column("id").cast(pa.string())
            ids: list[str | None] = column.to_pylist()
        self._note(_where(column.is_null()), name, "the id is missing", "Give each record an id.", ids.__getitem__)
        # Compared in numpy: for a Python scalar Arrow, too, imports pandas.
        rows = _where(column.is_valid())
        text = column.drop_null()
        length = as_numpy(pc.utf8_length(text))
        remedy = f"An id has 1 to {MAX_ID_LENGTH} ASCII characters, none of them NUL. Change it at its source."
        self._note(rows[length == 0], name, "the id is empty", remedy, ids.__getitem__)
        too_long = rows[length > MAX_ID_LENGTH]
        self._note(
            too_long, name, lambda offset: f"the id has {len(ids[offset] or '')} characters", remedy, ids.__getitem__
        )
        not_ascii = rows[~as_numpy(pc.string_is_ascii(text))]
        self._note(not_ascii, name, "the id is not ASCII", remedy, ids.__getitem__)
        with_nul = rows[as_numpy(pc.match_substring(text, "\0"))]
        self._note(with_nul, name, "the id contains a NUL", remedy, ids.__getitem__)
        return [one or "" for one in ids]

    # Dense vectors -------------------------------------------------------------------------------

    def _dense(self) -> list[_Vector | None] | None:
        column = self._column("values")
        if column is None:
            return None
        name = self._chunk.names["values"]
        lists = _Lists(column)
        flat = self._float32(lists, name)
        vectors = _split_exact(lists, flat)
        lengths = lists.lengths
        present = lists.present
        dimension = self._shape.dimension
        self._note(np.flatnonzero(present & (lengths == 0)), name, "the vector is empty", _MEND_VECTOR, lambda _: [])
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
            _MEND_VECTOR,
            lengths.__getitem__,
        )
        filled = np.flatnonzero(lengths)
        suspects = filled[flat[lists.starts[filled]] == 0]
        zero = np.array([row for row in suspects if not vectors[row].any()], np.int64)
        reason = "a dense vector must have at least one component that is not zero (after rounding to float32)"
        self._note(zero, name, reason, _MEND_VECTOR, lambda offset: vectors[offset])
        return vectors

    def _float32(self, lists: _Lists, name: str) -> _Vector:
        """Round to float32, once, and check that every component is a finite number."""
        self._note(lists.rows_of_nulls(), name, "a component is null", _MEND_VECTOR, lambda _: None)
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
                "Components are numbers between ±3.4e38. " + _MEND_VECTOR,
                lambda row: wide[first[row]],
            )
        return narrow

    # Sparse vectors ------------------------------------------------------------------------------

    def _sparse(self) -> list[dict[str, Any] | None] | None:
        column = self._column("sparse_values")
        if column is None:
            return None
        name = self._chunk.names["sparse_values"]
        children = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
        indices, values = _Lists(children["indices"]), _Lists(children["values"])
        present = as_numpy(column.is_valid())
        counts = indices.lengths

        def note(rows: npt.NDArray[np.bool_], reason: str, remedy: str, value: Callable[[int], Any]) -> None:
            self._note(np.flatnonzero(present & rows), name, reason, remedy, value)

        sizes = [f"{a} indices, {b} values" for a, b in zip(counts, values.lengths, strict=True)]
        mend = "Fix the sparse vector or leave it null."
        note(counts != values.lengths, "indices and values differ in length", mend, sizes.__getitem__)
        note(counts == 0, "a sparse vector has at least one entry", mend, sizes.__getitem__)
        too_many = f"a sparse vector has at most {MAX_SPARSE_VALUES:,} entries"
        note(counts > MAX_SPARSE_VALUES, too_many, "Keep the entries of the largest weight.", sizes.__getitem__)
        vectors = _split_exact(values, self._float32(values, f"{name}.values"))
        numbers = self._indices(indices, f"{name}.indices")
        return [
            None if i is None or v is None else {"indices": i, "values": v}
            for i, v in zip(numbers, vectors, strict=True)
        ]

    def _indices(self, lists: _Lists, name: str) -> list[npt.NDArray[np.int64] | None]:
        mend = f"Indices are distinct whole numbers from 0 to {MAX_SPARSE_INDEX:,}."
        self._note(lists.rows_of_nulls(), name, "an index is null", mend, lambda _: None)
        flat = _to_numpy(lists.flat)
        first = lists.first_of_each_row(np.flatnonzero((flat < 0) | (flat > MAX_SPARSE_INDEX)))
        rows = np.array(list(first), np.int64)
        self._note(rows, name, "an index is not a uint32", mend, lambda row: flat[first[row]])
        split = lists.split(np.ascontiguousarray(flat, dtype=np.int64))
        twice = [o for o, row in enumerate(split) if row is not None and len(np.unique(row)) < len(row)]
        self._note(np.array(twice, np.int64), name, "an index occurs twice", mend, lambda row: _repeated(split[row]))
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
        self._note(np.flatnonzero(missing), name, reason, _MEND_VECTOR, lambda _: None)

    def _metadata(self) -> list[dict[str, Any] | None] | None:
        column = self._column("metadata")
        if column is None:
            return None
        with self._reading("metadata"):
            rows, problems = metadata_rows(column, self._chunk.names["metadata"])
        self._add(problems.items())
        return rows

    def _check_sizes(self, bodies: Sequence[bytes], metadata: Sequence[dict[str, Any] | None] | None) -> None:
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        if metadata is not None:
            name = self._chunk.names["metadata"]
            suspects = np.flatnonzero(lengths > MAX_METADATA_BYTES).tolist()
            for offset in suspects:
                plain = metadata[offset] or {}
                problem = too_long(plain, len(orjson.dumps(plain)), name)
                self._add([(offset, problem)] if problem else [])
        remedy = f"Raise max_request_bytes (at most {MAX_DECODED_REQUEST_BYTES:,}) or shorten the metadata."
        reason = f"the record must have at most {self._max_bytes:,} bytes of JSON to fit into a request"
        too_large = np.flatnonzero(lengths > self._max_bytes)
        self._note(too_large, "record", reason, remedy, lambda offset: len(bodies[offset]))

    def _column(self, part: str) -> pa.Array | None:
        records = self._chunk.records
        if part not in records.schema.names or records.column(part).null_count == len(records):
            return None
        return records.column(part)


class _Lists:
    """
    A list column of n rows as flat values and where each row begins.

    :param column: Of any list type.
    """

    def __init__(self, column: pa.Array) -> None:
        self.flat: pa.Array = column.flatten()
        self.present: npt.NDArray[np.bool_] = as_numpy(column.is_valid())
        lengths = pc.list_value_length(column)
        zeroed = as_numpy(lengths) if not lengths.null_count else [length or 0 for length in lengths.to_pylist()]
        self.lengths: _Offsets = np.asarray(zeroed, dtype=np.int64)
        self.ends: _Offsets = np.cumsum(self.lengths)
        self.starts: _Offsets = self.ends - self.lengths

    def rows_of(self, positions: _Offsets) -> _Offsets:
        """Tell the row of each position in :attr:`flat`."""
        return np.searchsorted(self.ends, positions, side="right").astype(np.int64)

    def rows_of_nulls(self) -> _Offsets:
        """Tell the row of each element that is null; where none is, without a look at them."""
        if not self.flat.null_count:
            return np.empty(0, np.int64)
        return self.rows_of(_where(self.flat.is_null()))

    def first_of_each_row(self, positions: _Offsets) -> dict[int, int]:
        """Tell the rows that ascending positions in :attr:`flat` lie in, each with the first of its positions."""
        rows = self.rows_of(positions)
        return dict(zip(rows[::-1].tolist(), positions[::-1].tolist(), strict=True))

    def split(self, flat: npt.NDArray[Any]) -> list[Any]:
        """Cut an array as long as :attr:`flat` into a view per row; None where the row has no list."""
        count = len(self.lengths)
        if count and self.present.all() and (self.lengths == self.lengths[0]).all():
            return list(flat.reshape(count, -1)) if self.lengths[0] else [flat] * count
        cuts = zip(self.starts.tolist(), self.ends.tolist(), self.present.tolist(), strict=True)
        return [flat[start:end] if is_present else None for start, end, is_present in cuts]


def _split_exact(lists: _Lists, flat: _Vector) -> list[Any]:
    """
    Cut float32 into vectors whose shortest form every reader reads back.

    :return: A view per row; None where the row has no list. In a rare case float64, of the same values.
    """
    vectors = lists.split(flat)
    for row in np.unique(lists.rows_of(np.flatnonzero(flat.view(np.uint32) & 0x7FFF_FFFF == _ROUNDED_TWICE))):
        vectors[row] = vectors[row].astype(np.float64)
    return vectors


def _body(
    record_id: str, values: _Vector | None, sparse: dict[str, Any] | None, metadata: dict[str, Any] | None
) -> bytes:
    record: dict[str, Any] = {"id": record_id}
    if values is not None:
        record["values"] = values
    if sparse is not None:
        record["sparseValues"] = sparse
    if metadata is not None:
        record["metadata"] = metadata
    # Copied, because what orjson returns was cut from a larger buffer: kept by the thousand, such leftovers fragment the
    # heap, and short records took twice the time.
    return b"%b" % orjson.dumps(record, None, orjson.OPT_SERIALIZE_NUMPY)


def _where(mask: pa.BooleanArray) -> _Offsets:
    return np.flatnonzero(as_numpy(mask))


def _to_numpy(flat: pa.Array) -> npt.NDArray[Any]:
    """Without a copy where no component is null; a null, which is a problem noted before, reads as 1."""
    if pa.types.is_null(flat.type):
        return np.ones(len(flat), np.float32)
    if flat.null_count:
        flat = (flat.cast(pa.float32()) if pa.types.is_float16(flat.type) else flat).fill_null(1)
    return as_numpy(flat)


def _repeated(row: npt.NDArray[np.int64] | None) -> Any:
    values, counts = np.unique(row if row is not None else [], return_counts=True)
    return values[counts > 1][0]
