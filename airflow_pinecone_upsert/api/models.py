"""
Pydantic models of records and of Pinecone's responses.

Keys are camelCase in JSON and snake_case in Python; a model accepts both. Unknown keys are ignored, so that a newer server
does not break an older client.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, TypeGuard
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PrivateAttr, SkipValidation
from pydantic.alias_generators import to_camel

from airflow_pinecone_upsert.api.masking import ShownText

_LSN_HEADERS: Final = ("x-pinecone-request-lsn", "x-pinecone-max-indexed-lsn")
"""Of a write, and of a query."""

_MAX_LSN_DIGITS: Final = 20
"""Of an unsigned integer of 64 bits."""


def is_integer(value: Any) -> TypeGuard[int | np.integer[Any]]:
    """Return whether a value is an integer; a bool or a ``timedelta64`` is not one, although its class is a subclass."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def to_vector(value: Any) -> npt.NDArray[np.float64]:
    """
    Convert a sequence of numbers to float64. An array is converted without a Python object per element.

    :param value: Shape (n,) or (1, n).
    :raises ValueError: The value is not a sequence of numbers.

    float16, float32 and float64 fit float64, and so do integers up to 2**53. Larger ones are rounded, as in JSON.
    """
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise ValueError(f"expected a list of numbers, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError("an element is masked, not a number")
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise ValueError("expected a flat list of numbers; the elements have different lengths") from exc
    if array.ndim == 2 and len(array) == 1:  # noqa: PLR2004 - what models return for one text
        return to_vector(next(iter(value)))
    if array.ndim != 1:
        raise ValueError(f"expected a flat list of numbers, got {array.ndim} dimensions")
    if array.size and (array.dtype.kind not in "iuf" or _contains_bool(value, array)):
        array = _convert_elements(value)
    return array.astype(np.float64, copy=False)


def _contains_bool(value: Any, array: npt.NDArray[Any]) -> bool:
    """Return whether a list contains a bool, which numpy converts to 0 or 1. For speed, only these elements are checked."""
    return isinstance(value, (list, tuple)) and any(
        isinstance(value[position], (bool, np.bool_)) for position in np.flatnonzero((array == 0) | (array == 1))
    )


def _convert_elements(value: Any) -> npt.NDArray[np.float64]:
    """Convert element by element what numpy has no numeric dtype for, such as integers of more than 64 bits."""
    for position, element in enumerate(value):
        if not is_integer(element) and not isinstance(element, (float, np.floating)):
            kind = type(element).__name__
            description = (
                f"{element!r:.80} ({kind})"
                if isinstance(element, (str, bool, complex, type(None)))
                else f"of type {kind}"
            )
            raise ValueError(f"element {position} is {description}, not a number")
    try:
        return np.array([float(element) for element in value])
    except OverflowError as exc:
        raise ValueError("an element is too large for a number of 64 bits") from exc


def _to_indices(value: Any) -> npt.NDArray[np.int64]:
    vector = to_vector(value)
    with np.errstate(invalid="ignore"):
        indices = vector.astype(np.int64)
    if not np.array_equal(indices, vector):
        position = int(np.flatnonzero(indices != vector)[0])
        raise ValueError(f"element {position} is {vector[position]}, not a whole number")
    return indices


def to_id(value: Any) -> Any:
    """
    Convert what programs and tables use as an id to a string, which Pinecone requires.

    :return: The digits of an integer, also of one that came as a float or a decimal without decimal places; the canonical
        form of a UUID; the text of bytes in UTF-8. Any other value as it is.
    :raises ValueError: The value is not exactly one of these.
    """
    match value:
        case str():
            if not value.isascii():
                value.encode()  # fails for a lone surrogate, which JSON can contain and pydantic accepts
        case UUID():
            return str(value)
        case bytes():
            return _decode_id(value)
        case float() | np.floating():
            return _digits_of_float(value)
        case Decimal() if value.is_finite() and value.as_tuple().exponent == 0:
            return str(value)
        case _ if is_integer(value):
            return str(int(value))
    return value


def _decode_id(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise ValueError("the id is not UTF-8 text") from exc


def _digits_of_float(value: float | np.floating[Any]) -> str:
    if not value.is_integer():
        raise ValueError("the id is not a whole number")
    if abs(value) >= 2 ** (np.finfo(type(value)).nmant + 1):
        raise ValueError("the id is a float so large that its last digits may have been rounded")
    return str(int(value))


Vector = Annotated[
    npt.NDArray[np.float64], SkipValidation, BeforeValidator(to_vector), PlainSerializer(np.ndarray.tolist)
]
Indices = Annotated[
    npt.NDArray[np.int64], SkipValidation, BeforeValidator(_to_indices), PlainSerializer(np.ndarray.tolist)
]


class _SnakeCaseModel(BaseModel):
    # A server may echo the API key, so an error must not quote the response.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _CamelCaseModel(_SnakeCaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, arbitrary_types_allowed=True)


class SparseValues(_CamelCaseModel):
    """
    The non-zero entries of a sparse vector.

    :param indices: int64, shape (n,), each within uint32.
    :param values: float64, shape (n,).
    """

    indices: Indices
    values: Vector


class Record(_CamelCaseModel):
    """
    One record of a namespace.

    :param id: 1 to 512 ASCII characters. An integer is converted to its decimal digits.
    :param values: float64, shape (dimension,); None if the record has sparse values only.
    :param sparse_values: The sparse part, if there is one.
    :param metadata: Strings, numbers, booleans and lists of strings by key. Not nested.
    """

    id: Annotated[str, BeforeValidator(to_id)]
    values: Vector | None = None
    sparse_values: SparseValues | None = None
    metadata: dict[str, Any] | None = None


def _of_row(value: Any) -> Any:
    """Return the array in one row of an Arrow column of lists."""
    return value.values if type(value).__name__.endswith("ListScalar") else value


def _to_finite(value: Any) -> npt.NDArray[np.float64]:
    """Check that no component is missing: in a table, it becomes NaN, which JSON does not have."""
    vector = to_vector(value)
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise ValueError(f"element {position} is {vector[position]}, or missing")
    return np.ascontiguousarray(vector)  # as orjson requires


_QueryVector = Annotated[Vector, BeforeValidator(_to_finite), BeforeValidator(_of_row)]


class _SparseQueryVector(SparseValues):
    model_config = ConfigDict(from_attributes=True)  # of SparseValues, also of the SDK's

    indices: Annotated[Indices, BeforeValidator(_of_row)]
    values: _QueryVector


class QueryVectors(_CamelCaseModel):
    """
    The vectors of a query: lists, numpy arrays, Series of pandas or Polars, Arrow arrays or rows of an Arrow column.

    :param vector: float64, shape (dimension,), finite.
    :param sparse_vector: Like :class:`SparseValues`, finite.
    """

    vector: _QueryVector | None = None
    sparse_vector: _SparseQueryVector | None = None


class PositionedResponse(_CamelCaseModel):
    """
    A response whose headers report a position: a log sequence number (LSN), which grows with each write of a namespace.

    A write is visible once a query reports at least its LSN (https://docs.pinecone.io/guides/index-data/check-data-freshness).
    """

    _lsn: int | None = PrivateAttr(default=None)

    @property
    def lsn(self) -> int | None:
        """The LSN of a write, or of the last write that a query sees; None where the server does not report it."""
        return self._lsn

    def note_position(self, lsn: int | None) -> None:
        """Note the LSN, which is in the headers of the response."""
        self._lsn = lsn


def lsn_from_headers(headers: Mapping[str, str]) -> int | None:
    """Return the LSN that the headers of a response report; None where they report none."""
    found = next((headers[name] for name in _LSN_HEADERS if name in headers), "")
    return int(found) if found.isascii() and found.isdigit() and len(found) <= _MAX_LSN_DIGITS else None


def later_lsn(known: int | None, response: object) -> int | None:
    """Return the later of a known LSN and that of a response; None where there is neither."""
    found = response.lsn if isinstance(response, PositionedResponse) else None
    return known if found is None else max(found, known or 0)


class UpsertResponse(PositionedResponse):
    """``POST /vectors/upsert``. The JSON form of protobuf may omit a zero."""

    upserted_count: int = Field(default=0, ge=0)


class DeleteResponse(PositionedResponse):
    """``POST /vectors/delete``, ``DELETE /namespaces/{…}`` and ``DELETE /namespace-aliases/{…}``: an empty object."""


class UpdateResponse(PositionedResponse):
    """
    ``POST /vectors/update`` with a filter.

    :param matched_records: How many records the filter matches; None where the server does not count them.
    """

    matched_records: int | None = Field(default=None, ge=0)


class NamespaceStats(_CamelCaseModel):
    """One namespace in :class:`IndexStats`."""

    vector_count: int = 0


class IndexStats(_CamelCaseModel):
    """
    ``POST /describe_index_stats``.

    :param dimension: Components of a dense vector; None for a sparse index.
    :param namespaces: By name; ``""`` is the default namespace. Counts lag behind writes by seconds.
    """

    namespaces: dict[str, NamespaceStats] = Field(default_factory=dict)
    dimension: int | None = None
    index_fullness: float = 0.0
    total_vector_count: int = 0
    metric: ShownText | None = None
    vector_type: ShownText | None = None

    @property
    def vectors(self) -> str:
        """What vectors the index takes, for messages."""
        return f"dimension {self.dimension}" if self.dimension else "sparse vectors"

    def count_of(self, namespace: str) -> int:
        """Return the records of a namespace, 0 where there is none; ``""`` is the default one, under either name."""
        names = (namespace,) if namespace not in ("", "__default__") else ("", "__default__")
        return sum(self.namespaces[name].vector_count for name in names if name in self.namespaces)


class Match(_CamelCaseModel):
    """
    One match of a query.

    :param score: By the metric of the index. A larger score is nearer, except for ``euclidean``: there it is the squared
        distance.
    """

    id: str
    score: float = 0.0
    values: Vector | None = None
    sparse_values: SparseValues | None = None
    metadata: dict[str, Any] | None = None


class QueryResponse(PositionedResponse):
    """
    ``POST /query``.

    :param namespace: The namespace that served the query, which is the target where the query named an alias.
    """

    namespace: str = ""
    matches: list[Match] = Field(default_factory=list)


class FetchResponse(_CamelCaseModel):
    """``GET /vectors/fetch``."""

    vectors: dict[str, Record] = Field(default_factory=dict)


class _Pagination(_CamelCaseModel):
    next: str | None = None


class Page(BaseModel):
    """A part of a listing."""

    pagination: _Pagination | None = None

    @property
    def next_token(self) -> str | None:
        """What asks for the next part; None after the last one."""
        return (self.pagination.next if self.pagination else None) or None


class _ListedId(_CamelCaseModel):
    id: str


class ListResponse(_CamelCaseModel, Page):
    """``GET /vectors/list``."""

    vectors: list[_ListedId] = Field(default_factory=list)


class NamespaceDescription(_SnakeCaseModel):
    """One namespace of ``GET /namespaces``, whose JSON is snake_case. Its count is text since API version 2026-07."""

    name: str = ""
    record_count: int = 0


class NamespacesResponse(_SnakeCaseModel, Page):
    """``GET /namespaces``."""

    namespaces: list[NamespaceDescription] = Field(default_factory=list)


class NamespaceAlias(_SnakeCaseModel):
    """
    A movable name for a namespace, whose JSON is snake_case.

    :param name: Its name.
    :param target_namespace: The namespace that serves the reads; ``__default__`` is the default one.
    :param created_at: When it was created.
    :param updated_at: When it was last repointed.
    """

    name: str
    target_namespace: str
    created_at: datetime | None = None
    updated_at: datetime | None = None


class AliasesResponse(_SnakeCaseModel, Page):
    """``GET /namespace-aliases``."""

    namespace_aliases: list[NamespaceAlias] = Field(default_factory=list)


class StartedImport(_CamelCaseModel):
    """``POST /bulk/imports``."""

    id: Annotated[str, BeforeValidator(to_id)]


class BulkImport(_CamelCaseModel):
    """
    ``GET /bulk/imports/{id}``.

    :param id: Its id.
    :param uri: What it reads.
    :param status: ``Pending``, ``InProgress``, ``Failed``, ``Completed`` or ``Cancelled``. It may be ``InProgress`` at 100 %.
    :param created_at: In RFC 3339.
    :param finished_at: Likewise; None until it ends.
    :param percent_complete: 0 to 100.
    :param records_imported: Records so far.
    :param error: Why it failed.
    """

    id: Annotated[str, BeforeValidator(to_id)]
    uri: ShownText = ""
    status: ShownText = ""
    created_at: ShownText = ""
    finished_at: ShownText | None = None
    percent_complete: float = 0.0
    records_imported: int = 0
    error: ShownText | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its status is final."""
        return self.status in ("Failed", "Completed", "Cancelled")

    def __str__(self) -> str:
        """Describe its progress, for the log."""
        return f"Import {self.id} is {self.status}: {self.percent_complete:.1f} %, {self.records_imported:,} records imported"


class ImportsResponse(_CamelCaseModel, Page):
    """``GET /bulk/imports``."""

    data: list[BulkImport] = Field(default_factory=list)


class IndexSchema(_SnakeCaseModel):
    """
    The schema of an index, since API version 2026-07.

    :param fields: By name, each with its ``type``; the metadata fields of older indexes have none.
    """

    fields: dict[ShownText, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_of_documents(self) -> bool:
        """
        Whether the index holds documents, and so rejects vectors.

        The schema of an index of vectors has fields with reserved names, ``_values`` or ``_sparse_values`` (``IndexSchema``
        in Pinecone's OpenAPI file). An index that embeds text itself has a field of type ``semantic_text`` and holds
        records.
        """
        types = {field.get("type") for field in self.fields.values()} - {None}
        has_vectors = self.fields.keys() & {"_values", "_sparse_values"}
        return bool(types) and not has_vectors and "semantic_text" not in types


class IndexDescription(_SnakeCaseModel):
    """
    ``GET /indexes/{name}`` of the control plane, whose JSON is snake_case.

    :param host: The host of the index, without a scheme.
    :param index_schema: None if the control plane's API version is older than 2026-07.
    """

    name: ShownText
    host: str
    index_schema: IndexSchema | None = Field(default=None, alias="schema")
