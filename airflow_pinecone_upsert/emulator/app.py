"""
The operations of Pinecone's data plane, API version 2025-04, on a store.

https://github.com/pinecone-io/pinecone-api/tree/main/2025-04

Invariants:

* Every response has the header ``x-pinecone-request-id``.
* The response to a write has ``x-pinecone-request-lsn``, the response to a read ``x-pinecone-max-indexed-lsn``. A read
  with LSN *n* includes write *n*.
* Every operation requires an API key.
* Operations are atomic and run one after another.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from airflow_pinecone_upsert.emulator import limits, rules
from airflow_pinecone_upsert.emulator.bodies import bound_bodies
from airflow_pinecone_upsert.emulator.faults import Faults
from airflow_pinecone_upsert.emulator.filters import compile_filter
from airflow_pinecone_upsert.emulator.records import Row
from airflow_pinecone_upsert.emulator.request_log import RequestLog
from airflow_pinecone_upsert.emulator.rules import ApiError, Message
from airflow_pinecone_upsert.emulator.search import Match, Query
from airflow_pinecone_upsert.emulator.store import Store

_Operation = Callable[[Request, bytes], Response]
"""Turns a request and its body into a response."""

_UPSERT_FIELDS: Final = frozenset({"vectors", "namespace"})
_STATS_FIELDS: Final = frozenset({"filter"})
_QUERY_FIELDS: Final = frozenset(
    {"namespace", "topK", "filter", "includeValues", "includeMetadata", "vector", "sparseVector", "id"}
)
_UPDATE_FIELDS: Final = frozenset({"id", "values", "sparseValues", "setMetadata", "namespace"})
_DELETE_FIELDS: Final = frozenset({"ids", "deleteAll", "filter", "namespace"})
_USAGE: Final = {"readUnits": 1}


def create_app(  # noqa: PLR0913
    store: Store,
    *,
    name: str = "local",
    document_schema: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    max_request_bytes: int = limits.MAX_DECODED_REQUEST_BYTES,
    faults: Faults | None = None,
    log: RequestLog | None = None,
) -> ASGIApp:
    """
    Make the ASGI application of one index.

    :param store: The records of the index.
    :param name: The name of the index, for ``GET /indexes/{name}``.
    :param document_schema: The fields of an index of documents, which rejects vectors.
    :param api_key: The API key that clients must send; ``None`` accepts any key that is not empty.
    :param max_request_bytes: The size of the largest JSON body to accept. The real limit applies to the decoded size.
    :param faults: Makes requests fail on demand.
    :param log: Records the requests.
    :return: The application.
    """
    app: ASGIApp = _routes(_Operations(store, name, document_schema), _Endpoints(api_key, max_request_bytes))
    if faults is not None:
        app = faults.wrap(app)
    if log is not None:
        app = log.wrap(app)
    return _with_request_ids(bound_bodies(_with_errors(app)))


class _Endpoints:
    """Makes endpoints that check the API key and the size of each request before they run the operation."""

    def __init__(self, api_key: str | None, max_request_bytes: int) -> None:
        self._api_key = api_key
        self._max_request_bytes = max_request_bytes

    def make(self, operation: _Operation) -> Callable[[Request], Awaitable[Response]]:
        """Make the Starlette endpoint of an operation."""

        async def endpoint(request: Request) -> Response:
            self._check_key(request.headers.get("api-key", ""))
            body = await self._read(request)
            # In the event loop, not in a thread: SQLite and the interpreter run one operation at a time anyway. With
            # threads, eight clients were slower than one, because the threads waited for each other.
            return operation(request, body)

        return endpoint

    def _check_key(self, key: str) -> None:
        expected = key if self._api_key is None else self._api_key
        if not key or not secrets.compare_digest(key.encode(), expected.encode()):
            raise ApiError("Invalid API Key", status=401, code=None)

    async def _read(self, request: Request) -> bytes:
        """Read the whole body, even if it is too large: most clients lose a response that arrives while they send."""
        size = 0
        parts: list[bytes] = []
        async for part in request.stream():
            size += len(part)
            if size <= self._max_request_bytes:
                parts.append(part)
        if size > self._max_request_bytes:
            megabytes = round(size / 1_000_000)
            raise ApiError(f"Request size {megabytes}MB exceeds the maximum supported size of 2MB")
        return b"".join(parts)


class _Operations:
    """The operations of one index, named as in Pinecone's OpenAPI file."""

    def __init__(self, store: Store, name: str, document_schema: Mapping[str, Any] | None) -> None:
        self._store = store
        self._name = name
        self._document_schema = document_schema

    def upsert_vectors(self, _: Request, body: bytes) -> Response:
        message, namespace = self._parse_write(body, _UPSERT_FIELDS)
        rows = rules.parse_upsert(message, self._store.spec)
        return _write_response(self._store.upsert(namespace, rows), {"upsertedCount": len(rows)})

    def update_vector(self, _: Request, body: bytes) -> Response:
        message, namespace = self._parse_write(body, _UPDATE_FIELDS)
        record_id = message.text("id")
        if not record_id:
            raise ApiError("Vector ID must not be empty")
        lsn = self._store.update(namespace, record_id, rules.parse_update(message, self._store.spec))
        return _write_response(lsn, {})

    def delete_vectors(self, _: Request, body: bytes) -> Response:
        message, namespace = self._parse_write(body, _DELETE_FIELDS)
        ids, delete_all, expression = message.texts("ids"), message.flag("deleteAll"), message.mapping("filter")
        if sum(map(bool, (ids, delete_all, expression))) != 1:
            raise ApiError("Exactly one of ids, deleteAll and filter must be given")
        if len(ids) > limits.MAX_IDS_PER_DELETE:
            raise ApiError(f"At most {limits.MAX_IDS_PER_DELETE} ids can be deleted at once, but got {len(ids)}")
        if delete_all:
            return self._delete_namespace(namespace)
        if expression:
            return _write_response(self._store.delete_matching(namespace, compile_filter(expression)), {})
        return _write_response(self._store.delete(namespace, ids), {})

    def fetch_vectors(self, request: Request, _: bytes) -> Response:
        namespace = rules.normalize_namespace(request.query_params.get("namespace", ""))
        ids = request.query_params.getlist("ids")
        if not ids:
            raise ApiError("Must provide at least one id to fetch")
        lsn = self._store.lsn
        vectors = {row.id: _record(row) for row in self._store.fetch(namespace, ids)}
        return _read_response(lsn, {"vectors": vectors, "namespace": namespace, "usage": _USAGE})

    def list_vectors(self, request: Request, _: bytes) -> Response:
        namespace = rules.normalize_namespace(request.query_params.get("namespace", ""))
        limit = _page_limit(request.query_params)
        lsn = self._store.lsn
        ids = self._store.ids(
            namespace,
            prefix=request.query_params.get("prefix", ""),
            after=_page_start(request.query_params),
            limit=limit + 1,
        )
        vectors = [{"id": record_id} for record_id in ids[:limit]]
        page = _pagination(ids, limit)
        return _read_response(lsn, {"vectors": vectors, **page, "namespace": namespace, "usage": _USAGE})

    def query_vectors(self, _: Request, body: bytes) -> Response:
        message = Message.parse(body, _QUERY_FIELDS)
        namespace = rules.normalize_namespace(message.text("namespace"))
        top_k = message.integer("topK")
        if not 1 <= top_k <= limits.MAX_TOP_K:
            raise ApiError(f"topK must be between 1 and {limits.MAX_TOP_K}, but got {top_k}")
        expression = message.mapping("filter")
        predicate = compile_filter(expression) if expression else None
        include_values, include_metadata = message.flag("includeValues"), message.flag("includeMetadata")
        lsn = self._store.lsn
        vector = self._query_vector(namespace, message)
        matches = [] if vector is None else self._store.search(namespace, Query(top_k, *vector, predicate))
        return _read_response(
            lsn,
            {
                "results": [],
                "matches": [_match(match, values=include_values, metadata=include_metadata) for match in matches],
                "namespace": namespace,
                "usage": _USAGE,
            },
        )

    def describe_index_stats(self, _: Request, body: bytes) -> Response:
        message = Message.parse(body or b"{}", _STATS_FIELDS)
        if message.mapping("filter"):
            raise ApiError(
                "Serverless and Starter indexes do not support describing index stats with metadata filtering"
            )
        spec, lsn = self._store.spec, self._store.lsn
        counts = self._store.counts()
        return _read_response(
            lsn,
            {
                "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
                **({} if spec.dimension is None else {"dimension": spec.dimension}),
                "indexFullness": 0,
                "totalVectorCount": sum(counts.values()),
                "metric": spec.metric,
                "vectorType": spec.vector_type,
            },
        )

    def list_namespaces(self, request: Request, _: bytes) -> Response:
        limit = _page_limit(request.query_params)
        after = _page_start(request.query_params)
        lsn = self._store.lsn
        # Sorted by the name in the response, which for the default namespace differs from the stored name.
        counts = sorted((name or rules.DEFAULT_NAMESPACE, count) for name, count in self._store.counts().items())
        counts = [(name, count) for name, count in counts if name > after]
        page = _pagination([name for name, _ in counts], limit)
        return _read_response(lsn, {"namespaces": [_namespace(*entry) for entry in counts[:limit]], **page})

    def describe_namespace(self, request: Request, _: bytes) -> Response:
        namespace = rules.normalize_namespace(request.path_params["namespace"])
        lsn = self._store.lsn
        count = self._store.counts().get(namespace)
        if count is None:
            raise _unknown_namespace()
        return _read_response(lsn, _namespace(namespace or rules.DEFAULT_NAMESPACE, count))

    def delete_namespace(self, request: Request, _: bytes) -> Response:
        return self._delete_namespace(rules.normalize_namespace(request.path_params["namespace"]))

    def describe_index(self, request: Request, _: bytes) -> Response:
        """Respond as the control plane. The emulator serves both planes."""
        name = request.path_params["name"]
        if name != self._name:
            error = {"code": "NOT_FOUND", "message": f"Resource {name} not found"}
            return _json({"error": error, "status": 404}, status=404)
        wants_schema = request.headers.get("x-pinecone-api-version", "") >= limits.SCHEMA_API_VERSION
        return _json(
            {
                "name": name,
                "host": str(request.base_url).rstrip("/"),
                "status": {"ready": True, "state": "Ready"},
                "deletion_protection": "disabled",
                **(self._schema() if wants_schema else self._vector_type()),
            }
        )

    def _schema(self) -> dict[str, Any]:
        spec = self._store.spec
        dense = {"type": "dense_vector", "dimension": spec.dimension, "metric": spec.metric}
        vectors = {"_values": dense} if spec.vector_type == "dense" else {}
        fields = self._document_schema or {**vectors, "_sparse_values": {"type": "sparse_vector"}}
        deployment = {"deployment_type": "managed", "cloud": "local", "region": "local"}
        return {"schema": {"fields": fields}, "deployment": deployment}

    def _vector_type(self) -> dict[str, Any]:
        spec = self._store.spec
        return {
            **({} if spec.dimension is None else {"dimension": spec.dimension}),
            "metric": spec.metric,
            "vector_type": spec.vector_type,
            "spec": {"serverless": {"cloud": "local", "region": "local"}},
        }

    def _parse_write(self, body: bytes, fields: frozenset[str]) -> tuple[Message, str]:
        """Return the message of a write and its namespace."""
        if self._document_schema is not None:
            raise ApiError(rules.DOCUMENTS_ONLY)
        message = Message.parse(body, fields)
        return message, rules.normalize_namespace(message.text("namespace"))

    def _delete_namespace(self, namespace: str) -> Response:
        lsn = self._store.delete_namespace(namespace)
        if lsn is None:
            raise _unknown_namespace()
        return _write_response(lsn, {})

    def _query_vector(self, namespace: str, message: Message) -> tuple[bytes | None, tuple[bytes, bytes] | None] | None:
        """Return the vector of a query, which may be that of a stored record; ``None`` if the record does not exist."""
        spec = self._store.spec
        record_id = message.text("id")
        if not record_id:
            values = rules.dense_values(message, "vector", spec)
            sparse = rules.sparse_values(message, "sparseVector", spec)
            if values is None and sparse is None:
                raise ApiError("Sparse vector must contain at least one value")
            return values, sparse
        if message.fields.get("vector") or message.fields.get("sparseVector"):
            raise ApiError("A query takes either an id or a vector, not both")
        for row in self._store.fetch(namespace, [record_id]):
            return row.values, row.sparse
        return None


def _routes(operations: _Operations, endpoints: _Endpoints) -> Starlette:
    table: list[tuple[str, str, _Operation]] = [
        ("POST", "/vectors/upsert", operations.upsert_vectors),
        ("POST", "/vectors/update", operations.update_vector),
        ("POST", "/vectors/delete", operations.delete_vectors),
        ("GET", "/vectors/fetch", operations.fetch_vectors),
        ("GET", "/vectors/list", operations.list_vectors),
        ("POST", "/query", operations.query_vectors),
        ("POST", "/describe_index_stats", operations.describe_index_stats),
        ("GET", "/namespaces", operations.list_namespaces),
        ("GET", "/namespaces/{namespace:path}", operations.describe_namespace),
        ("DELETE", "/namespaces/{namespace:path}", operations.delete_namespace),
        ("GET", "/indexes/{name}", operations.describe_index),
    ]
    return Starlette(
        routes=[Route(path, endpoints.make(operation), methods=[method]) for method, path, operation in table],
        exception_handlers={ApiError: _error_response, ClientDisconnect: _disconnected},
    )


def _with_errors(app: ASGIApp) -> ASGIApp:
    """Respond to an error that a middleware raises: Starlette handles only those of its endpoints."""

    async def responding(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ApiError as exc:
            response = await _error_response(Request(scope), exc)
            await response(scope, receive, send)

    return responding


async def _error_response(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)  # noqa: S101 - it is registered for this type
    if exc.code is None:
        # After a 413 the rest of the body would be read as long as the client sends.
        headers = {"Connection": "close"} if exc.status == 413 else None  # noqa: PLR2004
        return PlainTextResponse(exc.message, exc.status, headers)
    return _json({"code": exc.code, "message": exc.message, "details": []}, status=exc.status)


async def _disconnected(_: Request, __: Exception) -> Response:
    """Handle a client that disconnected during its request, so that uvicorn does not log an error."""
    return Response(status_code=400)


def _unknown_namespace() -> ApiError:
    return ApiError("Namespace not found", status=404, code=rules.NOT_FOUND)


def _json(payload: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, media_type="application/json"
    )


def _write_response(lsn: int, payload: object) -> Response:
    return _json(payload, headers={"x-pinecone-request-lsn": str(lsn)})


def _read_response(lsn: int, payload: object) -> Response:
    return _json(payload, headers={"x-pinecone-max-indexed-lsn": str(lsn)})


def _record(row: Row, *, values: bool = True, metadata: bool = True) -> dict[str, Any]:
    """Return the JSON form of a record. It always has ``values``, which SDK 7.3.0 requires even of a sparse record."""
    record = row.unpack()
    json: dict[str, Any] = {"id": row.id, "values": []}
    if values and record.values is not None:
        json["values"] = record.values
    if values and record.sparse_values is not None:
        json["sparseValues"] = {"indices": record.sparse_indices, "values": record.sparse_values}
    if metadata and row.metadata is not None:
        json["metadata"] = orjson.Fragment(row.metadata)
    return json


def _match(match: Match, *, values: bool, metadata: bool) -> dict[str, Any]:
    return {"score": match.score, **_record(match.row, values=values, metadata=metadata)}


def _namespace(name: str, count: int) -> dict[str, Any]:
    return {"name": name, "record_count": count}


def _page_limit(parameters: Mapping[str, str]) -> int:
    text = parameters.get("limit", str(limits.MAX_IDS_PER_LIST_PAGE))
    if not text.isdecimal() or not 1 <= int(text) <= limits.MAX_IDS_PER_LIST_PAGE:
        raise ApiError(f"limit must be between 1 and {limits.MAX_IDS_PER_LIST_PAGE}, but got {text}")
    return int(text)


def _page_start(parameters: Mapping[str, str]) -> str:
    """Parse a pagination token. It is opaque to clients: base64 of ``{"skip_past": …}``, as in the real service."""
    token = parameters.get("paginationToken", "")
    if not token:
        return ""
    try:
        return str(orjson.loads(base64.b64decode(token, validate=True))["skip_past"])
    except (binascii.Error, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
        raise ApiError(f"Invalid pagination token: {token}") from exc


def _pagination(names: Sequence[str], limit: int) -> dict[str, Any]:
    """Return the token of the next page, if ``names`` contains more than one page."""
    if len(names) <= limit:
        return {}
    token = orjson.dumps({"skip_past": names[limit - 1]})
    return {"pagination": {"next": base64.b64encode(token).decode()}}


def _with_request_ids(app: ASGIApp) -> ASGIApp:
    async def with_request_id(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-pinecone-request-id", str(secrets.randbits(60)))
            await send(message)

        await app(scope, receive, send_with_id)

    return with_request_id
