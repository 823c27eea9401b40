"""
Write small files as a whole: a reader finds all of a file or none of it.

On local storage a file is written under another name, flushed to the disk, and then renamed or linked, so that neither a
killed process nor a power failure leaves a part of it. Object storage shows an object once its upload is complete.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

PARTIAL_SUFFIX: Final = ".part"
"""Of a local file that is being written. After a kill it is left over, and no reader looks at it."""


def write_file(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    """
    Write a file. It replaces a file of that name.

    :raises Exception: Whatever the storage raises; then the path has its earlier content, if any.
    """
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, content)  # one request: an open handle uploads what it has when an error closes it
        return
    with _partial(path) as partial:
        partial.write_bytes(content)
        _sync(partial)
        partial.replace(path)
    _sync(Path(path).parent)


def create_file(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    """
    Write a file, unless there is one with that name. Of several processes that try it at once, one succeeds.

    That holds for local storage, and for Amazon S3, Google Cloud Storage and Azure, which check the condition themselves.
    Others can only be asked whether the file exists: two processes at the same instant may both succeed there.

    :return: Whether it was written. In object storage a file with this content counts as written: a response may be lost.
    :raises Exception: Whatever the storage raises.
    """
    if isinstance(fs, LocalFileSystem):
        with _partial(path) as partial:
            partial.write_bytes(content)
            _sync(partial)
            is_new = _link(partial, path)
        _sync(Path(path).parent)
        return is_new
    try:
        fs.pipe_file(path, content, mode="create")
    except OSError:
        # The client may have repeated a request whose response was lost; and not every S3 server names the condition
        # that failed, so that the error is not always a FileExistsError.
        try:
            return bool(fs.cat_file(path) == content)
        except FileNotFoundError:
            pass
        raise
    return True


@contextmanager
def new_file(fs: fsspec.AbstractFileSystem, path: str, *, block_bytes: int) -> Iterator[BinaryIO]:
    """
    Open a new file that is too large for one request. Its name must be unused, and unknown to readers.

    On local storage it appears when the block ends without an error. Object storage may keep a part of it after an error.

    :param block_bytes: Of each part that is uploaded.
    :raises Exception: Whatever the storage raises.
    """
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb", block_size=block_bytes) as handle:
            yield handle
        return
    with _partial(path) as partial:
        with partial.open("wb") as handle:
            yield handle
        _sync(partial)
        partial.replace(path)
    _sync(Path(path).parent)


@contextmanager
def _partial(path: str) -> Iterator[Path]:
    """Return an unused name next to a path, in a folder that exists; remove what is left of it."""
    partial = Path(f"{path}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _link(partial: Path, path: str) -> bool:
    """Give a file its name, unless another file has it."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with Path(path).open("xb") as file:
                file.write(partial.read_bytes())
        except FileExistsError:
            return False
        _sync(Path(path))
    return True


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
