"""
Rejected records: counted against ``max_rejects``, and written to files that can be fixed and read again.

Invariants: a rejected record is held until it is written; a file is complete or absent; no file of an earlier try is
overwritten; the files of a run contain each rejected record once, also if a try was killed after it wrote a file and before
the checkpoint that counts its records.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.exceptions import PineconeUpsertError, RecordError, SetupError
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.files import url_of
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.track.reject_rows import SCHEMA, reject_row, sent_record, source_record
from airflow_pinecone_upsert.pipeline.whole_file import create_file, write_file

log = logging.getLogger(__name__)

_FILE_BYTES: Final = 16_000_000
"""Of rejects in memory: then a file is finished and the next one started."""

_MAX_LOGGED: Final = 10


@dataclass(frozen=True)
class RejectsFolder:
    """
    Where the files of rejects go.

    :param fs: A file system.
    :param path: A folder there, or the name of a file that ends in ``.parquet``.
    """

    fs: fsspec.AbstractFileSystem
    path: str


class Rejects:
    """
    The rejected records of one try.

    :param limit: How many are allowed over all tries; None for any number.
    :param folder: Where they are written; None for nowhere.
    :param earlier_count: How many records earlier tries rejected.
    :param earlier_paths: The files that they wrote.
    """

    def __init__(
        self,
        limit: int | None,
        folder: RejectsFolder | None,
        earlier_count: int = 0,
        earlier_paths: Sequence[str] = (),
    ) -> None:
        self.count = self._earlier_count = earlier_count
        self._earlier_paths = tuple(earlier_paths)
        self._limit = limit
        self._files = None if folder is None else _Files(folder, self._earlier_paths)

    def check_earlier(self) -> None:
        """
        Check the rejects of earlier tries against the limit, which may be another one now.

        :raises SetupError: They are more than are allowed.
        """
        if self._limit is not None and self._earlier_count > self._limit:
            paths = self._earlier_paths
            written = f" and written to {', '.join(paths)}" if paths else ""
            raise SetupError(
                f"{self._earlier_count:,} records were rejected by earlier tries{written}: more than max_rejects, "
                f"{self._limit:,}, allows. Fix them at their source, or raise max_rejects."
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that were written, those of earlier tries first."""
        return self._earlier_paths + (() if self._files is None else tuple(self._files.urls))

    def take_rows(self, chunk: Chunk, errors: Sequence[RecordError]) -> None:
        """
        Reject rows that break a rule.

        :param chunk: The chunk that they are in.
        :param errors: One for each of them, in order.
        :raises RecordError: One more than is allowed.
        """
        if self._files is not None:
            self._files.add([reject_row(error, source_record(chunk, error.row)) for error in errors])
        self._take(errors, among=len(chunk.records))

    def take_rejected(self, request: UpsertRequest, error: PineconeUpsertError) -> None:
        """
        Reject a record that the server rejects, while it takes others.

        :param request: A request of this record alone.
        :raises RecordError: One more than is allowed.
        """
        [origin], [row], [record_id], [body], _, _ = request.records
        response = error.response
        detail = f"{response.status} “{response.message}”" if response else str(error)
        rejected = RecordError(
            f"the server rejects this record, even on its own: {detail}",
            remedy="Fix it at its source.",
            origin=origin,
            row=row,
            record_id=record_id,
            field="record",
        )
        rejected.response = response
        rejected.__cause__ = error
        if self._files is not None:
            envelope = request.envelope
            namespace = shown_namespace(envelope.namespace) if envelope.is_one_of_many else None
            self._files.add([reject_row(rejected, sent_record(envelope.wire_format.decode(body), namespace))])
        self._take([rejected], among=1)

    def write(self) -> None:
        """
        Write what was rejected since the last time.

        :raises SetupError: It cannot be written.
        """
        if self._files is not None:
            self._files.write()

    def _take(self, errors: Sequence[RecordError], *, among: int) -> None:
        before = self.count
        self.count += len(errors)
        for error in errors[: max(0, _MAX_LOGGED - (before - self._earlier_count))]:
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
    Files that grow: the last one is rewritten as a whole until it is large enough.

    :param folder: Where they are.
    :param earlier_urls: Files of earlier tries. They may contain records that this try rejects again.
    """

    def __init__(self, folder: RejectsFolder, earlier_urls: Sequence[str] = ()) -> None:
        self.urls: list[str] = []
        self._earlier_urls = earlier_urls
        self._path = ""  # of the last one
        self._folder = folder
        self._tables: list[pa.Table] = []  # of the last file
        self._unwritten = 0  # how many of these it does not contain yet
        self._size = 0  # bytes of these

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._earlier_rows:
            rows = [row for row in rows if row["row"] not in self._earlier_rows.get(row["file"], ())]
        if not rows:
            return
        self._tables.append(pa.Table.from_pylist(list(rows), SCHEMA))
        self._unwritten += 1
        self._size += self._tables[-1].nbytes
        if self._size > _FILE_BYTES:
            self.write()

    @cached_property
    def _earlier_rows(self) -> Mapping[str, Collection[int]]:
        """Rows of the records in the files of earlier tries, by source file: each may have grown after its checkpoint."""
        found: dict[str, set[int]] = {}
        for url in self._earlier_urls:
            for row in self._read_rows(url):
                found.setdefault(row["file"], set()).add(row["row"])
        return found

    def _read_rows(self, url: str) -> Sequence[Mapping[str, Any]]:
        fs = self._folder.fs
        try:
            content = fs.cat_file(fs._strip_protocol(url))  # noqa: SLF001 - fsspec has no public way back from a URL
            rows = pq.read_table(pa.BufferReader(content), columns=["file", "row"], use_threads=False)
        except Exception as exc:  # noqa: BLE001 - what a storage raises has no common class
            log.warning("Rejected records may be written again, because %s cannot be read: %s", url, exc)
            return []
        return rows.to_pylist()

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
                write_file(self._folder.fs, self._path, content)
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
    """Write a file under an unused name; return the name."""
    fs, path = folder.fs, folder.path
    is_file = path.endswith(".parquet") and not fs.isdir(path)
    if is_file and not fs.exists(path) and create_file(fs, path, content):
        return path
    # The names sort by time.
    name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    path = f"{path.removesuffix('.parquet')}-{name}" if is_file else f"{path.rstrip('/')}/rejects-{name}"
    write_file(fs, path, content)
    return path
