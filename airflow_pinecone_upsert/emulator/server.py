"""
A local index that listens on a port: uvicorn in a thread.

What always holds: after ``start()`` the port answers; after ``close()`` the port is free and no thread is left, also
when a client is still connected or a fault still stalls; a request that was not answered by then may or may not have
been applied, as with the real service.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.emulator.app import create_app
from airflow_pinecone_upsert.emulator.faults import Faults, HangUp
from airflow_pinecone_upsert.emulator.records import IndexSpec, StoredRecord
from airflow_pinecone_upsert.emulator.request_log import RequestLog, RequestRecord, max_in_flight
from airflow_pinecone_upsert.emulator.store import Store

_ANY_KEY: Final = "local"
"""What a client may send where any key is taken."""

_KEEP_ALIVE_S: Final = 75
"""Idle connections stay this long. uvicorn's 5 s would cut off a client that reads its source between two requests."""


@final
class EmulatedIndex:
    """
    A Pinecone-compatible index that listens for as long as a ``with`` block lasts.

    ::

        with EmulatedIndex(dimension=3) as index:
            client = httpx.Client(base_url=index.url, headers={"Api-Key": index.api_key})
            client.post("/vectors/upsert", json={"vectors": [{"id": "a", "values": [1, 2, 3]}]})
            assert index.vectors()["a"].values.tolist() == [1, 2, 3]

    :param dimension: Components of a vector; ``None`` for a sparse index.
    :param metric: ``cosine``, ``dotproduct`` or ``euclidean``; by default what the vector type allows.
    :param vector_type: ``dense`` or ``sparse``.
    :param name: The index's name.
    :param document_schema: The fields of an index that holds documents and refuses vectors, such as
        ``{"title": {"type": "string", "full_text_search": {}}}``.
    :param api_key: The key that clients must send; ``None`` takes any that is not empty.
    :param host: The address to listen on.
    :param port: The port; 0 for any that is free.
    :param data: A folder that keeps the records; ``None`` keeps them in memory.
    :param max_request_bytes: The longest JSON body that is taken.
    :param record_requests: Whether ``requests`` is filled. It grows without bound and parses each body once more.
    :param grace_s: How long ``close()`` waits for requests under way.
    :raises ValueError: Dimension, metric and vector type do not go together.
    :raises DataFolderError: The folder holds an index of another kind, or is in use.
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
        data: Path | None = None,
        max_request_bytes: int = limits.MAX_DECODED_REQUEST_BYTES,
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
        self.store: Final = Store(IndexSpec(dimension, metric or default_metric, vector_type), data)
        app = create_app(
            self.store,
            name=name,
            document_schema=document_schema,
            api_key=api_key,
            max_request_bytes=max_request_bytes,
            faults=self.faults,
            log=self._log if record_requests else None,
        )
        config = uvicorn.Config(
            _obeying_hang_ups(app),
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
        self._thread = threading.Thread(target=self._run, name=f"local index {name}", daemon=True)
        self._socket: socket.socket | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:41233``; empty before ``start()``."""
        return self._url

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests so far, in the order of their answers; empty unless ``record_requests``."""
        return self._log.entries

    @property
    def max_in_flight(self) -> int:
        """How many of ``requests`` were open at once, at most."""
        return max_in_flight(list(self.requests))

    def vectors(self, namespace: str = "") -> dict[str, StoredRecord]:
        """
        Give what is stored.

        :param namespace: Where; ``""`` is the default namespace.
        :return: The records by id, ordered by id.
        """
        return {row.id: row.unpack() for row in self.store.rows(namespace)}

    def connection_json(self) -> str:
        """
        Give the value of an environment variable such as ``AIRFLOW_CONN_PINECONE_DEFAULT``.

        Host and port stand apart, because Airflow 3.3.1 and 3.3.2 test no connection without a port.

        :return: An Airflow connection of type ``pinecone_upsert`` to this index, as JSON.
        """
        host, _, port = self.url.rpartition(":")
        connection = {"conn_type": "pinecone_upsert", "host": host, "port": int(port or 0), "password": self.api_key}
        return json.dumps(connection)

    def start(self) -> EmulatedIndex:
        """
        Listen.

        :return: This index.
        :raises OSError: The port is taken.
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
            raise RuntimeError("The server thread died at its start; its traceback is in the log.")
        return self

    def close(self) -> None:
        """Stop listening, end what is under way and close the store. May be called more than once."""
        if self._thread.is_alive():
            self._server.stop()
            self._thread.join()
        self.store.close()

    def __enter__(self) -> EmulatedIndex:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _run(self) -> None:
        assert self._socket is not None  # noqa: S101 - start() opened it
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._socket.close()
            self._server.ready.set()


class _Server(uvicorn.Server):
    """uvicorn without its polling: it starts and stops within milliseconds, where the original sleeps up to 0.2 s."""

    def __init__(self, config: uvicorn.Config, grace_s: float) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._grace_s = grace_s
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Ask the server to end. To be called from another thread, once ``ready`` is set."""
        assert self._loop is not None  # noqa: S101 - main_loop() set both before it set ``ready``
        assert self._stopping is not None  # noqa: S101
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # An idle one closes; a busy one closes behind its answer.
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=self._grace_s)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in (remaining := list(self.server_state.tasks)):
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)


class _Protocol(H11Protocol):
    """Puts its transport into the state of each request, where ``_obeying_hang_ups`` finds it: ASGI cannot hang up."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only for sockets that were made with IPPROTO_TCP; without it each answer waits 40 ms for an
        # acknowledgement of its head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}
        self.access_log = False  # whatever an application such as Airflow does to uvicorn's loggers


def _obeying_hang_ups(app: ASGIApp) -> ASGIApp:
    async def obeying(scope: Scope, receive: Receive, send: Send) -> None:
        state: Mapping[str, Any] = scope["state"]
        try:
            await app(scope, receive, send)
        except HangUp as hang_up:
            _cut(state["transport"], reset=hang_up.reset)
            # uvicorn would log a missing answer if this returned before it noticed that nobody listens.
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # Cancelled by ``shutdown``, which cut the connection: uvicorn would log that as a crash.
            pass

    return obeying


def _cut(transport: asyncio.Transport, *, reset: bool) -> None:
    if reset:
        # With a linger time of zero a close is a reset (socket(7)).
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
