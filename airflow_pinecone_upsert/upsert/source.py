"""
Where records come from, and the source that reads Parquet files.

A source yields :class:`Chunk` after :class:`Chunk`, bounded whatever the size of a file or of one of its row groups,
and always in the same order. The other source, of records in memory, is in :mod:`.records`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.errors import SourceError
from airflow_pinecone_upsert.upsert.ahead import read_ahead
from airflow_pinecone_upsert.upsert.chunk import Chunk, IndexShape, Selection, rows_per_chunk
from airflow_pinecone_upsert.upsert.options import Columns

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
                batches = parquet.iter_batches(rows_per_chunk(shape), columns=selection.column_names, use_threads=False)
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
