"""
Find Parquet files by path, folder or glob, and open them.

Invariants:

- Files are in the order of their paths, and none is listed twice.
- A file that is missing or may not be read is a :class:`SourceError`; any other failure of a storage is a
  :class:`StorageError`, because it may be temporary.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError, StorageError
from airflow_pinecone_upsert.pipeline.namespaces import to_namespace

log = logging.getLogger(__name__)

_Info = Mapping[str, Any]
"""What a file system reports about one file or folder."""

_CONTENT_VERSION_KEYS: Final = ("ETag", "etag", "generation", "content_md5")
_TIME_KEYS: Final = ("mtime", "LastModified", "last_modified", "updated")
"""Under which file systems report what changes when a file is rewritten; the first key that has a value counts."""

WILDCARDS: Final = "*?["

_DOCUMENTS: Final = "documents"
_QUERIES: Final = "queries"
"""The folders of a dataset in the layout of https://github.com/pinecone-io/pinecone-datasets: only the first has records."""


@dataclass(frozen=True)
class FileRef:
    """
    A Parquet file.

    :param fs: The file system that holds it.
    :param path: Its path there.
    :param url: The path or URL that the user knows it by.
    :param size: Bytes.
    :param version: Changes when the file is rewritten; empty where the storage reports nothing of the kind.
    :param has_content_version: Whether the version belongs to the content: it is not a time, which may be restored.
    :param namespace: The namespace of its records, where its path names it.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    url: str
    size: int = 0
    version: str = ""
    has_content_version: bool = False
    namespace: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that small reads are cheap."""
        return isinstance(self.fs, LocalFileSystem)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """
        Open it for reading bytes.

        :raises SourceError: It is on another machine, and missing or not readable.
        :raises StorageError: It is on another machine, and the storage does not answer, now or in a later read.
        """
        if self.is_local:
            with self.fs.open(self.path, "rb") as handle:
                yield handle
        else:
            with _storage_errors(self.url):
                handle = self.fs.open(self.path, "rb", cache_type="none")
            with handle:
                yield _RemoteHandle(handle, self.url)


def find_parquet_files(fs: fsspec.AbstractFileSystem, path: str) -> list[FileRef]:
    """
    Find the files that a path means, sorted by path.

    :param fs: The file system.
    :param path: A file; a folder, which means the ``*.parquet`` directly in it; or a glob.
    :raises SourceError: The file does not exist or may not be read, or no file matches.
    :raises StorageError: The storage does not answer.
    """
    with _storage_errors(url_of(fs, path)):
        return [_file_ref(fs, info) for info in _matches(fs, path)]


def list_parquet_files(fs: fsspec.AbstractFileSystem, folder: str) -> list[FileRef]:
    """
    List all ``*.parquet`` below a folder, at any depth, sorted by path; none where it does not exist.

    :raises SourceError: The folder may not be read.
    :raises StorageError: The storage does not answer.
    """
    with _storage_errors(url_of(fs, folder)):
        found = fs.find(folder, detail=True)
        return [_file_ref(fs, found[path]) for path in sorted(found) if path.endswith(".parquet")]


def find_files_by_namespace(fs: fsspec.AbstractFileSystem, path: str, root: str | None = None) -> list[FileRef]:
    """
    Find the files that a path means, each with the namespace that its folder names, sorted by path.

    :param fs: The file system.
    :param path: A file; a folder, which means all ``*.parquet`` below it; or a glob.
    :param root: The folder that contains the folders of the namespaces; None for the path itself, of a glob the part before
        its first wildcard.
    :raises SourceError: Nothing matches, or a file is not in a folder right below the root, or that is not a namespace.
    :raises StorageError: The storage does not answer.
    """
    with _storage_errors(url_of(fs, path)):
        is_folder = fs.isdir(path)
    files = _all_below(fs, path) if is_folder else find_parquet_files(fs, path)
    if root is None:
        root = path if is_folder else _before_wildcard(fs, path)
    return [_with_namespace(fs, file, root.rstrip("/")) for file in files]


def list_files_by_namespace(fs: fsspec.AbstractFileSystem, folder: str) -> list[FileRef]:
    """
    List all ``*.parquet`` below a folder, each with the namespace that the folder right below it names, sorted by path.

    :raises SourceError: There is none, or one is not in a folder right below the folder, or that is not a namespace.
    :raises StorageError: The storage does not answer.
    """
    return [_with_namespace(fs, file, folder.rstrip("/")) for file in _all_below(fs, folder)]


def _all_below(fs: fsspec.AbstractFileSystem, folder: str) -> list[FileRef]:
    files = list_parquet_files(fs, folder)
    if not files:
        raise SourceError(f"There is no *.parquet file below {url_of(fs, folder)}. Check the path.")
    return files


def _before_wildcard(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the folders of a glob before the first one with a wildcard."""
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if any(map(part.__contains__, WILDCARDS))), None)
    if first is None:
        raise SourceError(
            f"namespace_from_path: {url_of(fs, path)} is a file, so no folder below it names a namespace. Name the folder "
            "that contains the folders of the namespaces, in parquet_paths or in namespace_from_path."
        )
    return "/".join(parts[:first])


def _with_namespace(fs: fsspec.AbstractFileSystem, file: FileRef, root: str) -> FileRef:
    name, separator, _ = file.path.removeprefix(f"{root}/").partition("/")
    if not separator or not file.path.startswith(f"{root}/"):
        raise SourceError(
            f"{file.url} is not in a folder below {url_of(fs, root)}, which would name its namespace. Move it into one; "
            "__default__ is the default namespace."
        )
    try:
        return replace(file, namespace=to_namespace(name))
    except ValueError as exc:
        raise SourceError(f"The folder {name!r:.80} of {file.url} is not a namespace: {exc}. Rename it.") from exc


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    """Distinguish a file that is missing or not readable, which is permanent, from other failures of its storage."""
    try:
        yield
    except PineconeUpsertError:
        raise
    except (FileNotFoundError, PermissionError) as exc:
        raise SourceError(
            f"{url} cannot be read: {exc}. Check the path, and that the worker has permission to read it."
        ) from exc
    except Exception as exc:  # storage libraries share no exception class
        raise StorageError(
            f"{url} cannot be read at the moment: {str(exc) or type(exc).__name__}. Check that the storage can be reached."
        ) from exc


class _RemoteHandle:
    """A file on another machine: a failing read becomes an error of the storage, and not one of Arrow's."""

    def __init__(self, handle: Any, url: str) -> None:
        self._handle = handle
        self._url = url

    def read(self, size: int = -1) -> Any:
        with _storage_errors(self._url):
            return self._handle.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def _file_ref(fs: fsspec.AbstractFileSystem, info: _Info) -> FileRef:
    version = _first_value(info, _CONTENT_VERSION_KEYS)
    has_content_version = bool(version)
    if isinstance(fs, LocalFileSystem):
        version = _local_version(info["name"])
    elif not version:
        version = _first_value(info, _TIME_KEYS)
    return FileRef(
        fs,
        info["name"],
        url_of(fs, info["name"]),
        info.get("size") or 0,
        version,
        has_content_version=has_content_version,
    )


def _first_value(info: _Info, keys: Iterable[str]) -> str:
    return next((str(info[key]) for key in keys if info.get(key)), "")


def _local_version(path: str) -> str:
    """
    Return a value that changes when a file is replaced, even if its time and size are restored or the path is a link.

    :raises SourceError: The path is a pipe or a device, which could block forever.
    """
    found = os.stat(path)  # noqa: PTH116 - fsspec reports the time of a link, this the time of its target
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path} is not a regular file. Name Parquet files, or a folder of them.")
    return f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


def url_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the path or URL that the user knows a path by."""
    return path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)


def _matches(fs: fsspec.AbstractFileSystem, path: str) -> list[_Info]:
    url = url_of(fs, path)
    if any(wildcard in path for wildcard in WILDCARDS) and not fs.exists(path):
        found = _files_of(fs, fs.glob(path, detail=True).values())
        if "**" in path:
            found = _without_queries(found, url)
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


def _without_queries(infos: Sequence[_Info], pattern: str) -> list[_Info]:
    """
    Leave out the queries next to the documents of a dataset, which are no records, and say so.

    A task would fail at them only after it had sent the documents.
    """
    folders = {info["name"].rpartition("/")[0] for info in infos}
    left_out = sorted(
        folder
        for folder in folders
        if folder.endswith(f"/{_QUERIES}") and f"{folder.removesuffix(_QUERIES)}{_DOCUMENTS}" in folders
    )
    for folder in left_out:
        log.warning(
            "%s leaves out the files in %s: in a dataset's layout, they are queries and not records. "
            "If they are records, name this folder, too.",
            pattern,
            folder,
        )
    return [info for info in infos if info["name"].rpartition("/")[0] not in left_out]


def _parquet_files_in(fs: fsspec.AbstractFileSystem, folder: str) -> list[_Info]:
    # Not with a glob: the folder's own name may contain wildcards.
    return _files_of(fs, (info for info in fs.ls(folder, detail=True) if info["name"].endswith(".parquet")))


def _files_of(fs: fsspec.AbstractFileSystem, infos: Iterable[_Info]) -> list[_Info]:
    """
    Return the files among some matches, sorted by path, each once.

    A folder named ``*.parquet``, as Spark writes it, means the files in it. Other folders are left out.
    """
    by_path = {}
    for info in infos:
        if info["type"] != "directory":
            by_path[info["name"]] = info
        elif info["name"].endswith(".parquet"):
            by_path.update((file["name"], file) for file in _parquet_files_in(fs, info["name"]))
    return [by_path[path] for path in sorted(by_path)]
