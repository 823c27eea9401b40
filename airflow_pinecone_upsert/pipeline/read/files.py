"""Parquet files, found by path, folder or glob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError, StorageError

_Info = Mapping[str, Any]
"""What a file system tells about one file or folder."""


_VERSIONS: Final = ("ETag", "etag", "generation", "content_md5", "mtime", "LastModified", "last_modified", "updated")
"""What file systems call that which differs once a file was written anew; the first one known counts."""


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
            f"{url} cannot be read at the moment: {str(exc) or type(exc).__name__}. Check that the storage can be reached."
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
