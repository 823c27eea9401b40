"""
The emulator's gRPC server: a transcoder in front of the application that serves REST.

A call becomes the REST request of the same operation, in JSON, and its response a message or a status. So rules, faults and
errors are those of REST, and none is written twice.

Invariants:

* After ``start()`` the port accepts calls.
* A call whose connection a fault drops ends with UNAVAILABLE, as gRPC reports a lost connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import grpc
import orjson
from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Scope
from starlette.types import Message as ASGIMessage

from airflow_pinecone_upsert.emulator.faults import DropConnection
from airflow_pinecone_upsert.emulator.messages import MESSAGES, from_json, to_json
from airflow_pinecone_upsert.emulator.responses import grpc_code

_SERVICE: Final = "VectorService"

_OPERATIONS: Final[Mapping[str, tuple[str, str]]] = {
    "Upsert": ("POST", "/vectors/upsert"),
    "Delete": ("POST", "/vectors/delete"),
    "Fetch": ("GET", "/vectors/fetch"),
    "List": ("GET", "/vectors/list"),
    "Query": ("POST", "/query"),
    "Update": ("POST", "/vectors/update"),
    "DescribeIndexStats": ("POST", "/describe_index_stats"),
}

_MAX_MESSAGE_BYTES: Final = 16_000_000
"""Of one message; its JSON is up to four times as long, and the emulator reads 64 MB of it."""

_THREADS: Final = 64
"""Calls at a time. Each waits in a thread for the event loop, which runs one operation after another."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_SHOWN_HEADERS: Final = ("x-pinecone-", "retry-after")


@dataclass
class _Response:
    status: int = 0
    headers: Sequence[tuple[str, str]] = ()
    body: bytearray = field(default_factory=bytearray)

    async def send(self, message: ASGIMessage) -> None:
        """Take a part of the response. See ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        else:
            self.body += message.get("body", b"")


class GrpcServer:
    """
    Serves gRPC, without TLS.

    :param app: The application.
    :param loop: The running event loop of the application.
    :param host: The address to listen on.
    :param port: The port to listen on; 0 for any free port.
    :raises OSError: The port is in use.
    """

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        self._app = app
        self._loop = loop
        options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in _OPERATIONS}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
        try:
            self.port: int = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as exc:  # gRPC names no reason
            raise OSError(f"Cannot listen on {host}:{port} for gRPC. Choose another --grpc-port.") from exc

    def start(self) -> None:
        """Accept calls."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """
        Stop.

        :param grace_s: Seconds that calls in progress may take.
        """
        self._server.stop(grace_s or None).wait()

    def _handler(self, name: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                message = to_json(MESSAGES[f"{name}Request"].FromString(request))
            except (DecodeError, ValueError) as exc:  # bytes, or a number that JSON lacks
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"The request cannot be decoded: {exc}")
            scope, body = _http_request(name, message, len(request), context.invocation_metadata())
            try:
                response = asyncio.run_coroutine_threadsafe(self._call(scope, body), self._loop).result()
            except DropConnection as drop:
                context.abort(
                    grpc.StatusCode.UNAVAILABLE, "Connection reset by peer" if drop.reset else "Socket closed"
                )
            except CancelledError:
                context.abort(grpc.StatusCode.UNAVAILABLE, "The server stops")
            return _grpc_response(name, response, context)

        return handle

    async def _call(self, scope: Scope, body: bytes) -> _Response:
        response = _Response()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> ASGIMessage:
            return next(messages, {"type": "http.disconnect"})

        await self._app(scope, receive, response.send)
        return response


def _http_request(name: str, message: dict[str, Any], size: int, metadata: Any) -> tuple[Scope, bytes]:
    """Return the REST request of the same operation: its scope in ASGI, and its body."""
    method, path = _OPERATIONS[name]
    is_get = method == "GET"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(message, doseq=True).encode() if is_get else b"",
        "headers": [(key.encode(), value.encode()) for key, value in metadata if isinstance(value, str)],
        "state": {},
        "extensions": {"grpc": {"message_bytes": size}},
    }
    return scope, b"" if is_get else orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def _grpc_response(name: str, response: _Response, context: grpc.ServicerContext) -> bytes:
    metadata: list[tuple[str, str | bytes]] = [
        header for header in response.headers if header[0].startswith(_SHOWN_HEADERS)
    ]
    if response.status == 200:  # noqa: PLR2004
        context.set_trailing_metadata(metadata)
        try:
            message = from_json(f"{name}Response", bytes(response.body))
        except ParseError as exc:
            context.abort(grpc.StatusCode.INTERNAL, f"The response cannot be encoded: {exc}")
        encoded: bytes = message.SerializeToString()
        return encoded
    code, text, details = _read_error(response)
    if details:
        metadata.append(("grpc-status-details-bin", _status(code, text, details)))
    context.set_trailing_metadata(metadata)
    context.abort(_CODES.get(code, grpc.StatusCode.UNKNOWN), text)
    raise AssertionError  # pragma: no cover - abort() raises


def _status(code: int, text: str, details: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the details of an error as gRPC sends them: a message in the metadata."""
    packed = []
    for detail in details:
        fields = {name: value for name, value in detail.items() if name != "@type"}
        packed.append(
            MESSAGES["Any"](type_url=detail["@type"], value=MESSAGES["ErrorInfo"](**fields).SerializeToString())
        )
    encoded: bytes = MESSAGES["Status"](code=code, message=text, details=packed).SerializeToString()
    return encoded


def _read_error(response: _Response) -> tuple[int, str, Sequence[Mapping[str, Any]]]:
    """Return the code, the message and the details of an error, which is JSON or text."""
    try:
        error = orjson.loads(response.body)
        return error["code"], error["message"], error.get("details", [])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return grpc_code(response.status), response.body.decode("utf-8", "replace"), []
