"""
What a bulk import would stumble over: found in the names and footers of its files, before Pinecone starts to read them.

An import takes ten minutes or more, and the namespaces that it has created remain when it fails, so that the next one fails,
too. Sources: https://docs.pinecone.io/guides/index-data/import-data, and its limits.

Invariants: only footers are read, no records; every problem names its remedy; a problem that many files have is shown once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.api.models import NamespaceDescription
from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SetupError, SourceError, StorageError
from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.corruption import check_footer
from airflow_pinecone_upsert.pipeline.read.files import FileRef
from airflow_pinecone_upsert.pipeline.read.footer import leaves_of
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport
from airflow_pinecone_upsert.pipeline.violation import preview_names

_PARALLEL: Final = 16
_MAX_SHOWN: Final = 5
_COLUMNS: Final = ("id", "values", "sparse_values", "metadata")
_IN_FOLDER: Final = 1
"""Depth of a file in the folder of its namespace: ``<uri>/<namespace>/<file>``."""


class Index(Protocol):
    """What the preflight needs of an index."""

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces."""
        ...


@dataclass(frozen=True)
class ImportPlan:
    """
    What an import would read.

    :param uri: As Pinecone is given it.
    :param namespaces: The names of the folders below it.
    :param file_count: Parquet files.
    :param record_count: The rows of all of them, by their footers.
    """

    uri: str
    namespaces: Sequence[str]
    file_count: int
    record_count: int

    def check_namespaces(self, index: Index) -> None:
        """
        Check that the index has none of the namespaces.

        :raises SetupError: It has one.
        """
        wanted = set(self.namespaces)
        existing = {one.name or "__default__": one.record_count for one in index.list_namespaces()}
        if found := sorted(wanted & existing.keys()):
            count = sum(existing[name] for name in found)
            raise SetupError(
                f"{self.uri} cannot be imported: the index already has the namespaces {preview_names(found)} "
                f"({count:,} records), and an import only fills new ones. Delete them with PineconeHook().delete_namespace, "
                "also where an import that failed has left them, or rename the folders."
            )


@dataclass
class _Problems:
    """Problems, each with the files that have it."""

    files: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, url: str) -> None:
        self.files.setdefault(problem, []).append(url)

    def raise_if_any(self, uri: str) -> None:
        if not self.files:
            return
        # Sorted, because footers are read in parallel.
        lines = sorted(
            f"{min(urls)}{f' and {len(urls) - 1:,} more' if len(urls) > 1 else ''}: {problem}"
            for problem, urls in self.files.items()
        )
        more = f" … and {len(lines) - _MAX_SHOWN} more problems." if len(lines) > _MAX_SHOWN else ""
        raise SourceError(f"{uri} cannot be imported. {' '.join(lines[:_MAX_SHOWN])}{more}")


@dataclass(frozen=True, eq=False)
class _Inspection:
    """A file whose footer is to be read, in the form of a request."""

    file: FileRef
    body: bytes = b""


def check_uri(uri: str) -> None:
    """
    Check a URI.

    :raises SetupError: It is longer than Pinecone allows.
    """
    if len(uri) > limits.MAX_IMPORT_URI_LENGTH:
        raise SetupError(
            f"uri has {len(uri):,} characters; Pinecone takes {limits.MAX_IMPORT_URI_LENGTH:,}. Shorten it."
        )


def plan_import(
    uri: str, root: str, files: Sequence[FileRef], shape: IndexShape, cancellation: CancellationToken
) -> ImportPlan:
    """
    Check the layout, the sizes and the footers of the files.

    :param uri: As Pinecone is given it.
    :param root: Its path in the storage.
    :param files: All Parquet files below it, at any depth.
    :param shape: What vectors the index takes.
    :param cancellation: Ends the reading early.
    :raises SourceError: The files cannot be imported. The message names the problems.
    :raises StorageError: The storage does not respond.
    """
    problems = _Problems()
    in_folders = _check_layout(root, files, problems)
    namespaces = sorted({_parts(root, file)[0] for file in in_folders})
    _check_sizes(uri, in_folders, namespaces, problems)
    problems.raise_if_any(uri)
    record_count = 0
    for file, rows, found in _read_footers(in_folders, shape, cancellation):
        record_count += rows
        for problem in found:
            problems.add(problem, file.url)
    problems.raise_if_any(uri)
    return ImportPlan(uri, namespaces, len(in_folders), record_count)


def _parts(root: str, file: FileRef) -> list[str]:
    return file.path.removeprefix(root.rstrip("/")).strip("/").split("/")


def _check_layout(root: str, files: Sequence[FileRef], problems: _Problems) -> list[FileRef]:
    in_folders = []
    for file in files:
        depth = len(_parts(root, file)) - 1
        if depth == _IN_FOLDER:
            in_folders.append(file)
        else:
            where = "in no namespace's folder" if depth == 0 else "deeper than in the folder of a namespace"
            problems.add(
                f"it is {where}. Move it to <uri>/<namespace>/<file>.parquet; a namespace may be called __default__.",
                file.url,
            )
    return in_folders


def _check_sizes(uri: str, files: Sequence[FileRef], namespaces: Sequence[str], problems: _Problems) -> None:
    if not files and not problems.files:
        problems.add(
            "it has no *.parquet files in folders of namespaces, <uri>/<namespace>/*.parquet. Check the path.", uri
        )
    for count, limit, what in (
        (len(files), limits.MAX_IMPORT_FILES, "files"),
        (len(namespaces), limits.MAX_IMPORT_NAMESPACES, "namespaces"),
        (sum(file.size for file in files), limits.MAX_IMPORT_BYTES, "bytes"),
    ):
        if count > limit:
            problems.add(f"it has {count:,} {what}, and an import takes {limit:,}. Split it into several imports.", uri)
    for file in files:
        if file.size > limits.MAX_IMPORT_FILE_BYTES:
            problems.add(f"it has more than {limits.MAX_IMPORT_FILE_BYTES:,} bytes. Split it.", file.url)
    for name in namespaces:
        if len(name) > limits.MAX_NAMESPACE_LENGTH or not name.isascii():
            problems.add(
                f"the namespace {name[:40]!r} has other than {limits.MAX_NAMESPACE_LENGTH} ASCII characters at most. "
                "Rename the folder.",
                uri,
            )


def _read_footers(
    files: Sequence[FileRef], shape: IndexShape, cancellation: CancellationToken
) -> Iterator[tuple[FileRef, int, Sequence[str]]]:
    """Yield each file with its rows and its problems; in parallel, because a footer in object storage takes a round trip."""
    transport: ThreadTransport[Any] = ThreadTransport(lambda one: _inspect(one.file, shape), min(_PARALLEL, len(files)))
    with transport:
        for file in files:
            transport.start(_Inspection(file))
        waiting = len(files)
        while waiting:
            cancellation.raise_if_cancelled()
            completion = transport.next_completion(POLL_INTERVAL_S)
            if completion is None:
                continue
            waiting -= 1
            if isinstance(completion.result, BaseException):
                raise completion.result
            yield completion.request.file, *completion.result


def _inspect(file: FileRef, shape: IndexShape) -> tuple[int, Sequence[str]]:
    """Return the rows of a file and its problems."""
    try:
        with file.open() as handle, pq.ParquetFile(handle) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            problems = list(_schema_problems(schema, shape))
            if not problems:
                check_footer(parquet, leaves_of(parquet, schema.names), file.url)
                problems += _dimension_problems(parquet, shape)
    except StorageError:
        raise
    except (PineconeUpsertError, pa.ArrowException, OSError) as exc:
        return 0, [f"it cannot be read as Parquet ({str(exc).removesuffix('.')}). Write it again."]
    return rows, problems


def _schema_problems(schema: pa.Schema, shape: IndexShape) -> Iterator[str]:
    if unknown := [name for name in schema.names if name not in _COLUMNS]:
        hint = " or write it with to_parquet(index=False)" if any(one.startswith("__index") for one in unknown) else ""
        yield (
            f"its columns {preview_names(unknown)} are not allowed: an import takes {', '.join(_COLUMNS)} and no other. "
            f"Drop them{hint}, or put them into metadata."
        )
    required = ["id", "sparse_values" if shape.sparse else "values"]
    if missing := [name for name in required if name not in schema.names]:
        yield f"it has no column {preview_names(missing)}, which this index needs. Rename the one that holds it."
    for column in schema:
        if column.name in _TYPES:
            fits, wanted = _TYPES[column.name]
            if not fits(_plain(column.type)):
                yield f"its column {column.name!r} is of type {column.type}. {wanted}"


def _dimension_problems(parquet: pq.ParquetFile, shape: IndexShape) -> Iterator[str]:
    """Compare the number of components with the number of rows: a footer has no lengths of lists."""
    leaves = [leaf for leaf in leaves_of(parquet, ["values"]) if leaf.column == "values"]
    footer = parquet.metadata
    if shape.dimension is None or len(leaves) != 1 or not footer.num_rows:
        return
    components = sum(footer.row_group(one).column(leaves[0].number).num_values for one in range(footer.num_row_groups))
    if components != footer.num_rows * shape.dimension:
        yield (
            f"its vectors have {components / footer.num_rows:,.5g} components on average, and the index has "
            f"{shape.dimension:,}. Write vectors of the index's dimension; none may be null."
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    """Undo what is a matter of Arrow only, and not of the file."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if isinstance(kind, pa.DictionaryType) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: pa.DataType, fits: Callable[[pa.DataType], bool]) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list) and fits(_plain(kind.value_type))  # type: ignore[attr-defined]


def _is_vector(kind: pa.DataType) -> bool:
    return _is_list(kind, lambda item: bool(types.is_float32(item) or types.is_float64(item)))


def _is_sparse(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or {one.name for one in kind} != {"indices", "values"}:
        return False
    return _is_list(kind.field("indices").type, types.is_integer) and _is_vector(kind.field("values").type)


_TYPES: Final[dict[str, tuple[Callable[[pa.DataType], bool], str]]] = {
    "id": (_is_text, "Convert it to strings."),
    "values": (_is_vector, "Convert it to lists of float32."),
    "sparse_values": (_is_sparse, "Convert it to structs of indices (lists of uint32) and values (lists of float32)."),
    "metadata": (_is_text, "Convert it to JSON text, such as with json.dumps."),
}
