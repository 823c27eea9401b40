"""Object storage: finds the files and folders that the paths of an operator's parameters name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from airflow.sdk import ObjectStoragePath
from fsspec.utils import glob_translate

from airflow_pinecone_upsert.exceptions import SetupError, SourceError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.delete.selection import IdsInFiles
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import (
    WILDCARDS,
    FileRef,
    find_files_by_namespace,
    find_parquet_files,
    list_files_by_namespace,
    list_parquet_files,
)
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from airflow_pinecone_upsert.pipeline.violation import preview
from airflow_pinecone_upsert.reindex.folder import ManifestFolder

_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}


def parquet_files(
    paths: Any,
    cancellation: CancellationToken | None = None,
    *,
    parameter: str = "parquet_paths",
    namespace_from_path: bool | str = False,
) -> list[FileRef]:
    """
    Find the files that ``parquet_paths`` names.

    :param paths: A file, a folder or a glob, as text or ``ObjectStoragePath``; or a list of these, which may be nested.
    :param cancellation: Ends the wait for a storage that does not respond.
    :param parameter: Which parameter names them, for messages.
    :param namespace_from_path: Whether their folders name their namespaces, or the folder that contains those.
    :return: Each file once, in the order of ``paths``; those of a folder or a glob are sorted.
    :raises SourceError: A value is not a path, or a path names no file.
    :raises SetupError: No installed package supports the scheme of a path.
    :raises StorageError: The storage does not respond.
    :raises IncompleteUpsertError: The upsert was cancelled.
    """
    opened = [_open_storage(path) for path in _each(paths, parameter)]
    root = None
    if isinstance(namespace_from_path, str):
        (root_path,) = _each(namespace_from_path, "namespace_from_path")
        root = _open_storage(root_path)[1]

    def find() -> list[FileRef]:
        found: Iterator[FileRef]
        if namespace_from_path:
            found = (file for fs, path in opened for file in find_files_by_namespace(fs, path, root))
        else:
            found = (file for fs, path in opened for file in find_parquet_files(fs, path))
        files = {file.url: file for file in found}
        return list(files.values())

    return call_in_background(find, cancellation or CancellationToken())


class ListedPath(NamedTuple):
    """
    A path and the files that it means.

    :param path: In its storage.
    :param prefix: What precedes the path in the text that the user gave, such as ``s3://my_conn@``.
    :param files: Sorted by path.
    """

    path: str
    prefix: str
    files: Sequence[FileRef]

    @property
    def has_whole_folders(self) -> bool:
        """Whether the files of a folder are all those that the folder as a path would mean."""
        is_file = [file.path for file in self.files] == [self.path]
        is_glob = any(wildcard in self.path for wildcard in WILDCARDS)
        return not is_file and (not is_glob or self.path.endswith("/*.parquet"))

    def url_of(self, path: str) -> str:
        """Return a path of this storage as the user would write it, with the Airflow connection if there is one."""
        return f"{self.prefix}{path.lstrip('/')}"


def listed_paths(paths: Any) -> list[ListedPath]:
    """List the files that ``parquet_paths`` names, for each path. See :func:`parquet_files`."""
    return _list_each(_each(paths, "parquet_paths"), find_parquet_files)


def listed_namespaces(folder: Any) -> ListedPath:
    """
    List all files below a folder, at any depth, each with the namespace that the folder right below names.

    :param folder: Text or ``ObjectStoragePath``.
    :raises SourceError: There is no file, or one is not in a folder right below, or that does not name a namespace.
    :raises SetupError: There is not one folder, or no installed package supports its scheme.
    :raises StorageError: The storage does not respond.
    """
    folders = list(_each(folder, "parquet_paths"))
    if len(folders) != 1:
        raise SetupError(
            f"A plan by namespace needs one folder, which contains those of the namespaces; got {len(folders)}."
        )
    (listed,) = _list_each(folders, list_files_by_namespace)
    return listed


def _list_each(paths: Iterable[ObjectStoragePath], find: Callable[[Any, str], list[FileRef]]) -> list[ListedPath]:
    opened = [(path, *_open_storage(path)) for path in paths]

    def listed() -> list[ListedPath]:
        return [ListedPath(path.rstrip("/"), _prefix(given, path), find(fs, path)) for given, fs, path in opened]

    return call_in_background(listed, CancellationToken())


def _prefix(given: ObjectStoragePath, path: str) -> str:
    return str(given).rstrip("/").removesuffix(path.strip("/"))


def parquet_source(paths: Any, columns: Columns, cancellation: CancellationToken | None = None) -> ParquetSource:
    """
    Return a source that reads the files that ``parquet_paths`` names. See :func:`parquet_files`.

    :param columns: The names of the columns in these files.
    """
    files = parquet_files(paths, cancellation, namespace_from_path=columns.namespace_from_path)
    return ParquetSource(files, columns, cancellation)


def ids_in_files(paths: Any, id_column: str, cancellation: CancellationToken | None = None) -> IdsInFiles:
    """
    Return the ids in the files that ``id_path`` names. See :func:`parquet_files`.

    :param id_column: The column that contains them; no other one is read.
    """
    files = parquet_files(paths, cancellation, parameter="id_path")
    return IdsInFiles(ParquetSource(files, Columns(id_column=id_column), cancellation, ids_only=True))


def rejects_folder(path: Any) -> RejectsFolder:
    """
    Return the folder that ``rejects_path`` names.

    :param path: A folder, or a file whose name ends in ``.parquet``; text or ``ObjectStoragePath``.
    :raises SourceError: The value is not a path.
    :raises SetupError: No installed package supports the scheme of the path.
    """
    (storage_path,) = _each(path, "rejects_path")
    return RejectsFolder(*_open_storage(storage_path))


def import_uri(uri: Any) -> str:
    """Return the ``uri`` of a bulk import as Pinecone takes it: without the Airflow connection that it may name."""
    return re.sub("^([a-z0-9+.-]+://)[^/@]*@", r"\1", str(uri))


def import_folder(uri: Any) -> tuple[str, Callable[[], list[FileRef]]]:
    """
    Open the folder that the ``uri`` of a bulk import names.

    :param uri: A folder, as text or ``ObjectStoragePath``; it may name an Airflow connection, ``s3://my_conn@bucket/folder``.
    :return: The folder's path, and what lists its files.
    :raises SourceError: The value is not a path.
    :raises SetupError: No installed package supports the scheme.
    """
    (storage_path,) = _each(uri, "uri")
    fs, path = _open_storage(storage_path)
    return path, lambda: list_parquet_files(fs, path)


def manifest_folder(path: Any) -> ManifestFolder:
    """
    Return the folder that ``manifest_path`` names.

    :param path: A folder, as text or ``ObjectStoragePath``.
    :raises SourceError: The value is not a path.
    :raises SetupError: No installed package supports the scheme of the path.
    """
    (storage_path,) = _each(path, "manifest_path")
    return ManifestFolder(*_open_storage(storage_path))


def manifests_below(path: Any, other_than: Collection[str]) -> list[str]:
    """
    Return the names of the folders in a folder that contain a manifest, sorted.

    :param path: As for :func:`manifest_folder`; it need not exist.
    :param other_than: Names that are left out; the folder of each other one is listed.
    :raises ManifestError: It may not be listed.
    :raises StorageError: The storage does not respond.
    """
    root = manifest_folder(path)
    return [name for name in root.subfolders() if name not in other_than and root.subfolder(name).sizes()]


def check_rejects_path(rejects_path: Any, parquet_paths: Any, columns: Columns) -> None:
    """
    Check that the next run would not read the rejects of this one as records.

    :param rejects_path: As for :func:`rejects_folder`; None for none.
    :param parquet_paths: As for :func:`parquet_files`.
    :param columns: Where folders name namespaces, all files below a folder are read.
    :raises SetupError: One of the paths includes files of rejects.
    """
    if not rejects_path:
        return
    folder = rejects_folder(rejects_path)
    is_file = folder.path.endswith(".parquet") and not folder.fs.isdir(folder.path)
    rejects = folder.path if is_file else f"{folder.path.rstrip('/')}/rejects.parquet"
    is_recursive = bool(columns.namespace_from_path)
    if path := _path_that_includes(folder.fs, rejects, parquet_paths, is_recursive=is_recursive):
        raise SetupError(
            f"rejects_path {str(rejects_path)!r} is inside of parquet_paths ({path}): the next run would read the "
            "rejected records again. Name a folder elsewhere."
        )


def check_manifest_path(manifest_path: Any, parquet_paths: Any, columns: Columns) -> None:
    """
    Check that the next run would not read the manifest as records.

    :param manifest_path: As for :func:`manifest_folder`.
    :param parquet_paths: As for :func:`parquet_files`.
    :param columns: Where folders name namespaces, all files below a folder are read.
    :raises SetupError: One of the paths includes files of the manifest.
    """
    folder = manifest_folder(manifest_path)
    base, is_recursive = f"{folder.path.rstrip('/')}/base.parquet", bool(columns.namespace_from_path)
    if path := _path_that_includes(folder.fs, base, parquet_paths, is_recursive=is_recursive):
        raise SetupError(
            f"manifest_path {str(manifest_path)!r} is inside of parquet_paths ({path}): the next run would read the "
            "manifest as records. Name a folder elsewhere."
        )


def check_manifests_path(manifests_path: Any, parquet_paths: Any) -> None:
    """
    Check that a plan would not take the manifests for namespaces.

    :param manifests_path: The folder of all manifests.
    :param parquet_paths: The folder that contains those of the namespaces.
    :raises SetupError: The first one is in the second one.
    """
    folder = manifest_folder(manifests_path)
    manifest = f"{folder.path.rstrip('/')}/name/base.parquet"
    if path := _path_that_includes(folder.fs, manifest, parquet_paths, is_recursive=True):
        raise SetupError(
            f"manifests_path {str(manifests_path)!r} is inside of parquet_paths ({path}): the next plan would take the "
            "manifests for namespaces. Name a folder elsewhere."
        )


def _path_that_includes(
    fs: Any, file: str, parquet_paths: Any, *, is_recursive: bool = False
) -> ObjectStoragePath | None:
    """Return the first path that would include a file of a file system."""
    for path in _each(parquet_paths, "parquet_paths"):
        source_fs, source = _open_storage(path)
        is_below = is_recursive and file.startswith(f"{source.rstrip('/')}/")
        if type(source_fs) is type(fs) and (is_below or _includes(source, file)):
            return path
    return None


def _includes(path: str, file: str) -> bool:
    """Return whether a file, a folder or a glob would include a file."""
    if any(wildcard in path for wildcard in WILDCARDS):
        return re.fullmatch(glob_translate(path), file) is not None
    return file in {path, f"{path.rstrip('/')}/{file.rpartition('/')[2]}"}


class ParquetPaths:
    """
    Recognizes paths among the values that a function yields, and opens their files.

    :param columns: The names of the columns in these files.
    :param cancellation: Ends the wait for a storage that does not respond.
    """

    def __init__(self, columns: Columns, cancellation: CancellationToken) -> None:
        self._columns = columns
        self._cancellation = cancellation

    def __contains__(self, value: object) -> bool:
        """Return whether a value is a path."""
        return isinstance(value, (str, os.PathLike, ObjectStoragePath))

    def open(self, path: Any) -> ParquetSource:
        """
        Return a source that reads the files of a path.

        :raises SourceError: The path names no file.
        """
        return parquet_source(path, self._columns, self._cancellation)


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
    except ValueError as exc:  # fsspec does not know the scheme
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
