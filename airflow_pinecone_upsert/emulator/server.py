"""
The emulator's HTTP server: uvicorn in a thread.

Invariants:

* After ``start()`` the port accepts requests.
* After ``close()`` the port is free and the thread has ended, even if a client is still connected or a request is still
  stalled by a fault. Such a request may or may not have been applied, as with the real service.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.app import create_app
from airflow_pinecone_upsert.emulator.faults import DropConnection, Faults
from airflow_pinecone_upsert.emulator.records import IndexSpec, StoredRecord
from airflow_pinecone_upsert.emulator.request_log import RequestLog, RequestRecord, max_in_flight
from airflow_pinecone_upsert.emulator.store import Store

if TYPE_CHECKING:
    from airflow_pinecone_upsert.emulator.grpc_server import GrpcServer

_ANY_KEY: Final = "local"
"""The key of an index that accepts any key."""

_KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open. uvicorn's 5 s would disconnect a client that reads its source between requests."""


@final
class EmulatedIndex:
    """
    A Pinecone-compatible index that accepts requests for the duration of a ``with`` block.

    ::

        with EmulatedIndex(dimension=3) as index:
            client = httpx.Client(base_url=index.url, headers={"Api-Key": index.api_key})
            client.post("/vectors/upsert", json={"vectors": [{"id": "a", "values": [1, 2, 3]}]})
            assert index.vectors()["a"].values.tolist() == [1, 2, 3]

    :param dimension: Components of a vector; ``None`` for a sparse index.
    :param metric: ``cosine``, ``dotproduct`` or ``euclidean``; by default ``cosine`` for a dense and ``dotproduct`` for
        a sparse index.
    :param vector_type: ``dense`` or ``sparse``.
    :param name: The name of the index.
    :param document_schema: The fields of an index of documents, such as
        ``{"title": {"type": "string", "full_text_search": {}}}``. Such an index rejects vectors.
    :param api_key: The API key that clients must send; ``None`` accepts any key that is not empty.
    :param host: The address to listen on.
    :param port: The port to listen on; 0 for any free port.
    :param grpc_port: The port to listen on for gRPC; 0 for any free port, ``None`` for no gRPC.
    :param data: The folder to store the records in; ``None`` stores them in memory.
    :param max_request_bytes: The size of the largest body to accept, JSON or protobuf.
    :param measure: How the limits of 2 MB a request and 50 MB/s a namespace are measured: ``json`` counts what was sent,
        ``binary`` the records as they are stored. ``None`` enforces neither.
    :param lag_s: Seconds until a write is visible to queries, fetches, lists and statistics, as in the real service,
        which is eventually consistent. ``vectors()`` returns every record at once.
    :param import_duration_s: How many seconds a bulk import takes; the real service needs at least ten minutes.
    :param clock: Returns the time in seconds that ``lag_s``, ``import_duration_s`` and the rate of ``measure`` are measured by.
    :param record_requests: Whether to fill ``requests``, which grows without bound and costs one more parse per body.
    :param grace_s: How many seconds ``close()`` waits for requests in progress.
    :raises ValueError: Pinecone does not offer this combination of dimension, metric and vector type, a number of
        seconds is negative, or there is no such measure.
    :raises DataFolderError: The folder contains a different kind of index, or is in use.
    """

    def __init__(  # noqa: PLR0913
        self,
        dimension: int | None = None,
        *,
        metric: str | None = None,
        vector_type: str = "dense",
        name: str = "local",
        document_schema: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        grpc_port: int | None = None,
        data: Path | None = None,
        max_request_bytes: int = limits.MAX_DECODED_REQUEST_BYTES,
        measure: str | None = None,
        lag_s: float = 0.0,
        import_duration_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        record_requests: bool = False,
        grace_s: float = 0.0,
    ) -> None:
        self.dimension: Final = dimension
        self.name: Final = name
        self.api_key: Final = api_key or _ANY_KEY
        self.faults: Final = Faults()
        self._address = (host, port)
        self._log = RequestLog()
        default_metric = "dotproduct" if vector_type == "sparse" else "cosine"
        spec = IndexSpec(dimension, metric or default_metric, vector_type)
        self.store: Final = Store(spec, data, lag_s=lag_s, clock=clock)
        self._app = create_app(
            self.store,
            name=name,
            document_schema=document_schema,
            api_key=api_key,
            max_request_bytes=max_request_bytes,
            measure=measure,
            import_duration_s=import_duration_s,
            clock=clock,
            faults=self.faults,
            log=self._log if record_requests else None,
        )
        config = uvicorn.Config(
            _with_dropped_connections(self._app),
            http=_Protocol,
            ws="none",
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_S,
            log_config=None,
            log_level="warning",
            access_log=False,
            date_header=False,
            server_header=False,
        )
        self._server = _Server(config, grace_s)
        self._grace_s = grace_s
        self._thread = threading.Thread(target=self._run, name=f"emulated index {name}", daemon=True)
        self._socket: socket.socket | None = None
        self._url = ""
        self._requested_grpc_port = grpc_port
        self._grpc: GrpcServer | None = None

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:41233``; empty before ``start()``."""
        return self._url

    @property
    def grpc_port(self) -> int | None:
        """The port for gRPC; ``None`` before ``start()``, or without gRPC."""
        return self._grpc.port if self._grpc else None

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests so far, in the order of their responses; empty unless ``record_requests`` is true."""
        return self._log.entries

    @property
    def max_in_flight(self) -> int:
        """The largest number of ``requests`` that were in flight at once."""
        return max_in_flight(list(self.requests))

    def vectors(self, namespace: str = "") -> dict[str, StoredRecord]:
        """
        Return the stored records, also those that are not visible to readers yet.

        :param namespace: The namespace; ``""`` is the default namespace.
        :return: The records by id, ordered by id.
        """
        return {row.id: row.unpack() for row in self.store.rows(namespace)}

    def connection_json(self) -> str:
        """
        Return the value of an environment variable such as ``AIRFLOW_CONN_PINECONE_DEFAULT``.

        Host and port are separate fields, because Airflow 3.3.1 and 3.3.2 cannot test a connection without a port.

        :return: An Airflow connection of type ``pinecone_upsert`` to this index, as JSON.
        """
        host, _, port = self.url.rpartition(":")
        connection: dict[str, Any] = {"conn_type": "pinecone_upsert", "host": host, "port": int(port or 0)}
        extra = {"extra": {"grpc_port": self.grpc_port}} if self.grpc_port else {}
        return json.dumps({**connection, "password": self.api_key, **extra})

    def start(self) -> EmulatedIndex:
        """
        Start the server.

        :return: This index.
        :raises OSError: The port is in use.
        """
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError:
            self.store.close()
            raise
        port = self._socket.getsockname()[1]
        self._url = f"http://[{host}]:{port}" if family == socket.AF_INET6 else f"http://{host}:{port}"
        self._thread.start()
        self._server.ready.wait()
        if not self._server.started:
            self.close()
            raise RuntimeError("The server thread failed to start; its traceback is in the log.")
        if self._requested_grpc_port is not None:
            self._start_grpc(host, self._requested_grpc_port)
        return self

    def _start_grpc(self, host: str, port: int) -> None:
        from airflow_pinecone_upsert.emulator.grpc_server import GrpcServer  # grpcio is needed only here

        try:
            self._grpc = GrpcServer(self._app, self._server.loop, host, port)
        except OSError:
            self.close()
            raise
        self._grpc.start()

    def close(self) -> None:
        """Stop the server, abort unfinished requests and close the store. Can be called more than once."""
        if self._grpc is not None:
            self._grpc.stop(self._grace_s)
        if self._thread.is_alive():
            self._server.stop()
            self._thread.join()
        self.store.close()

    def __enter__(self) -> EmulatedIndex:
        """Start the server."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.close()

    def _run(self) -> None:
        assert self._socket is not None  # noqa: S101 - start() opened it
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._socket.close()
            self._server.ready.set()


class _Server(uvicorn.Server):
    """uvicorn without its polling: it starts and stops within milliseconds, where uvicorn sleeps for up to 0.2 s."""

    def __init__(self, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._grace_s = grace_s
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop. Read it after ``ready`` is set."""
        assert self._loop is not None  # noqa: S101 - main_loop() set it before it set ``ready``
        return self._loop

    def stop(self) -> None:
        """Ask the server to stop. Call it from another thread, after ``ready`` is set."""
        assert self._stopping is not None  # noqa: S101 - main_loop() set it before it set ``ready``
        self.loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # An idle connection closes now, a busy one after its response.
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=self._grace_s)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in (remaining := list(self.server_state.tasks)):
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)


class _Protocol(H11Protocol):
    """Adds its transport to the state of each request for ``_with_dropped_connections``: ASGI cannot drop a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio sets this only for sockets that were created with IPPROTO_TCP. Without it, each response waits 40 ms for
        # the acknowledgement of its headers.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}
        self.access_log = False  # even if an application such as Airflow has configured uvicorn's loggers


def _with_dropped_connections(app: ASGIApp) -> ASGIApp:
    """Drop the connection when the application raises ``DropConnection``."""

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        state: Mapping[str, Any] = scope["state"]
        try:
            await app(scope, receive, send)
        except DropConnection as drop:
            _drop(state["transport"], reset=drop.reset)
            # If this returned before uvicorn has noticed the disconnect, uvicorn would log a missing response.
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # ``shutdown`` cancelled the request and dropped the connection; uvicorn would log that as a crash.
            pass

    return dropping


def _drop(transport: asyncio.Transport, *, reset: bool) -> None:
    if reset:
        # With a linger time of zero, closing the socket sends a reset (socket(7)).
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
