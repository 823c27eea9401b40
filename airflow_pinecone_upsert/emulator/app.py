"""
The ASGI application of one index: its routes, and what all of its operations have in common.

The operations are those of API version 2025-04, and what newer versions added to them:
https://github.com/pinecone-io/pinecone-api

Invariants:

* Every response has the header ``x-pinecone-request-id``.
* Every operation requires an API key.
* Operations are atomic and run one after another.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.aliases import AliasOperations
from airflow_pinecone_upsert.emulator.allowance import Allowance, request_too_large
from airflow_pinecone_upsert.emulator.bodies import bound_bodies, read_body, sent_bytes
from airflow_pinecone_upsert.emulator.control_plane import ControlPlane
from airflow_pinecone_upsert.emulator.faults import Faults
from airflow_pinecone_upsert.emulator.imports import ImportOperations
from airflow_pinecone_upsert.emulator.names import Names
from airflow_pinecone_upsert.emulator.namespaces import NamespaceOperations
from airflow_pinecone_upsert.emulator.request_log import RequestLog
from airflow_pinecone_upsert.emulator.responses import error_response
from airflow_pinecone_upsert.emulator.rules import ApiError
from airflow_pinecone_upsert.emulator.store import Store
from airflow_pinecone_upsert.emulator.vectors import VectorOperations

_Operation = Callable[[Request, bytes], Response]
"""Turns a request and its body into a response."""


def create_app(  # noqa: PLR0913
    store: Store,
    *,
    name: str = "local",
    document_schema: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    max_request_bytes: int = limits.MAX_DECODED_REQUEST_BYTES,
    measure: str | None = None,
    import_duration_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    faults: Faults | None = None,
    log: RequestLog | None = None,
) -> ASGIApp:
    """
    Make the ASGI application of one index.

    :param store: The records of the index.
    :param name: The name of the index, for ``GET /indexes/{name}``.
    :param document_schema: The fields of an index of documents, which rejects vectors.
    :param api_key: The API key that clients must send; ``None`` accepts any key that is not empty.
    :param max_request_bytes: The size of the largest body to accept, JSON or protobuf. The real limit applies to the decoded size.
    :param measure: How the limits of 2 MB a request and 50 MB/s a namespace are measured: ``json`` or ``binary``; ``None``
        enforces neither.
    :param import_duration_s: How many seconds a bulk import takes.
    :param clock: Returns the time in seconds that imports and the rate of upserts are measured by.
    :param faults: Makes requests fail on demand.
    :param log: Records the requests.
    :return: The application.
    :raises ValueError: There is no such measure.
    """
    allowance = Allowance(measure, clock)
    names = Names(store)
    imports = ImportOperations(store, names, duration_s=import_duration_s, clock=clock)
    endpoints = _Endpoints(api_key, max_request_bytes, imports.advance)
    table = _routes(
        VectorOperations(store, names, allowance, holds_documents=document_schema is not None),
        NamespaceOperations(names),
        AliasOperations(names),
        imports,
        ControlPlane(store.spec, name, document_schema),
    )
    app: ASGIApp = Starlette(
        routes=[Route(path, endpoints.make(operation), methods=[method]) for method, path, operation in table],
        exception_handlers={ApiError: _rejected, ClientDisconnect: _disconnected},
    )
    if faults is not None:
        app = faults.wrap(app)
    if log is not None:
        app = log.wrap(app)
    return _with_request_ids(bound_bodies(_with_errors(app)))


class _Endpoints:
    """
    Makes endpoints that check the API key and the size of each request before they run the operation.

    :param api_key: The API key; ``None`` accepts any key that is not empty.
    :param max_request_bytes: The size of the largest body to accept.
    :param before: Runs before each operation.
    """

    def __init__(self, api_key: str | None, max_request_bytes: int, before: Callable[[], None]) -> None:
        self._api_key = api_key
        self._max_request_bytes = max_request_bytes
        self._before = before

    def make(self, operation: _Operation) -> Callable[[Request], Awaitable[Response]]:
        """Make the Starlette endpoint of an operation."""

        async def endpoint(request: Request) -> Response:
            self._check_key(request.headers.get("api-key", ""))
            body = await self._read(request)
            # In the event loop, not in a thread: SQLite and the interpreter run one operation at a time anyway. With
            # threads, eight clients were slower than one, because the threads waited for each other.
            self._before()
            return operation(request, body)

        return endpoint

    def _check_key(self, key: str) -> None:
        expected = key if self._api_key is None else self._api_key
        if not key or not secrets.compare_digest(key.encode(), expected.encode()):
            raise ApiError("Invalid API Key", status=401, code=None)

    async def _read(self, request: Request) -> bytes:
        """Read the whole body, even if it is too large: most clients lose a response that arrives while they send."""
        body = await read_body(request.receive)
        size = sent_bytes(request.scope, body)
        if size > self._max_request_bytes:
            raise request_too_large(size)
        return body


def _routes(
    vectors: VectorOperations,
    namespaces: NamespaceOperations,
    aliases: AliasOperations,
    imports: ImportOperations,
    control_plane: ControlPlane,
) -> Sequence[tuple[str, str, _Operation]]:
    with_aliases = AliasOperations.versioned
    return [
        ("POST", "/vectors/upsert", vectors.upsert_vectors),
        ("POST", "/vectors/update", vectors.update_vector),
        ("POST", "/vectors/delete", vectors.delete_vectors),
        ("GET", "/vectors/fetch", vectors.fetch_vectors),
        ("POST", "/vectors/fetch_by_metadata", vectors.fetch_vectors_by_metadata),
        ("GET", "/vectors/list", vectors.list_vectors),
        ("POST", "/query", vectors.query_vectors),
        ("POST", "/describe_index_stats", vectors.describe_index_stats),
        ("GET", "/namespaces", namespaces.list_namespaces),
        ("POST", "/namespaces", namespaces.create_namespace),
        ("GET", "/namespaces/{namespace:path}", namespaces.describe_namespace),
        ("DELETE", "/namespaces/{namespace:path}", namespaces.delete_namespace),
        ("GET", "/namespace-aliases", with_aliases(aliases.list_namespace_aliases)),
        ("POST", "/namespace-aliases", with_aliases(aliases.create_namespace_alias)),
        ("GET", "/namespace-aliases/{alias:path}", with_aliases(aliases.describe_namespace_alias)),
        ("PATCH", "/namespace-aliases/{alias:path}", with_aliases(aliases.repoint_namespace_alias)),
        ("DELETE", "/namespace-aliases/{alias:path}", with_aliases(aliases.delete_namespace_alias)),
        ("GET", "/bulk/imports", imports.list_bulk_imports),
        ("POST", "/bulk/imports", imports.start_bulk_import),
        ("GET", "/bulk/imports/{import}", imports.describe_bulk_import),
        ("DELETE", "/bulk/imports/{import}", imports.cancel_bulk_import),
        ("GET", "/indexes/{name}", control_plane.describe_index),
    ]


async def _rejected(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)  # noqa: S101 - it is registered for this type
    return error_response(exc)


async def _disconnected(_: Request, __: Exception) -> Response:
    """Handle a client that disconnected during its request, so that uvicorn does not log an error."""
    return Response(status_code=400)


def _with_errors(app: ASGIApp) -> ASGIApp:
    """Respond to an error that a middleware raises: Starlette handles only those of its endpoints."""

    async def responding(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ApiError as exc:
            await error_response(exc)(scope, receive, send)

    return responding


def _with_request_ids(app: ASGIApp) -> ASGIApp:
    async def with_request_id(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-pinecone-request-id", str(secrets.randbits(60)))
            await send(message)

        await app(scope, receive, send_with_id)

    return with_request_id
