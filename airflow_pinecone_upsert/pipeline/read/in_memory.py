"""
Records that are in memory: what upstream tasks return, and what a function of the user's yields.

pydantic validates Python records one by one; tables are taken as they are. Both become chunks of Arrow columns of bounded
size, so that the following stages have one form to deal with. Metadata stay Python values until they are encoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple, Protocol
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
from pydantic import ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from airflow_pinecone_upsert.api.models import Record, SparseValues, to_id
from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.namespaces import VALID_NAMESPACE, to_namespace
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, PARTS, XCOM, Chunk, list_array, rows_per_chunk
from airflow_pinecone_upsert.pipeline.read.columns import ColumnSelection, UnusedColumns
from airflow_pinecone_upsert.pipeline.read.objects import SPARSE_FIELDS, fields_of, record_fields
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.read.weight import MAX_CHUNK_BYTES, BatchSizer, python_bytes
from airflow_pinecone_upsert.pipeline.violation import Violation, key_path, preview


class PathOpener(Protocol):
    """Distinguishes paths from records, and opens them."""

    def __contains__(self, value: object) -> bool:
        """Return whether a value is a path."""
        ...

    def open(self, path: Any) -> RecordSource:
        """Return the records in the files that a path names."""
        ...


class _NoPaths:
    def __contains__(self, value: object) -> bool:
        return False

    def open(self, path: Any) -> RecordSource:
        raise NotImplementedError(path)


class InMemorySource:
    """
    Records that are in memory, or are yielded one by one.

    :param value: A list of records, where a record is a mapping, a tuple ``(id, values[, metadata])`` or an object of
        that shape, such as a :class:`Record`, the SDK's ``Vector`` or a dataclass; a pandas DataFrame; a pyarrow Table or
        anything else with Arrow's C stream interface; or an iterable of any of these, such as what a mapped upstream task
        returns.
    :param columns: The names of a table's columns; records have fixed keys.
    :param origin: Its name in messages.
    :param paths: Which of the values are paths, and stand for the records in their files; by default none.
    """

    identity = None
    not_resumable = None  # as the documentation says, so the log need not

    def __init__(self, value: Any, columns: Columns, *, origin: str = XCOM, paths: PathOpener | None = None) -> None:
        self._paths = paths or _NoPaths()
        self._value = value
        self._columns = columns
        self._origin = origin
        self._unused = UnusedColumns()

    def __str__(self) -> str:
        """Return its name for the log, with the number of records where it is known before they are read."""
        count = _count(self._value)
        return f"{count:,} record{'' if count == 1 else 's'} from {self._origin}" if count else self._origin

    def content_digest(self, position: Position, begun: Collection[str], earlier: Any) -> None:
        """Return None: a later try does not resume."""

    def content_change(self, digest: Any) -> None:
        """Return None: a later try does not resume."""

    def share_before(self, position: Position) -> None:
        """Return None: the number of records is unknown before the end."""

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - see there
        """
        Read value after value, without a copy of the whole. See :class:`RecordSource`.

        :param start: Always None: a later try could not recognise records in memory.
        """
        size = rows_per_chunk(shape)
        first_row = 0
        rows: list[Any] = []
        rows_bytes = 0
        for part in _parts(self._value, self._paths, self._origin):
            is_path = part in self._paths
            is_record = not is_path and not _is_table(part)
            if not is_path and self._columns.namespace_from_path:
                raise SourceError(
                    f"{self._origin} holds {type(part).__name__}, and namespace_from_path needs paths of files. Give paths, or "
                    "name the namespaces with namespace_column."
                )
            if is_record:
                rows.append(part)
                rows_bytes += _bytes_of_record(part)
            if rows and (len(rows) == size or rows_bytes >= MAX_CHUNK_BYTES or not is_record):
                yield self._chunk_of_records(rows, first_row)
                first_row += len(rows)
                rows, rows_bytes = [], 0
            if is_path:
                yield from self._paths.open(part).chunks(shape)
            elif not is_record:
                yield from self._chunks_of_table(part, shape, first_row)
                first_row += len(part)
        if rows:
            yield self._chunk_of_records(rows, first_row)

    def _chunk_of_records(self, rows: Sequence[Any], first_row: int) -> Chunk:
        columns = self._columns
        return _chunk_of_records(
            rows,
            self._origin,
            first_row,
            text_values=columns.values_format == "json",
            namespace_key=columns.namespace_column,
        )

    def _chunks_of_table(self, table: Any, shape: IndexShape, first_row: int) -> Iterator[Chunk]:
        size = rows_per_chunk(shape)
        for start in range(0, len(table), size):
            part = _slice(table, start, size, self._columns)
            selection = ColumnSelection(part.table.schema, self._columns, shape, self._origin, part.unused)
            self._unused.log(selection)
            (batch,) = part.table.select(selection.column_names).combine_chunks().to_batches()
            metadata_bytes = np.array([python_bytes(one) for one in part.metadata or ()] or [0], np.int64)
            end = 0
            for piece in BatchSizer(selection.vector_columns, size, size).cut(batch, metadata_bytes):
                begin, end = end, end + len(piece)
                records, metadata = selection.records(piece), None
                if part.metadata is not None:
                    records, metadata = records.drop_columns(["metadata"]), part.metadata[begin:end]
                rows = range(first_row + start + begin, first_row + start + end)
                yield Chunk(self._origin, rows, records, selection.names, metadata=metadata)


def _is_frame(value: Any) -> bool:
    """Recognise a pandas DataFrame without importing pandas."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "iloc")


def _is_table(value: Any) -> bool:
    return isinstance(value, pa.Table) or _is_frame(value)


def _tables_of_stream(value: Any) -> Iterator[pa.Table]:
    """Read an Arrow stream; it can be read only once."""
    try:
        with pa.RecordBatchReader.from_stream(value) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as exc:
        raise SourceError(
            f"{type(value).__name__} cannot be read as a table: {exc}. Give dicts, a DataFrame or a pyarrow.Table."
        ) from exc


def _is_record(value: Any) -> bool:
    """Distinguish a record from a list of records. ``["a", [0.1, 0.2]]`` is a record: JSON has no tuples."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and isinstance(value[0], (str, int, np.integer, UUID, bytes, Decimal))
    return isinstance(value, Mapping) or record_fields(value) is not None


def _count(value: Any) -> int | None:
    """Return the number of records of a table or a flat list; None where it is unknown before the end."""
    if _is_table(value):
        return len(value)
    is_flat = isinstance(value, (list, tuple)) and not _is_record(value) and all(map(_is_record, value))
    return len(value) if is_flat else None


def _parts(value: Any, paths: PathOpener, origin: str) -> Iterator[Any]:
    """
    Flatten lists of lists into records, tables and paths.

    :raises SourceError: A value is none of these, nor a list.
    """
    is_list_of_paths = isinstance(value, (list, tuple)) and all(part in paths for part in value)
    if value in paths or _is_table(value) or (_is_record(value) and not is_list_of_paths):
        yield value
    elif isinstance(value, pa.RecordBatch):
        yield pa.Table.from_batches([value])
    elif hasattr(value, "__arrow_c_stream__"):
        yield from _tables_of_stream(value)
    elif isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        hint = " Did the task return a value?" if value is None else ""
        raise SourceError(
            f"{origin} holds {preview(value)} ({type(value).__name__}) where records are expected: dicts with id and values, "
            f"tuples (id, values, metadata), a DataFrame or a table.{hint}"
        )
    else:
        for part in value:
            yield from _parts(part, paths, origin)


class _Slice(NamedTuple):
    """
    Some rows of a table.

    :param table: The rows.
    :param unused: The names of columns that are left out.
    :param metadata: The metadata as Python values, where no Arrow type holds them; their column is null then.
    """

    table: pa.Table
    unused: Sequence[str] = ()
    metadata: Sequence[Any] | None = None


def _slice(table: Any, start: int, size: int, columns: Columns) -> _Slice:
    if isinstance(table, pa.Table):
        return _Slice(table.slice(start, size))
    frame = table.iloc[start : start + size]
    if columns.id_column not in frame.columns and columns.id_column == frame.index.name:
        frame = frame.reset_index()
    # Only what is read: no other column may fail for its types.
    unused = [str(name) for name in frame.columns if name not in columns.names]
    frame = frame[[name for name in frame.columns if name in columns.names]]
    frame = frame.assign(**_without_masks(frame))
    metadata = None
    name = columns.metadata_column
    if columns.metadata_columns is None and name in frame.columns and any(isinstance(v, dict) for v in frame[name]):
        metadata = list(frame[name])
        frame = frame.assign(**{name: None})
    try:
        return _Slice(pa.Table.from_pandas(frame, preserve_index=False), unused, metadata)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise SourceError(
            f"The DataFrame cannot be read: {exc}. Give each column a name and a type of its own."
        ) from exc


def _without_masks(frame: Any) -> dict[str, list[Any]]:
    """Return the columns that contain masked arrays, as lists with None: Arrow reads the elements that a mask hides."""
    masked = (str(name) for name, cells in frame.items() if any(isinstance(cell, np.ma.MaskedArray) for cell in cells))
    return {
        name: [cell.tolist() if isinstance(cell, np.ma.MaskedArray) else cell for cell in frame[name]]
        for name in masked
    }


def _keep_text(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) else validate(value)


class _NewRecord(Record):
    """
    A record as a user writes it: a misspelt key must not be dropped silently.

    :param metadata: May also be JSON text, which is checked when it is encoded.
    """

    model_config = ConfigDict(extra="forbid")

    metadata: Annotated[dict[str, Any] | None, WrapValidator(_keep_text)] = None


_REMEDIES: Final = {
    "id": "Give each record an id, a string, an integer or a UUID.",
    "values": 'Give a flat list of numbers or a 1-d array; for text such as "[0.1, 0.2]", set values_format="json".',
    "sparse_values": "Give {'indices': [...], 'values': [...]}.",
    "metadata": "Give a dict, or leave it out.",
}


def _bytes_of_record(record: Any) -> int:
    """Estimate the size of a record without its dense vector, which has the same number of components in all of them."""
    fields = _mapping_or_sequence(record)
    if isinstance(fields, (list, tuple)):
        return python_bytes([fields[0], *fields[2:]])
    parts = [value for name, value in dict(fields).items() if name != "values"]
    return sum([python_bytes(part if isinstance(part, (str, dict)) else _without_class(part)) for part in parts])


def _chunk_of_records(
    objects: Sequence[Any], origin: str, first_row: int, *, text_values: bool, namespace_key: str | None
) -> Chunk:
    rows_or_fields = [_mapping_or_sequence(one) for one in objects]
    checked = [_checked(one, namespace_key, text_values=text_values) for one in rows_or_fields]
    records = [item if isinstance(item, Record) else None for item in checked]
    violations = {offset: item for offset, item in enumerate(checked) if isinstance(item, Violation)}
    sparse = [record.sparse_values if record else None for record in records]
    columns: dict[str, pa.Array[Any]] = {
        "id": pa.array(map(_usable_id, checked, rows_or_fields), pa.string()),
        "values": list_array([record.values if record else None for record in records], pa.float64()),
        "sparse_values": pa.StructArray.from_arrays(
            [
                list_array([part.indices if part else None for part in sparse], pa.int64()),
                list_array([part.values if part else None for part in sparse], pa.float64()),
            ],
            names=["indices", "values"],
            mask=pa.array([part is None for part in sparse]),
        ),
    }
    names = PARTS
    if namespace_key is not None:
        names = {**PARTS, NAMESPACE: namespace_key}
        namespaces = [_namespace(one, namespace_key) for one in rows_or_fields]
        columns[NAMESPACE] = pa.array([one if isinstance(one, str) else None for one in namespaces], pa.string())
        found = {offset: one for offset, one in enumerate(namespaces) if isinstance(one, Violation)}
        violations = {**found, **violations}
    rows = range(first_row, first_row + len(objects))
    metadata = [record.metadata if record else None for record in records]
    return Chunk(origin, rows, pa.RecordBatch.from_pydict(columns), names, violations, metadata, objects)


def _namespace(record: Any, key: str) -> str | Violation | None:
    """
    Return the namespace that a record names; None for that of the run.

    A record without the key is not one for the namespace of the run: it could be another tenant's, with a misspelt key.
    """
    if not isinstance(record, Mapping) or key not in record:
        remedy = f"Give each record, as a dict, the key {key!r}; None is the namespace of the task."
        return Violation(key, "the record names no namespace", remedy)
    value = record[key]
    if value is None:
        return None
    try:
        return to_namespace(value)
    except ValueError as exc:
        return Violation(key, str(exc), VALID_NAMESPACE, preview(value))


def _mapping_or_sequence(value: Any) -> Any:
    """Return an object as a mapping, and a record in any other form as it is."""
    return value if isinstance(value, (Record, Mapping, list, tuple)) else record_fields(value)


def _checked(row: Any, namespace_key: str | None, *, text_values: bool) -> Record | Violation:
    if isinstance(row, Record):
        return row
    keys = ("id", "values", "metadata")
    if not isinstance(row, Mapping) and len(row) > len(keys):
        return Violation("record", f"a tuple of {len(row)}", "A tuple is (id, values) or (id, values, metadata).")
    try:
        fields = dict(row if isinstance(row, Mapping) else zip(keys, row, strict=False))
        if namespace_key not in PARTS:
            fields.pop(namespace_key, None)
        for name in fields.keys() & {"sparse_values", "sparseValues"}:
            fields[name] = _without_class(fields[name])
        if text_values and isinstance(fields.get("values"), str):
            fields["values"] = orjson.loads(fields["values"])
        return _NewRecord.model_validate(fields)
    except orjson.JSONDecodeError as exc:
        return Violation("values", f"not a JSON array ({exc})", _REMEDIES["values"], preview(fields["values"]))
    except ValidationError as exc:
        return _violation(exc.errors()[0])


def _without_class(sparse_values: Any) -> Any:
    """Return sparse values of a class of any library as a mapping, and anything else as it is."""
    if isinstance(sparse_values, (SparseValues, Mapping)):
        return sparse_values
    return fields_of(sparse_values, SPARSE_FIELDS) or sparse_values


def _violation(error: Mapping[str, Any]) -> Violation:
    """Put the first error that pydantic found into our words."""
    parts = ["sparse_values" if part == "sparseValues" else part for part in error["loc"] if part != "[key]"]
    field = str(parts[0]) if parts else "record"
    for part in parts[1:]:
        field = key_path(field, part)
    is_missing = error["type"] == "missing" or (field == "id" and error["input"] is None)
    reason = error["msg"].removeprefix("Value error, ")
    if is_missing:
        reason = f"the {field} is missing"
    elif "[key]" in error["loc"]:
        reason = "a key is a string"
    elif error["type"] == "extra_forbidden":
        reason = f"unknown key {preview(parts[-1])}"
    unknown = "Use id, values, sparse_values and metadata; anything else belongs in metadata."
    value = None if error["type"] == "missing" else preview(error["input"])
    return Violation(field, reason, _REMEDIES.get(str(parts[0]) if parts else "", unknown), value)


def _usable_id(checked: Record | Violation, row: Any) -> str | None:
    """Return the id of a record, also of an invalid one, for its message."""
    if isinstance(checked, Record):
        return checked.id
    record_id = row.get("id") if isinstance(row, Mapping) else row[0]
    with suppress(ValueError):
        record_id = to_id(record_id)
    return record_id if isinstance(record_id, str) and record_id.isascii() else None
