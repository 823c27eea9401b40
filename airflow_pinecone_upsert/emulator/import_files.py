"""
The files of a bulk import: which there are, and the records in them.

https://docs.pinecone.io/guides/index-data/import-data#prepare-your-data

Invariants:

* fsspec and Arrow are imported when an import runs, not before: the emulator itself needs neither.
* One batch of records is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.records import IndexSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

_BATCH_RECORDS: Final = 1_000
_COLUMNS: Final = ("id", "values", "sparse_values", "metadata")


class ImportFailedError(Exception):
    """The import fails; the message says why."""


@dataclass(frozen=True)
class ImportFolder:
    """
    The namespaces below the URI of an import.

    :param files: The storage.
    :param paths: The Parquet files of each namespace, by its name in the URI, both in order.
    """

    files: AbstractFileSystem
    paths: dict[str, list[str]]

    @classmethod
    def open(cls, uri: str) -> ImportFolder:
        """
        Find the files below a URI: those named ``*.parquet`` in a subfolder per namespace. All others are ignored.

        :param uri: A local path, ``file://`` or any storage that fsspec can open.
        :return: The folder.
        :raises ImportFailedError: The storage cannot be opened, there are no files, or they exceed a limit.
        """
        from fsspec.core import url_to_fs

        try:
            files, root = url_to_fs(uri)
            folders = [entry for entry in files.ls(root, detail=True) if entry["type"] == "directory"]
            found = {folder["name"].rstrip("/"): files.find(folder["name"], detail=True) for folder in folders}
        except (ImportError, OSError, ValueError) as exc:
            raise ImportFailedError(f"Cannot read {uri}: {exc}") from exc
        paths: dict[str, list[str]] = {}
        for folder, entries in sorted(found.items()):
            parquet = {path: entry for path, entry in sorted(entries.items()) if path.endswith(".parquet")}
            for path, entry in parquet.items():
                if entry["size"] > limits.MAX_IMPORT_FILE_BYTES:
                    raise ImportFailedError(f"File {path} exceeds the limit of {limits.MAX_IMPORT_FILE_BYTES} bytes")
            if parquet:
                paths[folder.rpartition("/")[2]] = list(parquet)
        folder = cls(files, paths)
        folder.check_counts(uri)
        return folder

    def check_counts(self, uri: str) -> None:
        """
        Check the numbers of namespaces and files.

        :param uri: The URI, for the message.
        :raises ImportFailedError: There are none or too many.
        """
        if not self.paths:
            raise ImportFailedError(f"No Parquet files found in subfolders of {uri}")
        if len(self.paths) > limits.MAX_IMPORT_NAMESPACES:
            raise ImportFailedError(f"More than {limits.MAX_IMPORT_NAMESPACES} namespaces in {uri}")
        if sum(map(len, self.paths.values())) > limits.MAX_IMPORT_FILES:
            raise ImportFailedError(f"More than {limits.MAX_IMPORT_FILES} files in {uri}")

    def check_columns(self, spec: IndexSpec) -> None:
        """
        Check the columns of every file.

        :param spec: The index.
        :raises ImportFailedError: A file is not Parquet, or its columns do not fit.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in (path for paths in self.paths.values() for path in paths):
            try:
                with self.files.open(path, "rb") as file:
                    schema = pq.read_schema(file)
            except (OSError, pa.ArrowException) as exc:
                raise ImportFailedError(f"Cannot read {path}: {exc}") from exc
            _check_schema(schema, path, spec)

    def batches(self, namespace: str) -> Iterator[list[dict[str, Any]]]:
        """
        Read the records of a namespace.

        :param namespace: Its name in the URI.
        :return: Batches of records, each as an upsert has it; a value that JSON could not have is a text.
        :raises ImportFailedError: A file is corrupt.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.paths[namespace]:
            try:
                with self.files.open(path, "rb") as file:
                    for batch in pq.ParquetFile(file).iter_batches(_BATCH_RECORDS):
                        yield list(map(_vector, batch.to_pylist()))
            except (OSError, ValueError, pa.ArrowException) as exc:
                raise ImportFailedError(f"Cannot read {path}: {exc}") from exc


def _check_schema(schema: pa.Schema, path: str, spec: IndexSpec) -> None:
    if unknown := sorted(set(schema.names) - set(_COLUMNS)):
        raise ImportFailedError(
            f"Unsupported column '{unknown[0]}' in file {path}. Supported columns: {', '.join(_COLUMNS)}"
        )
    required = ("id", "values" if spec.vector_type == "dense" else "sparse_values")
    if missing := [name for name in required if name not in schema.names]:
        raise ImportFailedError(f"Missing column '{missing[0]}' in file {path}")
    for field in schema:
        if not _fits(field.name, field.type):
            raise ImportFailedError(f"Column '{field.name}' in file {path} has the unsupported type {field.type}")


def _fits(name: str, kind: pa.DataType) -> bool:
    from pyarrow import types

    if name in ("id", "metadata"):
        return bool(types.is_string(kind) or types.is_large_string(kind))
    if name == "values":
        return _is_list(kind, types.is_floating)
    return (
        types.is_struct(kind)
        and {field.name for field in kind} == {"indices", "values"}
        and _is_list(kind.field("indices").type, types.is_integer)
        and _is_list(kind.field("values").type, types.is_floating)
    )


def _is_list(kind: Any, has_items: Callable[[pa.DataType], bool]) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and has_items(kind.value_type))


def _vector(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row to a record of an upsert."""
    sparse = row.get("sparse_values")
    vector = {
        "id": row["id"],
        "values": _finite(row.get("values")),
        "sparseValues": sparse and {**sparse, "values": _finite(sparse["values"])},
        "metadata": row.get("metadata"),
    }
    with suppress(orjson.JSONDecodeError):  # It stays a text, which is not valid as metadata.
        vector["metadata"] = vector["metadata"] and orjson.loads(vector["metadata"])
    return vector


def _finite(values: list[float | None] | None) -> list[Any] | None:
    """Replace values that JSON does not have by texts, which are not valid as values."""
    if values is None:
        return None
    return [value if value is not None and math.isfinite(value) else str(value) for value in values]
