"""
The folder of a manifest: a few operations on files of one folder, local or in any object storage.

Invariants:

- Every file but a base is complete or absent. A base is not named by any other file until it is complete.
- The storage is asked each time: listings are not cached.
- A folder that may not be used is a :class:`ManifestError`; any other failure is a :class:`StorageError`, because it may
  be temporary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

import fsspec

from airflow_pinecone_upsert.exceptions import ManifestError, PineconeUpsertError, StorageError
from airflow_pinecone_upsert.pipeline.read.files import url_of
from airflow_pinecone_upsert.pipeline.whole_file import create_file, new_file, write_file

_BLOCK_BYTES: Final = 8 << 20
"""Of an upload in parts, and of a download."""

_MAX_PARALLEL_READS: Final = 16


@dataclass(frozen=True)
class ManifestFolder:
    """
    A folder.

    :param fs: A file system.
    :param path: The folder's path there. It need not exist.
    """

    fs: fsspec.AbstractFileSystem
    path: str

    @property
    def url(self) -> str:
        """The path or URL that the user knows it by."""
        return url_of(self.fs, self.path.rstrip("/"))

    def sizes(self) -> dict[str, int]:
        """
        Return the files of the folder by name, with their bytes.

        :raises ManifestError: The folder may not be listed.
        :raises StorageError: The storage does not respond.
        """
        return {_name(info["name"]): info.get("size") or 0 for info in self._list() if info["type"] != "directory"}

    def subfolders(self) -> list[str]:
        """
        Return the names of the folders in the folder, sorted.

        :raises ManifestError: The folder may not be listed.
        :raises StorageError: The storage does not respond.
        """
        return sorted(_name(info["name"]) for info in self._list() if info["type"] == "directory")

    def subfolder(self, name: str) -> ManifestFolder:
        """Return a folder in the folder."""
        return ManifestFolder(self.fs, self._path_of(name))

    def _list(self) -> Sequence[Mapping[str, Any]]:
        with self._errors("listed"):
            self.fs.invalidate_cache(self.path)
            try:
                found: Sequence[Mapping[str, Any]] = self.fs.ls(self.path.rstrip("/"), detail=True)
            except FileNotFoundError:
                return []
            return found

    def read(self, name: str) -> bytes:
        """
        Return the content of a file.

        :raises FileNotFoundError: There is no such file.
        :raises StorageError: The storage does not respond.
        """
        ((_, content),) = self.read_all([name])
        return content

    def read_all(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """
        Yield files and their contents in order; several are read at once where the file system can.

        :raises FileNotFoundError: One of them does not exist.
        :raises StorageError: The storage does not respond.
        """
        for start in range(0, len(names), _MAX_PARALLEL_READS):
            some = names[start : start + _MAX_PARALLEL_READS]
            with self._errors("read"):
                contents = self.fs.cat_ranges([self._path_of(name) for name in some], None, None, on_error="raise")
            yield from zip(some, contents, strict=True)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """
        Open a file that may be large.

        :raises FileNotFoundError: There is no such file.
        :raises StorageError: The storage does not respond, now or while the file is read.
        """
        with self._errors("read"):
            handle = self.fs.open(self._path_of(name), "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
        with handle:
            yield cast("BinaryIO", _Handle(handle, self._errors))

    def write(self, name: str, content: bytes) -> None:
        """
        Write a file. It replaces a file of that name.

        :raises ManifestError: The folder may not be written to.
        :raises StorageError: The storage does not respond. The file may or may not be written.
        """
        with self._errors("written"):
            write_file(self.fs, self._path_of(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """
        Write a file, unless there is one of that name. See :func:`create_file`.

        :return: Whether it was written.
        :raises ManifestError: The folder may not be written to.
        :raises StorageError: The storage does not respond. The file may or may not be written.
        """
        with self._errors("written"):
            return create_file(self.fs, self._path_of(name), content)

    @contextmanager
    def create_large(self, name: str) -> Iterator[BinaryIO]:
        """
        Open a new file of any size, whose name no other process uses. See :func:`new_file`.

        :raises ManifestError: The folder may not be written to.
        :raises StorageError: The storage does not respond.
        """
        with ExitStack() as stack:
            with self._errors("written"):
                handle = stack.enter_context(new_file(self.fs, self._path_of(name), block_bytes=_BLOCK_BYTES))
            yield cast("BinaryIO", _Handle(handle, self._errors))
            with self._errors("written"):
                stack.close()

    def delete(self, names: Iterable[str]) -> None:
        """
        Delete files. One that does not exist is ignored.

        :raises ManifestError: The folder may not be written to.
        :raises StorageError: The storage does not respond. Some files may be deleted.
        """
        with self._errors("deleted"):
            for name in names:
                try:
                    self.fs.rm_file(self._path_of(name))
                except FileNotFoundError:
                    continue

    def _path_of(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except PineconeUpsertError:
            raise
        except FileNotFoundError as exc:
            if what == "read":
                raise  # the caller knows whether it may be missing
            raise self._unusable(what, exc) from exc
        except (PermissionError, NotADirectoryError, FileExistsError) as exc:
            raise self._unusable(what, exc) from exc
        except Exception as exc:  # storage libraries share no exception class
            raise StorageError(
                f"The manifest in {self.url} cannot be {what} at the moment: {_text(exc)}. "
                "Check that the storage can be reached."
            ) from exc

    def _unusable(self, what: str, exc: Exception) -> ManifestError:
        return ManifestError(
            f"The manifest in {self.url} cannot be {what}: {_text(exc)}. "
            "Check manifest_path, its connection, and what its storage lets this machine do."
        )


class _Handle:
    """A file whose reads and writes raise the errors of its folder; other errors of its user stay what they are."""

    def __init__(self, handle: BinaryIO, errors: Callable[[str], AbstractContextManager[None]]) -> None:
        self._handle = handle
        self._errors = errors

    def read(self, size: int = -1) -> bytes:
        with self._errors("read"):
            return self._handle.read(size)

    def write(self, content: bytes) -> int:
        with self._errors("written"):
            return self._handle.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def _name(path: Any) -> str:
    return str(path).rstrip("/").rpartition("/")[2]


def _text(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
