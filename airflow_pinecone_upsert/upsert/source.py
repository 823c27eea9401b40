"""
Where records come from, and the source that reads Parquet files.

A source yields :class:`Chunk` after :class:`Chunk`, bounded whatever the size of a file or of one of its row groups,
and always in the same order. The other source, of records in memory, is in :mod:`.records`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.errors import PineconeUpsertError, SourceError, StorageError
from airflow_pinecone_upsert.upsert.ahead import read_ahead
from airflow_pinecone_upsert.upsert.checkpoint import Place
from airflow_pinecone_upsert.upsert.chunk import Chunk, IndexShape, Selection, rows_per_chunk
from airflow_pinecone_upsert.upsert.damage import check_footer, place_of_damage, rows_of_groups
from airflow_pinecone_upsert.upsert.options import Columns
from airflow_pinecone_upsert.upsert.stop import Stop

_Info = Mapping[str, Any]
"""What a file system tells about one file or folder."""

_LOCAL_BUFFER_BYTES: Final = 1 << 20
_REMOTE_BUFFER_BYTES: Final = 8 << 20
"""A range request costs a round trip: 8 MB read 616 MB in 80 of them where 1 MB took 592, at the same memory."""

_CHUNKS_AHEAD: Final = 4
"""As much as one range request brings, so that the next one is under way while these are sent."""

_VERSIONS: Final = ("ETag", "etag", "generation", "content_md5", "mtime", "LastModified", "last_modified", "updated")
"""What file systems call that which differs once a file was written anew; the first one known counts."""


class RecordSource(Protocol):
    """Records in a fixed order."""

    @property
    def identity(self) -> Any:
        """What JSON can hold, and what differs where a place in it would mean another record; None: no place lasts."""
        ...

    def chunks(self, shape: IndexShape, start: Place | None = None) -> Iterator[Chunk]:
        """
        Read the records.

        :param shape: The index they are for.
        :param start: The first record; None for the first one of all. Given only where there is an identity.
        :raises SourceError: The source as a whole cannot be read.
        """
        ...

    def share_before(self, place: Place) -> float | None:
        """Estimate which share of the source, from 0 to 1, lies before a place that was read; None: not known."""
        ...


@dataclass(frozen=True)
class FileRef:
    """
    A Parquet file.

    :param fs: The file system that holds it.
    :param path: Its path there.
    :param url: What the user knows it as.
    :param size: Bytes.
    :param version: Differs once the file was written anew.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    url: str
    size: int = 0
    version: str = ""

    @property
    def is_local(self) -> bool:
        """It lies on this machine, so that small reads are cheap."""
        return isinstance(self.fs, LocalFileSystem)


def find_parquet_files(fs: fsspec.AbstractFileSystem, path: str) -> list[FileRef]:
    """
    Find the files that a path means, sorted by path.

    :param fs: The file system.
    :param path: A file; a folder, which stands for the ``*.parquet`` directly in it; or a glob.
    :raises SourceError: There is no such file, or none matches, or it may not be read.
    :raises StorageError: The storage does not answer.
    """
    with _asking_storage(url_of(fs, path)):
        return [_file_ref(fs, info) for info in _matches(fs, path)]


@contextmanager
def _asking_storage(url: str) -> Iterator[None]:
    """Tell what is not there or not allowed, which stays so, from a storage that does not answer, which may pass."""
    try:
        yield
    except PineconeUpsertError:
        raise
    except (FileNotFoundError, PermissionError) as exc:
        raise SourceError(
            f"{url} cannot be read: {exc}. Check the path, and what its storage lets this machine read."
        ) from exc
    except Exception as exc:  # the libraries of the storages have no class in common
        raise StorageError(
            f"{url} cannot be read just now: {str(exc) or type(exc).__name__}. Check that the storage can be reached."
        ) from exc


class _RemoteHandle:
    """A file on another machine, whose failing reads can be told from what Arrow makes of the bytes."""

    def __init__(self, handle: Any, url: str) -> None:
        self._handle = handle
        self._url = url

    def read(self, size: int = -1) -> Any:
        with _asking_storage(self._url):
            return self._handle.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def _file_ref(fs: fsspec.AbstractFileSystem, info: _Info) -> FileRef:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return FileRef(fs, info["name"], url_of(fs, info["name"]), info.get("size") or 0, version)


def url_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Return what the user knows a path as."""
    return path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)


def _matches(fs: fsspec.AbstractFileSystem, path: str) -> list[_Info]:
    url = url_of(fs, path)
    if any(sign in path for sign in "*?[") and not fs.exists(path):
        found = _sorted(file for info in fs.glob(path, detail=True).values() for file in _files(fs, info))
        if not found:
            raise SourceError(f"No file matches {url}. Check the pattern and that the upstream task wrote its files.")
        return found
    try:
        info = fs.info(path)
    except FileNotFoundError as exc:
        raise SourceError(f"{url} does not exist. Check the path and that the upstream task wrote it.") from exc
    if info["type"] != "directory":
        return [info]
    found = _parquet_files_in(fs, path)
    if not found:
        raise SourceError(
            f"The folder {url} holds no *.parquet file. Folders below it are not read: "
            f"name them with a pattern such as {url.rstrip('/')}/**/*.parquet."
        )
    return found


def _files(fs: fsspec.AbstractFileSystem, info: _Info) -> list[_Info]:
    """Tell what a match of a pattern stands for; Spark writes a folder under the name of one file."""
    if info["type"] != "directory":
        return [info]
    return _parquet_files_in(fs, info["name"]) if info["name"].endswith(".parquet") else []


def _parquet_files_in(fs: fsspec.AbstractFileSystem, folder: str) -> list[_Info]:
    # Not by a pattern: the folder's own name may hold its signs.
    entries = (info for info in fs.ls(folder, detail=True) if info["name"].endswith(".parquet"))
    return _sorted(file for info in entries for file in _files(fs, info))


def _sorted(infos: Iterable[_Info]) -> list[_Info]:
    """Sort by path, and drop what was found twice."""
    by_path = {info["name"]: info for info in infos}
    return [by_path[path] for path in sorted(by_path)]


class ParquetSource:
    """
    Parquet files, one after the other. Those on another machine are read beside whatever is done with their records.

    :param files: In the order in which they are read; with the same id in two of them, the later one stays.
    :param columns: Which of their columns hold what.
    :param stop: Ends the wait for a storage that does not answer.
    """

    def __init__(self, files: Sequence[FileRef], columns: Columns, stop: Stop | None = None) -> None:
        self._files = files
        self._columns = columns
        self._stop = stop or Stop()
        self._row_counts: dict[str, int] = {}  # of the files opened so far, by URL
        self._schemas: dict[str, pa.Schema] = {}  # likewise

    @property
    def files(self) -> Sequence[FileRef]:
        """All of the files, read or not yet."""
        return self._files

    @property
    def schemas(self) -> Mapping[str, pa.Schema]:
        """The whole schema, all columns, of each file that was opened so far, by URL."""
        return self._schemas

    def __str__(self) -> str:
        """Describe it for a log."""
        return f"{len(self._files)} Parquet files" if len(self._files) != 1 else self._files[0].url

    @property
    def identity(self) -> Any:
        """Name each file with its size and version."""
        return [(file.url, file.size, file.version) for file in self._files]

    def chunks(self, shape: IndexShape, start: Place | None = None) -> Iterator[Chunk]:
        """Read file after file, page by page. See :class:`RecordSource`."""
        chunks = self._chunks(shape, start)
        is_local = all(file.is_local for file in self._files)
        return chunks if is_local else read_ahead(chunks, _CHUNKS_AHEAD, self._stop)

    def _chunks(self, shape: IndexShape, start: Place | None) -> Iterator[Chunk]:
        number, row = self._find(start)
        for file in self._files[number:]:
            yield from self._read(file, shape, row)
            row = 0

    def share_before(self, place: Place) -> float | None:
        """Count bytes, as if all rows of a file had the same length. See :class:`RecordSource`."""
        number, row = self._find(place)
        read = float(sum(file.size for file in self._files[:number]))
        rows = self._row_counts.get(place.origin)
        if rows:
            read += self._files[number].size * min(row, rows) / rows
        total = sum(file.size for file in self._files)
        return read / total if total else None

    def _find(self, place: Place | None) -> tuple[int, int]:
        """Return the number of a place's file among the files, and the row in it."""
        if place is None:
            return 0, 0
        return next(number for number, file in enumerate(self._files) if file.url == place.origin), place.row

    def _read(self, file: FileRef, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        try:
            if file.is_local:
                with file.fs.open(file.path, "rb") as handle:
                    yield from self._read_parquet(file, handle, shape, start_row)
            else:
                with _asking_storage(file.url):
                    handle = file.fs.open(file.path, "rb", cache_type="none")
                with handle:
                    yield from self._read_parquet(file, _RemoteHandle(handle, file.url), shape, start_row)
        except PineconeUpsertError:
            raise
        except Exception as exc:  # what storages and Arrow raise has no common class
            raise _unreadable(file, "", exc) from exc

    def _read_parquet(self, file: FileRef, handle: Any, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        # By pages: without these two a row group is read whole, 1.9 GB for one of that size where 130 MB do.
        buffer_bytes = _LOCAL_BUFFER_BYTES if file.is_local else _REMOTE_BUFFER_BYTES
        # Checksums, where the writer wrote some, find every flipped bit of a page; they cost 0.3 ms a megabyte.
        with pq.ParquetFile(
            handle, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True
        ) as parquet:
            selection = Selection(parquet.schema_arrow, self._columns, shape, file.url)
            check_footer(parquet, selection.column_names, file.url)
            self._row_counts[file.url] = parquet.metadata.num_rows
            self._schemas[file.url] = parquet.schema_arrow
            size = rows_per_chunk(shape)
            row_groups, row = _row_groups_from(parquet.metadata, start_row)
            batches = parquet.iter_batches(
                size, row_groups=row_groups, columns=selection.column_names, use_threads=False
            )
            try:
                for batch in batches:
                    behind = row + batch.num_rows
                    if behind > start_row:
                        wanted = batch.slice(max(0, start_row - row))
                        yield Chunk(file.url, behind - wanted.num_rows, selection.records(wanted), selection.names)
                    row = behind
            except PineconeUpsertError:
                raise
            except Exception as exc:
                # A second look at what lies on another machine may cost minutes, and fail for another reason.
                place = (
                    place_of_damage(parquet, selection.column_names, range(row, row + size)) if file.is_local else ""
                )
                raise _unreadable(file, f", {place or f'behind row {row}'}", exc) from exc
            if row < parquet.metadata.num_rows:
                raise SourceError(
                    f"{file.url} is damaged: it ends behind row {row:,} of {parquet.metadata.num_rows:,}. "
                    "Write the file anew."
                )


def _unreadable(file: FileRef, place: str, exc: Exception) -> SourceError:
    told = str(exc).strip().removesuffix(".") or type(exc).__name__
    return SourceError(
        f"{file.url}{place} cannot be read as Parquet: {told}. Check that it can be read from here, or write it anew."
    )


def _row_groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """Return the row groups from the one that holds a row on, and the first row of that one."""
    found = [(number, rows.start) for number, rows in rows_of_groups(metadata) if rows.stop > row]
    return [number for number, _ in found], found[0][1] if found else metadata.num_rows
