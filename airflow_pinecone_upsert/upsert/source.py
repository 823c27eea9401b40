"""
Where records come from: Parquet files, or values that are in memory already.

A source yields :class:`Chunk` after :class:`Chunk`, bounded whatever the size of a file, of one of its row groups or of
an XCom value, and always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pydantic import ConfigDict, ValidationError

from airflow_pinecone_upsert.api.errors import SourceError
from airflow_pinecone_upsert.api.models import Record
from airflow_pinecone_upsert.upsert.ahead import read_ahead
from airflow_pinecone_upsert.upsert.chunk import PARTS, XCOM, Chunk, IndexShape, Selection
from airflow_pinecone_upsert.upsert.metadata import metadata_json, metadata_of_any
from airflow_pinecone_upsert.upsert.options import Columns
from airflow_pinecone_upsert.upsert.problem import Problem, shown

_CHUNK_BYTES: Final = 2_000_000
"""Of float32 components in one chunk: some hundred records, so that Arrow's and our copies of it stay small."""

_MAX_CHUNK_ROWS: Final = 2_000

_LOCAL_BUFFER_BYTES: Final = 1 << 20
_REMOTE_BUFFER_BYTES: Final = 8 << 20
"""A range request costs a round trip: 8 MB read 616 MB in 80 of them where 1 MB took 592, at the same memory."""


_CHUNKS_AHEAD: Final = 4
"""As much as one range request brings, so that the next one is under way while these are sent."""


class RecordSource(Protocol):
    """Records in a fixed order."""

    def chunks(self, shape: IndexShape) -> Iterator[Chunk]:
        """
        Read the records from the first one on.

        :param shape: The index they are for.
        :raises SourceError: The source as a whole cannot be read.
        """
        ...


def _rows_per_chunk(shape: IndexShape) -> int:
    return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // (4 * (shape.dimension or 1_536))))


@dataclass(frozen=True)
class FileRef:
    """
    A Parquet file.

    :param fs: The file system that holds it.
    :param path: Its path there.
    :param url: What the user knows it as.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    url: str

    @property
    def is_local(self) -> bool:
        """It lies on this machine, so that small reads are cheap."""
        return isinstance(self.fs, LocalFileSystem)


def find_parquet_files(fs: fsspec.AbstractFileSystem, path: str) -> list[FileRef]:
    """
    Find the files that a path means, sorted by path.

    :param fs: The file system.
    :param path: A file; a folder, which stands for the ``*.parquet`` directly in it; or a glob.
    :raises SourceError: There is no such file, or none matches.
    """
    try:
        found = _matches(fs, path)
    except OSError as exc:
        raise SourceError(f"{_url(fs, path)} cannot be listed: {exc}.") from exc
    return [FileRef(fs, match, _url(fs, match)) for match in found]


def _url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)


def _matches(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    url = _url(fs, path)
    if any(sign in path for sign in "*?[") and not fs.exists(path):
        found = sorted({file for match, info in fs.glob(path, detail=True).items() for file in _files(fs, match, info)})
        if not found:
            raise SourceError(f"No file matches {url}. Check the pattern and that the upstream task wrote its files.")
        return found
    if fs.isfile(path):
        return [path]
    if not fs.exists(path):
        raise SourceError(f"{url} does not exist. Check the path and that the upstream task wrote it.")
    found = _parquet_files_in(fs, path)
    if not found:
        raise SourceError(
            f"The folder {url} holds no *.parquet file. Folders below it are not read: "
            f"name them with a pattern such as {url.rstrip('/')}/**/*.parquet."
        )
    return found


def _files(fs: fsspec.AbstractFileSystem, match: str, info: Mapping[str, Any]) -> list[str]:
    """Tell what a match of a pattern stands for; Spark writes a folder under the name of one file."""
    if info["type"] != "directory":
        return [match]
    return _parquet_files_in(fs, match) if match.endswith(".parquet") else []


def _parquet_files_in(fs: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    # Not by a pattern: the folder's own name may hold its signs.
    entries = {info["name"]: info for info in fs.ls(folder, detail=True) if info["name"].endswith(".parquet")}
    return sorted(file for name, info in entries.items() for file in _files(fs, name, info))


class ParquetSource:
    """
    Parquet files, one after the other.

    :param files: In the order in which they are read; with the same id in two of them, the later one stays.
    :param columns: Which of their columns hold what.
    """

    def __init__(self, files: Sequence[FileRef], columns: Columns) -> None:
        self._files = files
        self._columns = columns

    def __str__(self) -> str:
        """Describe it for a log."""
        return f"{len(self._files)} Parquet files" if len(self._files) != 1 else self._files[0].url

    def chunks(self, shape: IndexShape) -> Iterator[Chunk]:
        """Read file after file, page by page; remote ones beside the work on them. See :class:`RecordSource`."""
        chunks = (chunk for file in self._files for chunk in self._read(file, shape))
        return chunks if all(file.is_local for file in self._files) else read_ahead(chunks, _CHUNKS_AHEAD)

    def _read(self, file: FileRef, shape: IndexShape) -> Iterator[Chunk]:
        # By pages: without these two a row group is read whole, 1.9 GB for one of that size where 130 MB do.
        buffer_bytes = _LOCAL_BUFFER_BYTES if file.is_local else _REMOTE_BUFFER_BYTES
        try:
            with (
                file.fs.open(file.path, "rb", **({} if file.is_local else {"cache_type": "none"})) as handle,
                pq.ParquetFile(handle, pre_buffer=False, buffer_size=buffer_bytes) as parquet,
            ):
                selection = Selection(parquet.schema_arrow, self._columns, shape, file.url)
                batches = parquet.iter_batches(
                    _rows_per_chunk(shape), columns=selection.column_names, use_threads=False
                )
                yield from _chunks_of_batches(batches, selection, file.url, 0)
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(
                f"{file.url} cannot be read as Parquet: {str(exc).strip()}. Write the file anew."
            ) from exc


def _chunks_of_batches(
    batches: Iterable[pa.RecordBatch], selection: Selection, origin: str, first_row: int
) -> Iterator[Chunk]:
    for batch in batches:
        if batch.num_rows:
            yield Chunk(origin, first_row, selection.records(batch), selection.names)
        first_row += batch.num_rows


class RecordsSource:
    """
    Records that are in memory, or come one by one from upstream tasks.

    :param value: A list of records, where a record is a mapping, a tuple ``(id, values[, metadata])`` or a
        :class:`Record`; a pandas DataFrame; a pyarrow Table or anything else with Arrow's C stream interface;
        or an iterable of any of these, such as what a mapped upstream task returns.
    :param columns: Which columns of a table hold what; records have their fixed keys.
    :param origin: What error messages call it.
    """

    def __init__(self, value: Any, columns: Columns, *, origin: str = XCOM) -> None:
        self._value = value
        self._columns = columns
        self._origin = origin

    def __str__(self) -> str:
        """Describe it for a log."""
        return self._origin

    def chunks(self, shape: IndexShape) -> Iterator[Chunk]:
        """Read value after value, without a copy of the whole. See :class:`RecordSource`."""
        size = _rows_per_chunk(shape)
        first_row = 0
        rows: list[Any] = []
        for part in _parts(self._value):
            is_table = _is_table(part)
            if not is_table:
                rows.append(part)
            if rows and (len(rows) == size or is_table):
                yield _chunk_of_rows(rows, self._origin, first_row)
                first_row += len(rows)
                rows = []
            if is_table:
                yield from self._chunks_of_table(part, shape, first_row)
                first_row += len(part)
        if rows:
            yield _chunk_of_rows(rows, self._origin, first_row)

    def _chunks_of_table(self, table: Any, shape: IndexShape, first_row: int) -> Iterator[Chunk]:
        size = _rows_per_chunk(shape)
        for start in range(0, len(table), size):
            arrow, others, problems = _slice(table, start, size, self._columns)
            selection = Selection(arrow.schema, self._columns, shape, self._origin, others)
            (batch,) = arrow.select(selection.column_names).combine_chunks().to_batches()
            yield Chunk(self._origin, first_row + start, selection.records(batch), selection.names, problems)


def _is_frame(value: Any) -> bool:
    """Recognise a pandas DataFrame without importing pandas."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "iloc")


def _is_table(value: Any) -> bool:
    return isinstance(value, pa.Table) or _is_frame(value)


def _tables_of_stream(value: Any) -> Iterator[pa.Table]:
    """Read once what speaks Arrow: a second look at a stream finds it empty."""
    try:
        with pa.RecordBatchReader.from_stream(value) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as exc:
        raise SourceError(f"{type(value).__name__} cannot be read as a table: {exc}.") from exc


def _is_record(value: Any) -> bool:
    """Tell a record from a list of them. ``["a", [0.1, 0.2]]`` is a record: JSON has no tuples."""
    if isinstance(value, (Mapping, Record)):
        return True
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (str, int, np.integer))


def _parts(value: Any) -> Iterator[Any]:
    """
    Flatten lists of lists into records and tables.

    :raises SourceError: Something is neither a record nor a list of them.
    """
    if _is_record(value) or _is_table(value):
        yield value
    elif isinstance(value, pa.RecordBatch):
        yield pa.Table.from_batches([value])
    elif hasattr(value, "__arrow_c_stream__"):
        yield from _tables_of_stream(value)
    elif value is None or isinstance(value, (str, bytes, int, float)) or not isinstance(value, Iterable):
        hint = " Did the upstream task return a value?" if value is None else ""
        raise SourceError(
            f"XCom holds {shown(value)} ({type(value).__name__}) where records are expected: dicts with id and values, "
            f"tuples (id, values, metadata), a DataFrame or a table.{hint}"
        )
    else:
        for part in value:
            yield from _parts(part)


def _slice(
    table: Any, start: int, size: int, columns: Columns
) -> tuple[pa.Table, Sequence[str], Mapping[int, Problem]]:
    """
    Take some rows as Arrow.

    :return: The rows; the names of columns that were left out; and the problems, by row.
    """
    if isinstance(table, pa.Table):
        return table.slice(start, size), (), {}
    frame = table.iloc[start : start + size]
    if columns.id_column not in frame.columns and columns.id_column == frame.index.name:
        frame = frame.reset_index()
    # Only what is read: no other column may fail for its types.
    others = [str(name) for name in frame.columns if name not in columns.names]
    frame = frame[[name for name in frame.columns if name in columns.names]]
    problems: dict[int, Problem] = {}
    name = columns.metadata_column
    if columns.metadata_columns is None and name in frame.columns and any(isinstance(v, dict) for v in frame[name]):
        # As JSON: no Arrow type holds any mixture of dicts.
        encoded = [metadata_of_any(value, name) for value in frame[name]]
        problems = {offset: value for offset, value in enumerate(encoded) if isinstance(value, Problem)}
        texts = [value.decode() if isinstance(value, bytes) else None for value in encoded]
        frame = frame.assign(**{name: texts})
    try:
        return pa.Table.from_pandas(frame, preserve_index=False), others, problems
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise SourceError(
            f"The DataFrame cannot be read: {exc}. Give each column a name and a type of its own."
        ) from exc


class _NewRecord(Record):
    """A record as a user writes it: a misspelt key must not be dropped in silence."""

    model_config = ConfigDict(extra="forbid")


_REMEDIES: Final = {
    "id": "Give each record an id, a string or an integer.",
    "values": "Give a flat list of numbers or a 1-d array.",
    "sparse_values": "Give {'indices': [...], 'values': [...]}.",
    "metadata": "Give a dict, or leave it out.",
}


def _chunk_of_rows(rows: Sequence[Any], origin: str, first_row: int) -> Chunk:
    checked = [_checked(row) for row in rows]
    records = [item if isinstance(item, Record) else None for item in checked]
    metadata = [
        metadata_json(record.metadata, "metadata") if record is not None and record.metadata else None
        for record in records
    ]
    problems = {
        offset: item for found in (metadata, checked) for offset, item in enumerate(found) if isinstance(item, Problem)
    }
    sparse = [record.sparse_values if record else None for record in records]
    columns: dict[str, pa.Array] = {
        "id": pa.array(map(_usable_id, checked, rows), pa.string()),
        "values": _list_array([record.values if record else None for record in records], pa.float64()),
        "sparse_values": pa.StructArray.from_arrays(
            [
                _list_array([part.indices if part else None for part in sparse], pa.int64()),
                _list_array([part.values if part else None for part in sparse], pa.float64()),
            ],
            names=["indices", "values"],
            mask=pa.array([part is None for part in sparse]),
        ),
        "metadata": pa.array([text.decode() if isinstance(text, bytes) else None for text in metadata], pa.string()),
    }
    return Chunk(origin, first_row, pa.RecordBatch.from_pydict(columns), PARTS, problems)


def _checked(row: Any) -> Record | Problem:
    if isinstance(row, Record):
        return row
    keys = ("id", "values", "metadata")
    if not isinstance(row, Mapping) and len(row) > len(keys):
        return Problem("record", f"a tuple of {len(row)}", "A tuple is (id, values) or (id, values, metadata).")
    try:
        return _NewRecord.model_validate(row if isinstance(row, Mapping) else dict(zip(keys, row, strict=False)))
    except ValidationError as exc:
        error = exc.errors()[0]
        place = ".".join(map(str, error["loc"])).replace("sparseValues", "sparse_values")
        known = place.partition(".")[0]
        is_missing = error["type"] == "missing" or (place == "id" and error["input"] is None)
        unknown = "Use id, values, sparse_values and metadata; what else you want to keep belongs into metadata."
        reason = f"the {place} is missing" if is_missing else error["msg"].removeprefix("Value error, ")
        value = None if error["type"] == "missing" else shown(error["input"])
        return Problem(place, reason, _REMEDIES.get(known, unknown), value)


def _usable_id(checked: Record | Problem, row: Any) -> str | None:
    """Find the id of a record, also of one that has a problem, for its message."""
    if isinstance(checked, Record):
        return checked.id
    record_id = row.get("id") if isinstance(row, Mapping) else row[0]
    return record_id if isinstance(record_id, str) and record_id.isascii() else None


def _list_array(rows: Sequence[np.ndarray[Any, Any] | None], kind: pa.DataType) -> pa.ListArray:
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [row for row in rows if row is not None]
    flat = np.concatenate(present) if present else np.empty(0)
    mask = pa.array([row is None for row in rows])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, kind), mask=mask)
