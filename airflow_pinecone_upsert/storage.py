"""Paths as Airflow's users write them become Parquet files that can be opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

from airflow.sdk import ObjectStoragePath

from airflow_pinecone_upsert.exceptions import SetupError, SourceError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import FileRef, find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from airflow_pinecone_upsert.pipeline.violation import preview

_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}


def parquet_files(paths: Any, stop: CancellationToken | None = None) -> list[FileRef]:
    """
    Find the files behind ``parquet_paths``.

    :param paths: A file, a folder or a glob, as text or as an ``ObjectStoragePath``; or any nesting of lists of them.
    :param stop: Ends the wait for a storage that does not answer.
    :return: Each file once, in the order of ``paths``; those of a folder or a glob sorted.
    :raises SourceError: Something is no path, or there is no file behind it.
    :raises SetupError: Nothing installed here knows the path's scheme.
    :raises IncompleteUpsertError: The run is to stop.
    """
    opened = [_open_storage(path) for path in _each(paths, "parquet_paths")]

    def find() -> list[FileRef]:
        files = {file.url: file for fs, path in opened for file in find_parquet_files(fs, path)}
        return list(files.values())

    return call_in_background(find, stop or CancellationToken())


def rejects_folder(path: Any) -> RejectsFolder:
    """
    Find the file system behind ``rejects_path``.

    :param path: A folder, or a file that ends in ``.parquet``; text or ``ObjectStoragePath``.
    :raises SourceError: It is no path.
    :raises SetupError: Nothing installed here knows the path's scheme.
    """
    (one,) = _each(path, "rejects_path")
    return RejectsFolder(*_open_storage(one))


class ParquetPaths:
    """
    Recognises paths among what a function yields, and reads the files behind them.

    :param columns: Which columns of the files hold what.
    :param stop: Ends the wait for a storage that does not answer.
    """

    def __init__(self, columns: Columns, stop: CancellationToken) -> None:
        self._columns = columns
        self._stop = stop

    def __contains__(self, value: object) -> bool:
        """Tell whether a value is a path."""
        return isinstance(value, (str, os.PathLike, ObjectStoragePath))

    def open(self, path: Any) -> ParquetSource:
        """
        Find the files behind a path.

        :raises SourceError: There is none.
        """
        return ParquetSource(parquet_files(path, self._stop), self._columns, self._stop)


def _each(paths: Any, parameter: str) -> Iterator[ObjectStoragePath]:
    if isinstance(paths, ObjectStoragePath):
        yield paths
    elif isinstance(paths, (str, os.PathLike)) and os.fspath(paths):
        yield _parse(os.fspath(paths))
    elif isinstance(paths, Iterable) and not isinstance(paths, (str, bytes, dict)):
        for path in paths:
            yield from _each(path, parameter)
    else:
        raise SourceError(
            f"{parameter} holds {preview(paths)} ({type(paths).__name__}), which is not a path. Name a file or a folder."
        )


def _parse(path: str) -> ObjectStoragePath:
    try:
        return ObjectStoragePath(path)
    except ValueError as exc:  # a scheme that no library here has heard of
        raise _no_file_system(path, path.partition("://")[0], exc) from exc


def _open_storage(path: ObjectStoragePath) -> tuple[Any, str]:
    try:
        return path.fs, path.path
    except (ValueError, ImportError) as exc:
        raise _no_file_system(str(path), path.protocol, exc) from exc


def _no_file_system(path: str, scheme: str, exc: Exception) -> SetupError:
    extra = _EXTRAS.get(scheme)
    remedy = (
        f"Install it where the task runs: pip install 'airflow-pinecone-upsert[{extra}]'"
        if extra
        else "Check the scheme, or install the Airflow provider that brings it where the task runs"
    )
    return SetupError(f"No file system for {path} is installed here ({exc}). {remedy}.")
