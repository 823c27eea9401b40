"""What to do with a column whose type does not fit: the conversion that is most likely meant."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types


def conversion_hint(part: str, kind: pa.DataType) -> str:
    """
    Say how a column is converted, as the beginning of a sentence.

    :param part: ``id``, ``values``, ``sparse_values``, ``metadata`` or ``namespace``.
    :param kind: The type of the column, of which encodings are undone.
    """
    hint = {
        "id": _of_ids,
        "values": _of_values,
        "sparse_values": _of_sparse_values,
        "metadata": _of_metadata,
        "namespace": _of_namespaces,
    }[part]
    return hint(kind)


def _of_ids(kind: pa.DataType) -> str:
    if types.is_fixed_size_binary(kind):
        return "Cast it to text; if it contains UUIDs, to UUID or to their text"
    if types.is_decimal(kind):
        return "Cast it to integers or to text"
    return "Name a column of single values" if types.is_nested(kind) else "Cast it to text"


def _of_values(kind: pa.DataType) -> str:
    if _is_text(kind):
        return 'Set values_format="json" if it contains text such as [0.1, 0.2]'
    if _is_binary(kind):
        return "Convert the bytes to lists, for example with np.frombuffer(value, np.float32).tolist()"
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return "Cast it from a list view to a list"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        if types.is_nested(kind.value_type) or types.is_floating(kind.value_type) or types.is_integer(kind.value_type):
            return "Flatten it to one list of numbers in each row"
        return "Cast its elements to float"
    return "Combine the components into one list in each row"


def _of_sparse_values(kind: pa.DataType) -> str:
    if types.is_map(kind):
        return "Convert it to a struct of the maps' keys as indices and their values as values"
    if types.is_struct(kind):
        return "Name its fields indices and values, and cast their elements to integers and numbers"
    return "Convert it to a struct of two lists"


def _of_metadata(kind: pa.DataType) -> str:
    if is_variant(kind):
        return "Cast the VARIANT to JSON text"
    return (
        "Cast it to text"
        if _is_binary(kind)
        else "Name it in metadata_columns, so that it becomes a key of the metadata"
    )


def _of_namespaces(kind: pa.DataType) -> str:
    if types.is_floating(kind):
        return 'Cast it to integers, in pandas with astype("Int64")'
    return "Name a column of single values" if types.is_nested(kind) else "Cast it to text"


def is_variant(kind: pa.DataType) -> bool:
    """Return whether this is how Parquet stores a VARIANT: two columns of bytes, and perhaps a third of another type."""
    if not types.is_struct(kind) or not {"metadata", "value"} <= set(kind.names) <= {
        "metadata",
        "value",
        "typed_value",
    }:
        return False
    return _is_binary(kind.field("metadata").type) and _is_binary(kind.field("value").type)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    is_fixed = types.is_fixed_size_binary(kind)
    return is_fixed or types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
