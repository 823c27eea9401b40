"""
The protobuf messages of Pinecone's gRPC API, and their JSON form.

They are built when this module is imported, from a table of names, numbers and types, which are the facts of the interface
(https://github.com/pinecone-io/pinecone-api, ``db_data_2025-04.proto``). That needs no compiler, no generated code that is
tied to a version of protobuf, and no file of others; and it can share a process with Pinecone's SDK, which registers the same
names in protobuf's default pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from google.protobuf import json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClassesForFiles

_STRUCT: Final = "google.protobuf.Struct"
_SPARSE: Final = {"indices": (1, "uint32*"), "values": (2, "float*")}
_EXACT_INTEGER: Final = 2**53

_MESSAGES: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    # Number and type of each field. A star: repeated; "map X": from strings to X.
    "SparseValues": _SPARSE,
    "Vector": {
        "id": (1, "string"),
        "values": (2, "float*"),
        "metadata": (3, _STRUCT),
        "sparse_values": (4, "SparseValues"),
    },
    "ScoredVector": {
        "id": (1, "string"),
        "score": (2, "float"),
        "values": (3, "float*"),
        "metadata": (4, _STRUCT),
        "sparse_values": (5, "SparseValues"),
    },
    "Usage": {"read_units": (1, "uint32")},
    "Pagination": {"next": (1, "string")},
    "ListItem": {"id": (1, "string")},
    "NamespaceSummary": {"vector_count": (1, "uint32")},
    # https://github.com/googleapis/googleapis/tree/master/google/rpc: status.proto, error_details.proto
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "ErrorInfo": {"reason": (1, "string"), "domain": (2, "string"), "metadata": (3, "map string")},
    "Status": {"code": (1, "int32"), "message": (2, "string"), "details": (3, "Any*")},
    "UpsertRequest": {"vectors": (1, "Vector*"), "namespace": (2, "string")},
    "UpsertResponse": {"upserted_count": (1, "uint32")},
    "DeleteRequest": {
        "ids": (1, "string*"),
        "delete_all": (2, "bool"),
        "namespace": (3, "string"),
        "filter": (4, _STRUCT),
    },
    "DeleteResponse": {},
    "FetchRequest": {"ids": (1, "string*"), "namespace": (2, "string")},
    "FetchResponse": {"vectors": (1, "map Vector"), "namespace": (2, "string"), "usage": (3, "Usage")},
    "ListRequest": {
        "prefix": (1, "string"),
        "limit": (2, "uint32"),
        "pagination_token": (3, "string"),
        "namespace": (4, "string"),
    },
    "ListResponse": {
        "vectors": (1, "ListItem*"),
        "pagination": (2, "Pagination"),
        "namespace": (3, "string"),
        "usage": (4, "Usage"),
    },
    "QueryRequest": {
        "namespace": (1, "string"),
        "top_k": (2, "uint32"),
        "filter": (3, _STRUCT),
        "include_values": (4, "bool"),
        "include_metadata": (5, "bool"),
        "vector": (7, "float*"),
        "id": (8, "string"),
        "sparse_vector": (9, "SparseValues"),
    },
    "QueryResponse": {"matches": (2, "ScoredVector*"), "namespace": (3, "string"), "usage": (4, "Usage")},
    "UpdateRequest": {
        "id": (1, "string"),
        "values": (2, "float*"),
        "set_metadata": (3, _STRUCT),
        "namespace": (4, "string"),
        "sparse_values": (5, "SparseValues"),
    },
    "UpdateResponse": {},
    "DescribeIndexStatsRequest": {"filter": (1, _STRUCT)},
    "DescribeIndexStatsResponse": {
        "namespaces": (1, "map NamespaceSummary"),
        "dimension": (2, "uint32"),
        "index_fullness": (3, "float"),
        "total_vector_count": (4, "uint32"),
        "metric": (5, "string"),
        "vector_type": (6, "string"),
    },
}


def _add_field(message: DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    is_repeated = kind.endswith("*") or kind.startswith("map ")
    field.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if kind.startswith("map "):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind.removeprefix("map "))
        kind = f"{message.name}.{entry.name}"
    kind = kind.removesuffix("*")
    if kind[0].islower() and kind != _STRUCT:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{kind}"


def _build() -> Mapping[str, type[Message]]:
    file = FileDescriptorProto(name="pinecone.proto", syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name])
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    pool = DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    classes: Mapping[str, type[Message]] = GetMessageClassesForFiles([file.name], pool)
    return classes


MESSAGES: Final = _build()
"""The classes of the messages, by name."""


def to_json(message: Message) -> dict[str, Any]:
    """
    Return the JSON form of a message, without the fields that have their default value.

    :param message: One of these messages.
    :return: What orjson can serialize: floats are numpy arrays of float64, so that none is rounded.
    """
    return {field.json_name: _field_to_json(field, value) for field, value in message.ListFields()}


def _field_to_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return value if isinstance(value, (str, int)) else _scalars_to_json(field, value)
    if field.message_type.full_name == _STRUCT:
        return _with_integers(json_format.MessageToDict(value))
    return to_json(value) if isinstance(value, Message) else [to_json(item) for item in value]


def _scalars_to_json(field: FieldDescriptor, value: Any) -> Any:
    return np.array(value, np.float64) if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else list(value)


def _with_integers(value: Any) -> Any:
    """Write whole numbers without a decimal point, as the JSON of the real service does."""
    if isinstance(value, float) and value.is_integer() and 0 < abs(value) <= _EXACT_INTEGER:
        return int(value)
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    return [_with_integers(item) for item in value] if isinstance(value, list) else value


def from_json(name: str, text: bytes) -> Message:
    """
    Make a message from its JSON form.

    :param name: The name of the message.
    :param text: JSON; unknown fields are ignored.
    :raises google.protobuf.json_format.ParseError: It is not the JSON form of such a message.
    """
    return json_format.Parse(text, MESSAGES[name](), ignore_unknown_fields=True)
