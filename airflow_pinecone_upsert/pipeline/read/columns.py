"""
Select the columns of a table that become records.

Invariants:

- The types of the columns are checked before any row is read, so that a wrong column is one error and not one per row.
- The encoder receives plain columns only: dictionaries, extension types and string views are decoded here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
from pyarrow import types

from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, PARTS, without_dictionary
from airflow_pinecone_upsert.pipeline.read.hints import conversion_hint, is_variant
from airflow_pinecone_upsert.pipeline.violation import preview_names

log = logging.getLogger(__name__)

_PANDAS_INDEX: Final = "__index_level_"
"""How pandas begins the name of a column that holds a nameless index."""

_PLURALS: Final = {NAMESPACE: "namespaces"}

_UUID_BYTES: Final = 16

_BOOL8: Final = "arrow.bool8"
"""Of the extension types that store numbers, the one that Arrow converts to its values."""


class UnusedColumns:
    """Logs the columns of a source that are not used, once however many files or tables it has."""

    def __init__(self) -> None:
        self._are_logged = False

    def log(self, selection: ColumnSelection) -> None:
        """Log those of one file or table, unless those of an earlier one were logged."""
        if not self._are_logged and selection.unused:
            self._are_logged = True
            selection.log_unused()


class ColumnSelection:
    """
    The columns of one table that become records.

    :param schema: The schema of the table.
    :param columns: The names that the user gave.
    :param shape: The kind of vectors that the index holds; decides which columns are required.
    :param origin: The file's path or URL, for messages.
    :param others: Columns of the table that are not in ``schema``, for messages.
    :param ids_only: Leave out every other part of a record.
    :raises SourceError: A column is missing, or occurs more than once, or its type does not fit.
    """

    def __init__(  # noqa: PLR0913 - what the table is, and what is wanted of it
        self,
        schema: pa.Schema,
        columns: Columns,
        shape: IndexShape,
        origin: str,
        others: Sequence[str] = (),
        *,
        ids_only: bool = False,
    ) -> None:
        self._schema = schema
        self._origin = origin
        self._others = others
        self._values_format = columns.values_format
        self._metadata_columns = columns.metadata_columns or ()
        is_sparse_only = shape.sparse or (shape.dimension is None and columns.sparse_values_column in schema.names)
        wanted = {
            "id": ("id_column", True),
            "values": ("values_column", not is_sparse_only),
            "sparse_values": ("sparse_values_column", shape.sparse),
        }
        if columns.metadata_columns is None:
            wanted["metadata"] = ("metadata_column", False)
        if columns.namespace_column is not None:
            wanted[NAMESPACE] = ("namespace_column", True)
        if ids_only:
            wanted = {"id": wanted["id"]}
        self._columns: dict[str, str] = {}
        for part, (parameter, required) in wanted.items():
            name: str = getattr(columns, parameter)
            if self._exists(name):
                self._check(part, schema.field(name), parameter)
                self._columns[part] = name
            elif required or columns.is_named(parameter):
                raise self._missing(name, parameter)
        for name in self._metadata_columns:
            if not self._exists(name):
                raise self._missing(name, "metadata_columns")
            self._check_extension(name, schema.field(name))
        self.names: Final[Mapping[str, str]] = {**PARTS, **self._columns}

    @property
    def column_names(self) -> list[str]:
        """The names of the columns to read, each once."""
        return list(dict.fromkeys([*self._columns.values(), *self._metadata_columns]))

    @property
    def vector_columns(self) -> frozenset[str]:
        """The names of the columns whose values are encoded without becoming Python objects."""
        return frozenset(name for part, name in self._columns.items() if part in ("values", "sparse_values"))

    @property
    def unused(self) -> Sequence[str]:
        """The names of the columns that become no part of a record."""
        used = set(self.column_names)
        names = (name for name in [*self._schema.names, *self._others] if name not in used)
        return [name for name in names if not name.startswith(_PANDAS_INDEX)]

    def log_unused(self) -> None:
        """Say which columns are not used, as a warning where that leaves the records without metadata."""
        if self._metadata_columns or "metadata" in self._columns:
            log.info("%s: columns that are not used: %s.", self._origin, preview_names(self.unused))
        else:
            log.warning(
                "%s has no column of metadata, and columns that are not used: %s. Name those that become keys of the metadata "
                "in metadata_columns, or the one that contains the metadata in metadata_column.",
                self._origin,
                preview_names(self.unused),
            )

    def records(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """
        Convert a batch of the table to the form of :attr:`Chunk.records`.

        :param batch: Has at least the columns :attr:`column_names`.
        """
        parts = {part: _decoded(batch.column(name)) for part, name in self._columns.items()}
        if self._metadata_columns:
            children = [batch.column(name) for name in self._metadata_columns]
            parts["metadata"] = pa.StructArray.from_arrays(children, names=list(self._metadata_columns))
        return pa.RecordBatch.from_pydict(parts)

    def _exists(self, name: str) -> bool:
        count: int = self._schema.names.count(name)
        if count > 1:
            raise SourceError(f"{self._origin} has {count} columns {name!r}. Rename all but one of them.")
        return count == 1

    def _missing(self, name: str, parameter: str) -> SourceError:
        existing = preview_names([*self._schema.names, *self._others])
        return SourceError(
            f"{self._origin} has no column {name!r}. Set {parameter} to one of its columns. Its columns: {existing}."
        )

    def _check_extension(self, name: str, field: pa.Field[Any]) -> None:
        extension = _extension_name(field)
        if extension and types.is_primitive(_storage_type(field.type)) and extension != _BOOL8:
            raise SourceError(
                f"{self._origin}: column {name!r} is of type {extension}, whose stored numbers are not its values. "
                "Convert it to text, for example with astype(str)."
            )

    def _check(self, part: str, field: pa.Field[Any], parameter: str) -> None:
        name = field.name
        self._check_extension(name, field)
        kind = _decoded_type(field.type)
        if part == "metadata" and types.is_struct(kind):
            repeated = next((child.name for child in kind.fields if kind.names.count(child.name) > 1), None)
            if repeated is not None:
                raise SourceError(
                    f"{self._origin}: column {name!r} has the field {repeated!r} twice. Rename one of them."
                )
            for child in kind.fields:
                self._check_extension(f"{name}.{child.name}", child)
        expected = {
            "id": ("strings, integers, UUIDs or other whole numbers", _is_id(kind)),
            "values": ("lists of numbers", self._is_vector(field.type, kind)),
            "sparse_values": ("structs of indices (list of integers) and values (list of numbers)", _is_sparse(kind)),
            "metadata": (
                "JSON strings, structs or maps",
                _is_text(kind) or types.is_map(kind) or (types.is_struct(kind) and not is_variant(kind)),
            ),
            NAMESPACE: ("strings, integers or UUIDs", _is_text(kind) or types.is_integer(kind)),
        }
        description, fits = expected[part]
        if not fits and not types.is_null(kind):
            raise SourceError(
                f"{self._origin}: column {name!r} is of type {field.type}, but {_PLURALS.get(part, part)} come as {description}. "
                f"{conversion_hint(part, kind)}, or set {parameter} to another column."
            )

    def _is_vector(self, kind: pa.DataType, decoded: pa.DataType) -> bool:
        if isinstance(kind, pa.FixedShapeTensorType):
            return kind.shape[-1] == math.prod(kind.shape)
        is_json = self._values_format == "json" and _is_text(decoded)
        return is_json or is_list_of_numbers(decoded) or is_list_of_lists(decoded) or _is_vector_udt(decoded)


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_id(kind: pa.DataType) -> bool:
    """Return whether an id can have this type. In 16 bytes of fixed size, text and UUIDs look alike."""
    is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    is_fixed = types.is_fixed_size_binary(kind) and kind.byte_width != _UUID_BYTES
    return _is_text(kind) or _is_number(kind) or is_binary or is_fixed or (types.is_decimal(kind) and kind.scale == 0)


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _is_list_of(kind: pa.DataType, fits: Callable[[pa.DataType], bool]) -> bool:
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return bool(fits(kind.value_type) or types.is_null(kind.value_type))


def is_list_of_numbers(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold vectors."""
    return _is_list_of(kind, _is_number)


def is_list_of_lists(kind: pa.DataType) -> bool:
    """Return whether a column of this type can hold lists of vectors: one that contains one is a vector, too."""
    return _is_list_of(kind, is_list_of_numbers)


def _is_vector_udt(kind: pa.DataType) -> bool:
    """Return whether this is how Spark stores a vector of its own."""
    if not types.is_struct(kind) or set(kind.names) != {"type", "size", "indices", "values"}:
        return False
    are_numbers = types.is_integer(kind.field("type").type) and types.is_integer(kind.field("size").type)
    return are_numbers and all(is_list_of_numbers(kind.field(name).type) for name in ("indices", "values"))


def _is_sparse(kind: pa.DataType) -> bool:
    if not types.is_struct(kind):
        return False
    parts = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    return (
        {"indices", "values"} <= set(parts)
        and _is_list_of(parts["indices"], types.is_integer)
        and is_list_of_numbers(parts["values"])
    )


def _extension_name(field: pa.Field[Any]) -> str | None:
    """Return the name of a column's extension type, also of one that no imported library registered."""
    if isinstance(field.type, pa.BaseExtensionType):
        return field.type.extension_name
    name = (field.metadata or {}).get(b"ARROW:extension:name")
    return None if name is None else name.decode(errors="replace")


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _decoded_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that :func:`_decoded` gives a column."""
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded_type(kind.storage_type)
    if types.is_dictionary(kind):
        return _decoded_type(kind.value_type)
    if types.is_string_view(kind):
        return pa.large_string()
    return kind


def _decoded(column: pa.Array[Any]) -> pa.Array[Any]:
    """Undo encodings, so that the encoder receives plain arrays only."""
    if isinstance(column, pa.UuidArray):
        return pa.array(
            [None if one is None else str(UUID(bytes=one)) for one in column.storage.to_pylist()], pa.string()
        )
    if isinstance(column, pa.ExtensionArray):
        return _decoded(column.storage)
    if isinstance(column, pa.DictionaryArray):
        return _decoded(without_dictionary(column))
    return column.cast(pa.large_string()) if types.is_string_view(column.type) else column
