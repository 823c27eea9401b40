"""
What the service accepts, and the errors with which it rejects everything else.

As in the real service, errors come from two layers: a transcoder, which turns JSON into protobuf messages and responds
in plain text, and the index, which responds with ``{"code", "message", "details"}``. Messages marked *recorded* are
those of the real service, taken from public bug reports and from the tests of Pinecone's SDKs; the others imitate them.

Invariant: a request is validated as a whole before any part of it is stored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.records import FLOAT32, UINT32, IndexSpec, Row

INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
FAILED_PRECONDITION: Final = 9
DEFAULT_NAMESPACE: Final = "__default__"
DOCUMENTS_ONLY: Final = (
    "This index has a document schema, so writes must go through the documents API. Use `POST "
    "/namespaces/{namespace}/documents/upsert`, `/update` or `/delete` with the `X-Pinecone-API-Version` header set to "
    "`2026-07` or later. The vectors and records write endpoints do not support document schemas."
)
"""*Recorded*. The index reports it before it checks anything else."""

_VECTOR_FIELDS: Final = frozenset({"id", "values", "sparseValues", "metadata"})
_SPARSE_FIELDS: Final = frozenset({"indices", "values"})
_EXACT_INTEGER: Final = 2**53
_PREVIEW_CHARACTERS: Final = 16
"""Characters of an invalid metadata value that the real service shows before ``...`` (recorded)."""

_CONTEXT_CHARACTERS: Final = 20
"""Characters of JSON that protobuf's parser shows on either side of a syntax error."""

_MAX_MESSAGE_CHARACTERS: Final = 1_000
_MAX_DEPTH: Final = 100
"""
Levels of nesting in metadata and filters: protobuf's own limit
(https://protobuf.dev/reference/cpp/api-docs/google.protobuf.io.coded_stream). Python's recursion would end at 450.
"""


class ApiError(Exception):
    """
    The service rejects the request.

    :param message: The error message. It may quote values of any length, so the middle of a long one is left out.
    :param status: The HTTP status.
    :param code: The gRPC code in the JSON body; ``None`` for a response in plain text.
    :param reason: The machine-readable reason in the details.
    :param metadata: What the details say about it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: int | None = INVALID_ARGUMENT,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = _shortened(message)
        self.status = status
        self.code = code
        self._reason = reason
        self._metadata = metadata

    @property
    def details(self) -> list[dict[str, Any]]:
        """The details in the JSON body; empty if the error has no reason."""
        if self._reason is None:
            return []
        # The reason and the metadata are documented; the rest is gRPC's form of such details.
        kind = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "pinecone.io"}
        return [{**kind, "reason": self._reason, "metadata": dict(self._metadata or {})}]


class MalformedRequestError(ApiError):
    """
    The JSON does not match the message type of the operation. The response is plain text.

    :param message: The transcoder's error message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code=None)

    @classmethod
    def wrong_type(cls, path: str, value: object, type_name: str) -> MalformedRequestError:
        """
        Make the error for a value of the wrong type (recorded).

        :param path: The path of the value, such as ``vectors[0].values[1]``.
        :param value: The value.
        :param type_name: The expected type: ``FLOAT``, ``STRING`` and so on.
        :return: The error.
        """
        try:
            text = orjson.dumps(value).decode()
        except orjson.JSONEncodeError:  # nested more than 254 levels deep
            text = "..."
        return cls(f"{path}: invalid value {_shortened(text)} for type TYPE_{type_name}")


@dataclass(frozen=True)
class Message:
    """
    A JSON object with known fields, read as protobuf reads it: a field that is ``null`` is absent.

    :param fields: The fields, by their JSON names.
    :param path: The path of the object in the request; empty for the root.
    """

    fields: dict[str, Any]
    path: str = ""

    @classmethod
    def parse(cls, body: bytes, known: frozenset[str]) -> Message:
        """
        Parse the body of a request.

        :param body: JSON.
        :param known: The field names of the message type.
        :return: The message.
        :raises MalformedRequestError: The body is not a JSON object, or it has an unknown field.
        """
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            start = max(exc.pos - _CONTEXT_CHARACTERS, 0)
            context = exc.doc[start : exc.pos + _CONTEXT_CHARACTERS]
            raise MalformedRequestError(f"Unexpected token.\n{context}\n{' ' * (exc.pos - start)}^") from exc
        if not isinstance(value, dict):
            raise MalformedRequestError("Root element must be a message.")
        return cls.of(value, "", known)

    @classmethod
    def of(cls, value: object, path: str, known: frozenset[str]) -> Message:
        """
        Convert a JSON value to a message.

        :param value: The value.
        :param path: The path of the value in the request.
        :param known: The field names of the message type. Their snake_case forms are accepted too.
        :return: The message.
        :raises MalformedRequestError: The value is not an object, or it has an unknown field.
        """
        if not isinstance(value, dict):
            raise MalformedRequestError.wrong_type(path, value, "MESSAGE")
        if not value.keys() <= known:
            value = {_camel_case(name): field for name, field in value.items()}
            if unknown := value.keys() - known:
                raise MalformedRequestError(f"{path} {min(unknown)}: Cannot find field.".lstrip())
        return cls(value, path)

    def text(self, name: str) -> str:
        """Return a string field, empty if absent."""
        return self._get(name, str, "STRING") or ""

    def flag(self, name: str) -> bool:
        """Return a boolean field, false if absent."""
        return self._get(name, bool, "BOOL") or False

    def integer(self, name: str) -> int:
        """Return a uint32 field, 0 if absent."""
        value = self.fields.get(name)
        if value is None:
            return 0
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 <= value <= np.iinfo(UINT32).max:
            raise MalformedRequestError.wrong_type(self._at(name), value, "UINT32")
        return value

    def items(self, name: str) -> list[Any]:
        """Return a list field, empty if absent."""
        return self._get(name, list, "MESSAGE") or []

    def texts(self, name: str) -> list[str]:
        """Return a list of strings, empty if absent."""
        texts = self.items(name)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise MalformedRequestError.wrong_type(f"{self._at(name)}[{position}]", text, "STRING")
        return texts

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Return an object with any keys (protobuf's ``Struct``), of at most ``_MAX_DEPTH`` levels."""
        value: dict[str, Any] | None = self._get(name, dict, "MESSAGE")
        if _is_too_deep(value, _MAX_DEPTH):
            raise MalformedRequestError(f"Message too deep. Max recursion depth reached for key '{self._at(name)}'")
        return value

    def message(self, name: str, known: frozenset[str]) -> Message | None:
        """Return a nested message."""
        value = self.fields.get(name)
        return None if value is None else Message.of(value, self._at(name), known)

    def floats(self, name: str) -> bytes:
        """
        Return a list of numbers as packed float32, empty if absent.

        ``struct`` rounds like numpy, rejects what does not fit into a float32, and is twice as fast as ``np.array``.
        """
        values = self.items(name)
        try:
            packed = struct.pack(f"<{len(values)}f", *values)
        except (struct.error, OverflowError) as exc:
            raise self._float_error(name, values) from exc
        vector = np.frombuffer(packed, FLOAT32)
        self._reject_booleans(name, values, np.flatnonzero((vector == 0) | (vector == 1)), "FLOAT")
        return packed

    def unsigned(self, name: str) -> bytes:
        """Return a list of integers as packed uint32, empty if absent."""
        values = self.items(name)
        try:
            packed = struct.pack(f"<{len(values)}I", *values)
        except struct.error as exc:
            for position, value in enumerate(values):
                if type(value) is not int or not 0 <= value <= limits.MAX_SPARSE_INDEX:
                    raise MalformedRequestError.wrong_type(f"{self._at(name)}[{position}]", value, "UINT32") from exc
            raise
        self._reject_booleans(name, values, np.flatnonzero(np.frombuffer(packed, UINT32) <= 1), "UINT32")
        return packed

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _get(self, name: str, kind: type[Any], type_name: str) -> Any:
        value = self.fields.get(name)
        if value is not None and type(value) is not kind:
            raise MalformedRequestError.wrong_type(self._at(name), value, type_name)
        return value

    def _float_error(self, name: str, values: list[Any]) -> MalformedRequestError:
        """Make the error for the first value that does not fit into a float32."""
        largest = float(np.finfo(FLOAT32).max)
        for position, value in enumerate(values):
            if type(value) not in (int, float) or abs(value) > largest:
                return MalformedRequestError.wrong_type(f"{self._at(name)}[{position}]", value, "FLOAT")
        raise AssertionError("struct rejected a valid float32")  # pragma: no cover

    def _reject_booleans(self, name: str, values: list[Any], suspects: Any, type_name: str) -> None:
        """Reject booleans, which Python packs as 0 and 1. Only such positions are checked: checking all is slow."""
        for position in suspects:
            if type(values[position]) is bool:
                raise MalformedRequestError.wrong_type(f"{self._at(name)}[{position}]", values[position], type_name)


def normalize_namespace(name: str) -> str:
    """
    Validate the name of a namespace.

    :param name: The name in the request.
    :return: The name as it is stored: the default namespace is ``""``.
    :raises ApiError: The name is too long, not ASCII, or contains NUL.
    """
    if len(name) > limits.MAX_NAMESPACE_LENGTH:
        raise ApiError(f"Namespace must be at most {limits.MAX_NAMESPACE_LENGTH} characters, but got {len(name)}")
    _require_ascii("Namespace", name)
    return "" if name == DEFAULT_NAMESPACE else name


def shown_namespace(namespace: str) -> str:
    """
    Return the name of a namespace in responses about namespaces.

    :param namespace: The name as it is stored.
    :return: The name; the default namespace is ``__default__``.
    """
    return namespace or DEFAULT_NAMESPACE


def parse_upsert(message: Message, spec: IndexSpec) -> list[Row]:
    """
    Validate an upsert and pack its records.

    :param message: The request.
    :param spec: The index.
    :return: One row per record, in order; an id may occur more than once.
    :raises ApiError: A record is invalid.
    """
    vectors = message.items("vectors")
    if not vectors:
        raise ApiError("Invalid request: must provide at least one vector to upsert")
    if len(vectors) > limits.MAX_RECORDS_PER_REQUEST:
        raise ApiError(
            f"The number of vectors in an upsert request must be at most {limits.MAX_RECORDS_PER_REQUEST}, "
            f"but got {len(vectors)}"
        )
    return [
        _row(Message.of(vector, f"vectors[{position}]", _VECTOR_FIELDS), spec)
        for position, vector in enumerate(vectors)
    ]


def parse_record(vector: Mapping[str, Any], spec: IndexSpec) -> Row:
    """
    Validate one record and pack it.

    :param vector: The record, as in an upsert.
    :param spec: The index.
    :return: The row.
    :raises ApiError: The record is invalid.
    """
    return _row(Message.of(dict(vector), "", _VECTOR_FIELDS), spec)


def parse_update(message: Message, spec: IndexSpec) -> Callable[[Row], Row]:
    """
    Validate an update, which replaces values and sparse values and merges metadata field by field.

    :param message: The request.
    :param spec: The index.
    :return: A function that returns the updated record, or raises ``ApiError`` if its metadata become too large.
    :raises ApiError: The request is invalid, independent of the stored record.
    """
    values = dense_values(message, "values", spec, record_id=message.text("id")) if message.items("values") else None
    sparse = sparse_values(message, "sparseValues", spec)
    added = message.mapping("setMetadata")
    if added is not None:
        added = orjson.loads(_pack_metadata(added) or b"{}")

    def update(row: Row) -> Row:
        if values is not None:
            row = row._replace(values=values)
        if sparse is not None:
            row = row._replace(sparse_indices=sparse[0], sparse_values=sparse[1])
        if added is not None:
            row = row._replace(metadata=_pack_metadata({**orjson.loads(row.metadata or b"{}"), **added}))
        return row

    return update


def parse_query(message: Message, spec: IndexSpec) -> tuple[bytes | None, tuple[bytes, bytes] | None]:
    """
    Validate the vectors of a query.

    :param message: The request.
    :param spec: The index.
    :return: The dense values and the sparse values, as :class:`Query` takes them.
    :raises ApiError: They do not fit the index.
    """
    has_dense, has_sparse = bool(message.items("vector")), message.fields.get("sparseVector") is not None
    if spec.vector_type == "dense" and has_sparse and not has_dense:
        raise ApiError("Cannot query index with dense 'vector_type' with only sparse vector")
    if spec.vector_type == "sparse" and not has_sparse:
        raise ApiError("Either 'sparse_vector' or 'ID' must be provided")
    return dense_values(message, "vector", spec), sparse_values(message, "sparseVector", spec)


def dense_values(message: Message, name: str, spec: IndexSpec, *, record_id: str | None = None) -> bytes | None:
    """
    Validate a dense vector.

    :param message: The message that contains it.
    :param name: The name of its field.
    :param spec: The index.
    :param record_id: The id of its record; ``None`` for a query, which may be all zeros.
    :return: Packed float32; ``None`` in a sparse index.
    :raises ApiError: The dimension is wrong, all values are zero, or the index is sparse.
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
    Validate sparse values.

    :param message: The message that contains them.
    :param name: The name of their field.
    :param spec: The index.
    :return: Packed uint32 indices and float32 values; ``None`` if absent.
    :raises ApiError: They are empty, too many or of different lengths, an index occurs twice, or the index does not
        support them.
    """
    sparse = message.message(name, _SPARSE_FIELDS)
    if sparse is None:
        return None
    if not spec.supports_sparse_values:
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
    if len(np.unique(np.frombuffer(indices, UINT32))) < count:
        raise ApiError("Sparse vector must not contain duplicate indices")
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
    return Row(record_id, values, indices, weights, _pack_metadata(metadata or {}))


def _pack_metadata(metadata: dict[str, Any]) -> bytes | None:
    """
    Validate metadata and encode them as JSON. No fields are no metadata: the service never returns ``{}``.

    Numbers are float64, so integers beyond 2**53 are rounded.
    """
    if not metadata:
        return None
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
                f"got '{_preview(value)}' for field '{name}'"
            )


def _preview(value: object) -> str:
    """Show a metadata value as the real service does (recorded): numbers as doubles, cut after 16 characters."""
    text = orjson.dumps(_with_doubles(value)).decode()
    return text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}..."


def _with_doubles(value: object) -> object:
    if type(value) is int:
        return float(value)
    if isinstance(value, list):
        return [_with_doubles(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_doubles(item) for name, item in value.items()}
    return value


def _require_ascii(what: str, text: str) -> None:
    if not text.isascii():
        raise ApiError(f"{what} must be ASCII, but got '{text}'")
    if "\0" in text:
        raise ApiError(f"{what} must not contain null character, but got '{text}'")


def _is_too_deep(value: object, levels: int) -> bool:
    """Return whether a value has more levels of lists and objects; scalars have none."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if parts is None:
        return False
    return levels == 0 or any(_is_too_deep(part, levels - 1) for part in parts)


def _shortened(text: str) -> str:
    half = _MAX_MESSAGE_CHARACTERS // 2
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else f"{text[:half]}...{text[-half:]}"


def _camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
