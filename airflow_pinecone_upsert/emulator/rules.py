"""
What the service takes and how it refuses the rest.

Two layers speak, as in the real service: a transcoder that turns JSON into protobuf messages and answers in plain
text, and the index behind it, which answers ``{"code", "message", "details"}``. Words marked *recorded* are the real
service's own, taken from public bug reports; the others are ours, in the same manner.

What always holds: a request is checked as a whole before anything of it is stored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.emulator.records import FLOAT32, UINT32, IndexSpec, Row

INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
DEFAULT_NAMESPACE: Final = "__default__"
DOCUMENTS_ONLY: Final = (
    "This index has a document schema, so writes must go through the documents API. Use `POST "
    "/namespaces/{namespace}/documents/upsert`, `/update` or `/delete` with the `X-Pinecone-API-Version` header set to "
    "`2026-07` or later. The vectors and records write endpoints do not support document schemas."
)
"""*Recorded*, and said before anything else is checked."""

_VECTOR_FIELDS: Final = frozenset({"id", "values", "sparseValues", "metadata"})
_SPARSE_FIELDS: Final = frozenset({"indices", "values"})
_EXACT_INTEGER: Final = 2**53
_SHOWN_CHARACTERS: Final = 16
"""Characters of an offending metadata value that the real service shows before it writes ``...`` (recorded)."""

_CONTEXT_CHARACTERS: Final = 20
"""Characters of JSON that protobuf's parser shows on either side of a fault."""


class ApiError(Exception):
    """
    The service does not take the request.

    :param message: The service's words.
    :param status: The HTTP status.
    :param code: The gRPC code in the JSON body; ``None`` for an answer in plain text.
    """

    def __init__(self, message: str, *, status: int = 400, code: int | None = INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class MalformedRequestError(ApiError):
    """
    The JSON does not fit the message that the operation takes; answered in plain text.

    :param message: The transcoder's words.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code=None)

    @classmethod
    def value(cls, path: str, value: object, type_name: str) -> MalformedRequestError:
        """
        Name a value of the wrong type (recorded).

        :param path: Where it stands, such as ``vectors[0].values[1]``.
        :param value: The value.
        :param type_name: What belongs there: ``FLOAT``, ``STRING`` and so on.
        :return: The refusal.
        """
        return cls(f"{path}: invalid value {orjson.dumps(value).decode()} for type TYPE_{type_name}")


@dataclass(frozen=True)
class Message:
    """
    A JSON object whose fields are known, read as protobuf reads it: ``null`` and absent are the same.

    :param fields: The fields, by their JSON names.
    :param path: Where the object stands in the request; empty for the root.
    """

    fields: dict[str, Any]
    path: str = ""

    @classmethod
    def parse(cls, body: bytes, known: frozenset[str]) -> Message:
        """
        Read the body of a request.

        :param body: JSON.
        :param known: The names of the fields that the message has.
        :return: The message.
        :raises Malformed: It is not JSON, not an object, or has another field.
        """
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            start = max(exc.pos - _CONTEXT_CHARACTERS, 0)
            shown = exc.doc[start : exc.pos + _CONTEXT_CHARACTERS]
            raise MalformedRequestError(f"Unexpected token.\n{shown}\n{' ' * (exc.pos - start)}^") from exc
        if not isinstance(value, dict):
            raise MalformedRequestError("Root element must be a message.")
        return cls.of(value, "", known)

    @classmethod
    def of(cls, value: object, path: str, known: frozenset[str]) -> Message:
        """
        Take a JSON value as a message.

        :param value: The value.
        :param path: Where it stands.
        :param known: The names of the fields that the message has. Their snake_case forms are taken too.
        :return: The message.
        :raises Malformed: It is not an object, or has another field.
        """
        if not isinstance(value, dict):
            raise MalformedRequestError.value(path, value, "MESSAGE")
        if not value.keys() <= known:
            value = {_camel_case(name): field for name, field in value.items()}
            if unknown := value.keys() - known:
                raise MalformedRequestError(f"{path} {min(unknown)}: Cannot find field.".lstrip())
        return cls(value, path)

    def text(self, name: str) -> str:
        """Give a string, empty when absent."""
        return self._get(name, str, "STRING") or ""

    def flag(self, name: str) -> bool:
        """Give a boolean, false when absent."""
        return self._get(name, bool, "BOOL") or False

    def integer(self, name: str) -> int:
        """Give a whole number of at most 32 bits, 0 when absent."""
        value = self.fields.get(name)
        if value is None:
            return 0
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value <= np.iinfo(UINT32).max:
            raise MalformedRequestError.value(self._at(name), value, "UINT32")
        return value

    def items(self, name: str) -> list[Any]:
        """Give a list, empty when absent."""
        return self._get(name, list, "MESSAGE") or []

    def texts(self, name: str) -> list[str]:
        """Give a list of strings, empty when absent."""
        texts = self.items(name)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise MalformedRequestError.value(f"{self._at(name)}[{position}]", text, "STRING")
        return texts

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Give an object with any keys (protobuf's ``Struct``)."""
        value: dict[str, Any] | None = self._get(name, dict, "MESSAGE")
        return value

    def message(self, name: str, known: frozenset[str]) -> Message | None:
        """Give a nested message."""
        value = self.fields.get(name)
        return None if value is None else Message.of(value, self._at(name), known)

    def floats(self, name: str) -> bytes:
        """
        Give a list of numbers as packed float32, empty when absent.

        ``struct`` rounds as numpy does, refuses what does not fit a float32, and is twice as fast as ``np.array``.
        """
        values = self.items(name)
        try:
            packed = struct.pack(f"<{len(values)}f", *values)
        except (struct.error, OverflowError) as exc:
            raise self._bad_float(name, values) from exc
        vector = np.frombuffer(packed, FLOAT32)
        self._refuse_booleans(name, values, np.flatnonzero((vector == 0) | (vector == 1)), "FLOAT")
        return packed

    def unsigned(self, name: str) -> bytes:
        """Give a list of whole numbers as packed uint32, empty when absent."""
        values = self.items(name)
        try:
            packed = struct.pack(f"<{len(values)}I", *values)
        except struct.error as exc:
            for position, value in enumerate(values):
                if type(value) is not int or not 0 <= value <= limits.MAX_SPARSE_INDEX:
                    raise MalformedRequestError.value(f"{self._at(name)}[{position}]", value, "UINT32") from exc
            raise
        self._refuse_booleans(name, values, np.flatnonzero(np.frombuffer(packed, UINT32) <= 1), "UINT32")
        return packed

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _get(self, name: str, kind: type[Any], type_name: str) -> Any:
        value = self.fields.get(name)
        if value is not None and type(value) is not kind:
            raise MalformedRequestError.value(self._at(name), value, type_name)
        return value

    def _bad_float(self, name: str, values: list[Any]) -> MalformedRequestError:
        """Find the value that did not go into a float32."""
        largest = float(np.finfo(FLOAT32).max)
        for position, value in enumerate(values):
            if type(value) not in (int, float) or abs(value) > largest:
                return MalformedRequestError.value(f"{self._at(name)}[{position}]", value, "FLOAT")
        raise AssertionError("struct refused a value that is a float32")  # pragma: no cover

    def _refuse_booleans(self, name: str, values: list[Any], suspects: Any, type_name: str) -> None:
        """Look for booleans, which Python takes for 0 and 1, where a 0 or a 1 came out: looking everywhere is slow."""
        for position in suspects:
            if type(values[position]) is bool:
                raise MalformedRequestError.value(f"{self._at(name)}[{position}]", values[position], type_name)


def namespace_name(name: str) -> str:
    """
    Check the name of a namespace.

    :param name: As the client sent it.
    :return: The name as it is stored: the default namespace is ``""``.
    :raises Refused: It is too long, not ASCII, or holds NUL.
    """
    if len(name) > limits.MAX_NAMESPACE_LENGTH:
        raise ApiError(f"Namespace must be at most {limits.MAX_NAMESPACE_LENGTH} characters, but got {len(name)}")
    _require_ascii("Namespace", name)
    return "" if name == DEFAULT_NAMESPACE else name


def upsert_rows(message: Message, spec: IndexSpec) -> list[Row]:
    """
    Check an upsert and pack its records.

    :param message: The request.
    :param spec: The index.
    :return: One row for each record, in order; an id may occur more than once.
    :raises Refused: A record breaks a rule.
    """
    vectors = message.items("vectors")
    if not vectors:
        raise ApiError("Must provide at least one vector to upsert")
    if len(vectors) > limits.MAX_RECORDS_PER_REQUEST:
        raise ApiError(
            f"The number of vectors in an upsert request must be at most {limits.MAX_RECORDS_PER_REQUEST}, "
            f"but got {len(vectors)}"
        )
    return [
        _row(Message.of(vector, f"vectors[{position}]", _VECTOR_FIELDS), spec)
        for position, vector in enumerate(vectors)
    ]


def update_of(message: Message, spec: IndexSpec) -> Callable[[Row], Row]:
    """
    Check an update: values and sparse values are replaced, metadata are merged field by field.

    :param message: The request.
    :param spec: The index.
    :return: Gives a record as it is to be stored; raises ``ApiError`` when its metadata would become too long.
    :raises Refused: The request breaks a rule, whatever is stored.
    """
    values = dense_values(message, "values", spec, record_id=message.text("id")) if message.items("values") else None
    sparse = sparse_values(message, "sparseValues", spec)
    added = message.mapping("setMetadata")
    if added is not None:
        added = orjson.loads(_pack_metadata(added))

    def update(row: Row) -> Row:
        if values is not None:
            row = row._replace(values=values)
        if sparse is not None:
            row = row._replace(sparse_indices=sparse[0], sparse_values=sparse[1])
        if added is not None:
            row = row._replace(metadata=_pack_metadata({**orjson.loads(row.metadata or b"{}"), **added}))
        return row

    return update


def dense_values(message: Message, name: str, spec: IndexSpec, *, record_id: str | None = None) -> bytes | None:
    """
    Check a dense vector.

    :param message: Where it stands.
    :param name: Its field.
    :param spec: The index.
    :param record_id: The record that it belongs to; ``None`` for a query, which may be all zeros.
    :return: Packed float32; ``None`` in a sparse index.
    :raises Refused: Wrong dimension, all zeros, or dense values where none belong.
    """
    packed = message.floats(name)
    dimension = len(packed) // FLOAT32.itemsize
    if spec.dimension is None:
        if packed:
            raise ApiError("Index configuration does not support dense values - only sparse values are supported")
        return None
    if dimension != spec.dimension:
        raise ApiError(f"Vector dimension {dimension} does not match the dimension of the index {spec.dimension}")
    if record_id is not None and not np.frombuffer(packed, FLOAT32).any():
        raise ApiError(
            f"Dense vectors must contain at least one non-zero value. Vector ID '{record_id}' contains only zeros"
        )
    return packed


def sparse_values(message: Message, name: str, spec: IndexSpec) -> tuple[bytes, bytes] | None:
    """
    Check sparse values.

    :param message: Where they stand.
    :param name: Their field.
    :param spec: The index.
    :return: Packed uint32 indices and float32 values; ``None`` when absent.
    :raises Refused: They are empty, too many, of different lengths, or the index takes none.
    """
    sparse = message.message(name, _SPARSE_FIELDS)
    if sparse is None:
        return None
    if not spec.takes_sparse_values:
        raise ApiError(
            "Index configuration does not support sparse values - "
            "only indexes that are sparse or using dotproduct are supported"
        )
    indices, values = sparse.unsigned("indices"), sparse.floats("values")
    count = len(values) // FLOAT32.itemsize
    if len(indices) != len(values):
        raise ApiError(
            f"Sparse vector must have the same number of indices and values, "
            f"but got {len(indices) // UINT32.itemsize} indices and {count} values"
        )
    if not count:
        raise ApiError("Sparse vector must contain at least one value")
    if count > limits.MAX_SPARSE_VALUES:
        raise ApiError(f"Sparse vector must have at most {limits.MAX_SPARSE_VALUES} values, but got {count}")
    return indices, values


def _row(vector: Message, spec: IndexSpec) -> Row:
    record_id = vector.text("id")
    if not record_id:
        raise ApiError("Vector ID must not be empty")
    if len(record_id) > limits.MAX_ID_LENGTH:
        raise ApiError(f"Vector ID must be at most {limits.MAX_ID_LENGTH} characters, but got {len(record_id)}")
    _require_ascii("Vector ID", record_id)
    values = dense_values(vector, "values", spec, record_id=record_id)
    sparse = sparse_values(vector, "sparseValues", spec)
    if spec.vector_type == "sparse" and sparse is None:
        raise ApiError("Sparse vector must contain at least one value")
    metadata = vector.mapping("metadata")
    indices, weights = sparse or (None, None)
    return Row(record_id, values, indices, weights, None if metadata is None else _pack_metadata(metadata))


def _pack_metadata(metadata: dict[str, Any]) -> bytes:
    """Check metadata and write it as JSON. Numbers are float64, so whole numbers beyond 2**53 are rounded."""
    packed = orjson.dumps(dict(_metadata_fields(metadata)))
    if len(packed) > limits.MAX_METADATA_BYTES:
        raise ApiError(
            f"Metadata size is {len(packed)} bytes, "
            f"which exceeds the limit of {limits.MAX_METADATA_BYTES} bytes per vector"
        )
    return packed


def _metadata_fields(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in metadata.items():
        if name.startswith("$"):
            raise ApiError(f"Metadata field names must not start with '$', got '{name}'")
        if type(value) is int and abs(value) > _EXACT_INTEGER:
            yield name, float(value)
        elif isinstance(value, (str, float, int)) or (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            yield name, value
        else:
            raise ApiError(
                "Metadata value must be a string, number, boolean or list of strings, "
                f"got '{_show(value)}' for field '{name}'"
            )


def _show(value: object) -> str:
    """Write a metadata value as the real service does (recorded): numbers as doubles, cut after 16 characters."""
    shown = orjson.dumps(_with_doubles(value)).decode()
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."


def _with_doubles(value: object) -> object:
    if type(value) is int:
        return float(value)
    if isinstance(value, list):
        return [_with_doubles(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_doubles(item) for name, item in value.items()}
    return value


def _require_ascii(what: str, text: str) -> None:
    if not text.isascii() or "\0" in text:
        raise ApiError(f"{what} must be ASCII, but got '{text}'")


def _camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
