"""
Records that are set aside: counted against what the user tolerates, and written where they can be mended and read again.

What always holds: nothing that was set aside is forgotten before it is written; a file is complete or not there; no file
of an earlier try is written over.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel

from airflow_pinecone_upsert.api.errors import PineconeUpsertError, RecordError, SetupError
from airflow_pinecone_upsert.upsert.chunk import Chunk
from airflow_pinecone_upsert.upsert.encode import Fragment

log = logging.getLogger(__name__)

SCHEMA: Final = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "id": pa.string(),
        "reason": pa.string(),
        "field": pa.string(),
        "detail": pa.string(),
        "values": pa.list_(pa.float64()),
        "sparse_values": pa.struct({"indices": pa.list_(pa.int64()), "values": pa.list_(pa.float64())}),
        "metadata": pa.string(),
        "record": pa.string(),
    }
)
"""
A file of rejects. Mended, it is a source with the default column names; ``record`` is the whole record as JSON where it
fits no columns.
"""

_FILE_BYTES: Final = 16_000_000
"""Of rejects in memory; then a file is finished and another one begun."""

_LOGGED: Final = 10


@dataclass(frozen=True)
class Folder:
    """
    Where files of rejects go.

    :param fs: A file system.
    :param path: A folder there, or the name of a file that ends in ``.parquet``.
    """

    fs: fsspec.AbstractFileSystem
    path: str


class Rejects:
    """
    All records that one try sets aside.

    :param limit: How many are tolerated over all tries; None for any number.
    :param folder: Where they are written; None for nowhere.
    """

    def __init__(self, limit: int | None, folder: Folder | None) -> None:
        self.count = 0
        self._earlier_count = 0
        self._earlier_paths: tuple[str, ...] = ()
        self._limit = limit
        self._files = None if folder is None else _Files(folder)

    def resume(self, count: int, paths: Sequence[str]) -> None:
        """
        Go on counting.

        :param count: How many earlier tries have set aside.
        :param paths: Where they have written those.
        :raises SetupError: They are more than are tolerated by now.
        """
        self.count = self._earlier_count = count
        self._earlier_paths = tuple(paths)
        if self._limit is not None and count > self._limit:
            written = f" and written to {', '.join(paths)}" if paths else ""
            raise SetupError(
                f"{count:,} records were set aside by earlier tries{written}: more than max_rejects, {self._limit:,}, "
                "allows. Mend them at their source, or raise max_rejects."
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are written, those of earlier tries first."""
        return self._earlier_paths + (() if self._files is None else tuple(self._files.paths))

    def take_rows(self, chunk: Chunk, errors: Sequence[RecordError]) -> None:
        """
        Set rows aside that break a rule.

        :param chunk: Where they stand.
        :param errors: One for each of them, in order.
        :raises RecordError: One more than is tolerated.
        """
        if self._files is not None:
            self._files.add([_line(error, _row(chunk, error.row - chunk.first_row)) for error in errors])
        self._take(errors, among=len(chunk.records))

    def take_refused(self, fragment: Fragment, error: PineconeUpsertError) -> None:
        """
        Set a record aside that the server refuses while it takes others.

        :raises RecordError: One more than is tolerated.
        """
        answer = error.answer
        said = f"{answer.status} “{answer.message}”" if answer else str(error)
        refused = RecordError(
            f"the server refuses this record while it takes others: {said}",
            remedy="Mend it at its source.",
            origin=fragment.origin,
            row=fragment.row,
            record_id=fragment.id,
            field="record",
        )
        refused.answer = answer
        refused.__cause__ = error
        if self._files is not None:
            self._files.add([_line(refused, _sent(fragment))])
        self._take([refused], among=1)

    def write(self) -> None:
        """
        Write what was set aside since the last time.

        :raises SetupError: It cannot be written.
        """
        if self._files is not None:
            self._files.write()

    def _take(self, errors: Sequence[RecordError], *, among: int) -> None:
        before = self.count
        self.count += len(errors)
        for error in errors[: max(0, _LOGGED - (before - self._earlier_count))]:
            log.warning("Not upserted: %s", error)
        if self._limit is not None and self.count > self._limit:
            raise self._one_too_many(errors[max(0, self._limit - before) :], among)

    def _one_too_many(self, errors: Sequence[RecordError], among: int) -> RecordError:
        error = errors[0]
        if self._limit:
            error.remedy += f" {self._limit:,} records are set aside, as many as max_rejects allows."
        if len(errors) > 1:
            error.remedy += f" {len(errors) - 1} more of the next {among} records break a rule, too."
        return error


class _Files:
    """
    Files that grow: the last one is written anew, whole, until it is large enough.

    :param folder: Where they are.
    """

    def __init__(self, folder: Folder) -> None:
        self.paths: list[str] = []
        self._folder = folder
        self._tables: list[pa.Table] = []  # of the last file
        self._unwritten = 0  # how many of these it does not hold yet

    def add(self, lines: list[dict[str, Any]]) -> None:
        self._tables.append(pa.Table.from_pylist(lines, SCHEMA))
        self._unwritten += 1
        if self._size > _FILE_BYTES:
            self.write()

    def write(self) -> None:
        if not self._unwritten:
            return
        is_new = self._unwritten == len(self._tables)
        path = _new_path(self._folder) if is_new else self.paths[-1]
        try:
            _write(self._folder.fs, path, pa.concat_tables(self._tables))
        except (OSError, pa.ArrowException) as exc:
            raise SetupError(f"Rejects cannot be written to {path}: {exc}. Mend rejects_path.") from exc
        if is_new:
            self.paths.append(path)
        self._unwritten = 0
        if self._size > _FILE_BYTES:
            self._tables = []

    @property
    def _size(self) -> int:
        return sum(table.nbytes for table in self._tables)


def _new_path(folder: Folder) -> str:
    """Name a file that is not there yet, in the order of time."""
    if folder.path.endswith(".parquet") and not folder.fs.exists(folder.path):
        return folder.path
    name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    if folder.path.endswith(".parquet") and not folder.fs.isdir(folder.path):
        return f"{folder.path.removesuffix('.parquet')}-{name}"
    return f"{folder.path.rstrip('/')}/rejects-{name}"


def _write(fs: fsspec.AbstractFileSystem, path: str, table: pa.Table) -> None:
    """Write a file that is there as a whole or not at all. Object stores do so by themselves."""
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as handle:
            pq.write_table(table, handle)
        return
    half_done = Path(f"{path}.part")
    half_done.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, half_done)
    half_done.replace(path)


def _line(error: RecordError, record: Mapping[str, Any]) -> dict[str, Any]:
    """
    Make a line of a file.

    :param record: ``id``, ``values``, ``sparse_values`` and ``metadata`` as the source holds them, as far as it does.
    """
    parts = {name: _fitting(name, record.get(name)) for name in ("id", "values", "sparse_values", "metadata")}
    fits = all(parts.get(name) is not None for name, part in record.items() if part is not None)
    return {
        "file": error.origin,
        "row": error.row,
        "reason": error.reason,
        "field": error.field,
        "detail": " ".join(filter(None, (f"Found {error.value}." if error.value else "", error.remedy))),
        **parts,
        "record": None if fits else json.dumps(record, default=_jsonable),
    }


def _fitting(name: str, part: Any) -> Any:
    """Bring a part of a record into the form of its column; None where it has no such form."""
    if name == "metadata" and part is not None and not isinstance(part, str):
        return json.dumps(part, default=_jsonable)
    try:
        return pa.array([part], SCHEMA.field(name).type)[0].as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _row(chunk: Chunk, offset: int) -> Mapping[str, Any]:
    """Return a record as its source holds it."""
    if chunk.rows:
        row = chunk.rows[offset]
        if isinstance(row, BaseModel):
            return row.model_dump()
        return row if isinstance(row, Mapping) else dict(zip(("id", "values", "metadata"), row, strict=False))
    record = {}
    for name in chunk.records.schema.names:
        try:
            record[name] = chunk.records.column(name)[offset].as_py()
        except (pa.ArrowException, ValueError, OverflowError) as exc:
            record[name] = f"unreadable: {exc}"
    if isinstance(record.get("metadata"), list):  # Arrow's form of a map
        record["metadata"] = dict(record["metadata"])
    return record


def _sent(fragment: Fragment) -> Mapping[str, Any]:
    sent = orjson.loads(fragment.body)
    return {"sparse_values" if name == "sparseValues" else name: part for name, part in sent.items()}
