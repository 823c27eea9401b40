"""
Records that are set aside: counted against what the user tolerates, and written where they can be mended and read again.

What always holds: nothing that was set aside is forgotten before it is written; a file is complete or not there; no file
of an earlier try is written over.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, RecordError, SetupError
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.files import url_of
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.track.reject_rows import SCHEMA, line, row_of, sent

log = logging.getLogger(__name__)

_FILE_BYTES: Final = 16_000_000
"""Of rejects in memory; then a file is finished and another one begun."""

_LOGGED: Final = 10


@dataclass(frozen=True)
class RejectsFolder:
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

    def __init__(self, limit: int | None, folder: RejectsFolder | None) -> None:
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
                f"{count:,} records were rejected by earlier tries{written}: more than max_rejects, {self._limit:,}, "
                "allows. Fix them at their source, or raise max_rejects."
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are written, those of earlier tries first."""
        return self._earlier_paths + (() if self._files is None else tuple(self._files.urls))

    def take_rows(self, chunk: Chunk, errors: Sequence[RecordError]) -> None:
        """
        Set rows aside that break a rule.

        :param chunk: Where they stand.
        :param errors: One for each of them, in order.
        :raises RecordError: One more than is tolerated.
        """
        if self._files is not None:
            self._files.add([line(error, row_of(chunk, error.row - chunk.first_row)) for error in errors])
        self._take(errors, among=len(chunk.records))

    def take_refused(self, batch: UpsertRequest, error: PineconeUpsertError) -> None:
        """
        Set a record aside that the server refuses while it takes others.

        :param batch: It alone.
        :raises RecordError: One more than is tolerated.
        """
        [origin], [row], [record_id], [body] = batch.fragments
        answer = error.answer
        said = f"{answer.status} “{answer.message}”" if answer else str(error)
        refused = RecordError(
            f"the server rejects this record, even on its own: {said}",
            remedy="Fix it at its source.",
            origin=origin,
            row=row,
            record_id=record_id,
            field="record",
        )
        refused.answer = answer
        refused.__cause__ = error
        if self._files is not None:
            self._files.add([line(refused, sent(body))])
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
            error.remedy += f" {self._limit:,} records are rejected, as many as max_rejects allows."
        if len(errors) > 1:
            error.remedy += f" {len(errors) - 1} more of the {among} records that were read with it break a rule, too."
        return error


class _Files:
    """
    Files that grow: the last one is written anew, whole, until it is large enough.

    :param folder: Where they are.
    """

    def __init__(self, folder: RejectsFolder) -> None:
        self.urls: list[str] = []
        self._path = ""  # of the last one
        self._folder = folder
        self._tables: list[pa.Table] = []  # of the last file
        self._unwritten = 0  # how many of these it does not hold yet
        self._size = 0  # bytes of these

    def add(self, lines: list[dict[str, Any]]) -> None:
        self._tables.append(pa.Table.from_pylist(lines, SCHEMA))
        self._unwritten += 1
        self._size += self._tables[-1].nbytes
        if self._size > _FILE_BYTES:
            self.write()

    def write(self) -> None:
        if not self._unwritten:
            return
        is_new = self._unwritten == len(self._tables)
        content = _content(self._tables)
        try:
            if is_new:
                self._path = _write_new(self._folder, content)
                self.urls.append(url_of(self._folder.fs, self._path))
            else:
                _write(self._folder.fs, self._path, content)
        except Exception as exc:  # what a storage raises has no common class
            raise SetupError(
                f"Rejected records cannot be written to {url_of(self._folder.fs, self._folder.path)}: "
                f"{type(exc).__name__}: {exc}. Fix rejects_path, or its connection."
            ) from exc
        self._unwritten = 0
        if self._size > _FILE_BYTES:
            self._tables, self._size = [], 0


def _content(tables: Sequence[pa.Table]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _write_new(folder: RejectsFolder, content: bytes) -> str:
    """Write a file under a name that nobody has used; return it."""
    fs, path = folder.fs, folder.path
    is_file = path.endswith(".parquet") and not fs.isdir(path)
    if is_file and not fs.exists(path) and _write(fs, path, content, is_new=True):
        return path
    # In the order of time.
    name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    path = f"{path.removesuffix('.parquet')}-{name}" if is_file else f"{path.rstrip('/')}/rejects-{name}"
    _write(fs, path, content)
    return path


def _write(fs: fsspec.AbstractFileSystem, path: str, content: bytes, *, is_new: bool = False) -> bool:
    """
    Write a file that is there as a whole or not at all.

    :param is_new: Write over nothing, not even what another task has written in this moment.
    :return: Whether it was written.
    """
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, content)  # one request: an open handle uploads what it has when an error closes it
        return True
    half_done = Path(f"{path}.{uuid.uuid4().hex[:8]}.part")
    half_done.parent.mkdir(parents=True, exist_ok=True)
    try:
        half_done.write_bytes(content)
        if is_new:
            return _link(half_done, path)
        half_done.replace(path)
    finally:
        half_done.unlink(missing_ok=True)
    return True


def _link(half_done: Path, path: str) -> bool:
    """Give a file its name unless another one has it."""
    try:
        os.link(half_done, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        half_done.replace(path)
    return True
