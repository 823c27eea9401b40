"""
The shapes that travel: what goes to Pinecone and what comes back, as pydantic models.

JSON names are camelCase, Python names snake_case; a model reads both. Answers ignore keys they do not know, so that a
newer server does not break an older client.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeGuard

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SkipValidation
from pydantic.alias_generators import to_camel


def is_integer(value: Any) -> TypeGuard[int | np.integer[Any]]:
    """Tell whole numbers from what Python and numpy derive from them: truth values and spans of time."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def _to_vector(value: Any) -> npt.NDArray[np.float64]:
    """
    Read a sequence of numbers without an object for each of them where the input is an array.

    float16, float32, integers and float64 all fit float64 (integers beyond 2**53 are rounded, as JSON's are).
    """
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise ValueError(f"expected a list of numbers, got {type(value).__name__}")
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise ValueError("expected a flat list of numbers; the elements have different lengths") from exc
    if array.ndim != 1:
        raise ValueError(f"expected a flat list of numbers, got {array.ndim} dimensions")
    if array.size and (array.dtype.kind not in "iuf" or _holds_bool(value, array)):
        array = _of_objects(value)
    return array.astype(np.float64, copy=False)


def _holds_bool(value: Any, array: npt.NDArray[Any]) -> bool:
    """Find what numpy takes for a number among numbers; only where there is a 0 or a 1 a look is worth its time."""
    return isinstance(value, (list, tuple)) and any(
        isinstance(value[position], (bool, np.bool_)) for position in np.flatnonzero((array == 0) | (array == 1))
    )


def _of_objects(value: Any) -> npt.NDArray[np.float64]:
    """Read what numpy finds no number's type for: integers of more than 64 bits, or no numbers."""
    for position, element in enumerate(value):
        if not is_integer(element) and not isinstance(element, (float, np.floating)):
            kind = type(element).__name__
            shown = (
                f"{element!r:.80} ({kind})"
                if isinstance(element, (str, bool, complex, type(None)))
                else f"of type {kind}"
            )
            raise ValueError(f"element {position} is {shown}, not a number")
    try:
        return np.array([float(element) for element in value])
    except OverflowError as exc:
        raise ValueError("an element is too large for a number of 64 bits") from exc


def _to_indices(value: Any) -> npt.NDArray[np.int64]:
    vector = _to_vector(value)
    with np.errstate(invalid="ignore"):
        indices = vector.astype(np.int64)
    if not np.array_equal(indices, vector):
        position = int(np.flatnonzero(indices != vector)[0])
        raise ValueError(f"element {position} is {vector[position]}, not a whole number")
    return indices


def _to_id(value: Any) -> Any:
    """Integer ids are common in tables; Pinecone's are strings."""
    if isinstance(value, str) and not value.isascii():
        value.encode()  # a lone surrogate, which JSON may bring, can go nowhere; pydantic lets it pass
    return str(int(value)) if is_integer(value) else value


Vector = Annotated[
    npt.NDArray[np.float64], SkipValidation, BeforeValidator(_to_vector), PlainSerializer(np.ndarray.tolist)
]
Indices = Annotated[
    npt.NDArray[np.int64], SkipValidation, BeforeValidator(_to_indices), PlainSerializer(np.ndarray.tolist)
]


class _Snake(BaseModel):
    # A server may echo the API key, so an error must not quote what was read.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Shape(_Snake):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, arbitrary_types_allowed=True)


class SparseValues(_Shape):
    """
    The non-zero entries of a sparse vector.

    :param indices: int64, shape (n,), each within uint32.
    :param values: float64, shape (n,).
    """

    indices: Indices
    values: Vector


class Record(_Shape):
    """
    One record of a namespace.

    :param id: 1 to 512 ASCII characters. Integers are taken as their decimal digits.
    :param values: float64, shape (dimension,); None where the record is sparse only.
    :param sparse_values: The sparse part, if there is one.
    :param metadata: Flat: strings, numbers, booleans, lists of strings.
    """

    id: Annotated[str, BeforeValidator(_to_id)]
    values: Vector | None = None
    sparse_values: SparseValues | None = None
    metadata: dict[str, Any] | None = None


class UpsertResponse(_Shape):
    """``POST /vectors/upsert``. Protobuf's JSON may leave out a zero."""

    upserted_count: int = Field(default=0, ge=0)


class NamespaceStats(_Shape):
    """One namespace in :class:`IndexStats`."""

    vector_count: int = 0


class IndexStats(_Shape):
    """
    ``POST /describe_index_stats``.

    :param dimension: Components of a dense vector; None for a sparse index.
    :param namespaces: By name; ``""`` is the default one. Counts lag behind writes by seconds.
    """

    namespaces: dict[str, NamespaceStats] = Field(default_factory=dict)
    dimension: int | None = None
    index_fullness: float = 0.0
    total_vector_count: int = 0
    metric: str | None = None
    vector_type: str | None = None


class Match(_Shape):
    """
    One hit of a query.

    :param score: As the index's metric has it: larger is nearer, but for ``euclidean``, a squared distance.
    """

    id: str
    score: float = 0.0
    values: Vector | None = None
    sparse_values: SparseValues | None = None
    metadata: dict[str, Any] | None = None


class QueryResponse(_Shape):
    """``POST /query``."""

    matches: list[Match] = Field(default_factory=list)


class FetchResponse(_Shape):
    """``GET /vectors/fetch``."""

    vectors: dict[str, Record] = Field(default_factory=dict)


class _Pagination(_Shape):
    next: str | None = None


class _ListedId(_Shape):
    id: str


class ListResponse(_Shape):
    """``GET /vectors/list``."""

    vectors: list[_ListedId] = Field(default_factory=list)
    pagination: _Pagination | None = None


class NamespaceDescription(_Snake):
    """One namespace of ``GET /namespaces``, whose JSON is snake_case."""

    name: str = ""
    record_count: int = 0


class NamespacesResponse(_Snake):
    """``GET /namespaces``."""

    namespaces: list[NamespaceDescription] = Field(default_factory=list)
    pagination: _Pagination | None = None


class IndexSchema(_Snake):
    """
    What an index declares to hold, from API 2026-07 on.

    :param fields: By name, each with its ``type``; metadata of older indexes have none.
    """

    fields: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_of_documents(self) -> bool:
        """
        Whether the index refuses vectors.

        Those that take them report them under two reserved names (``IndexSchema`` in Pinecone's OpenAPI file); one that
        embeds text itself has ``semantic_text`` and holds records.
        """
        types = {field.get("type") for field in self.fields.values()} - {None}
        takes_vectors = self.fields.keys() & {"_values", "_sparse_values"}
        return bool(types) and not takes_vectors and "semantic_text" not in types


class IndexDescription(_Snake):
    """
    ``GET /indexes/{name}`` of the control plane, whose JSON is snake_case.

    :param host: The index's own host, without a scheme.
    :param index_schema: None where the control plane is an older one.
    """

    name: str
    host: str
    index_schema: IndexSchema | None = Field(default=None, alias="schema")
