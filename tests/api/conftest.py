"""Servers that are not Pinecone: a few lines each, in a thread, on a loopback address."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient


@dataclass
class Reply:
    """What a server answers to every request."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class LoopbackServer:
    """
    A server with one reply.

    :param url: Its URL.
    :param seen: Method, target and headers of each request.
    :param connections: TCP connections so far.
    """

    url: str
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0


@pytest.fixture
def serve() -> Iterator[Callable[..., LoopbackServer]]:
    """Start a server: ``serve(Reply(307, headers={"Location": "…"}))``, with a TLS context if it is given one."""
    with ExitStack() as stack:

        def serve(reply: Reply, *, tls: ssl.SSLContext | None = None) -> LoopbackServer:
            state = LoopbackServer("")

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def setup(self) -> None:
                    super().setup()
                    state.connections += 1

                def do_GET(self) -> None:
                    self.rfile.read(int(self.headers.get("Content-Length", "0")))
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    state.seen.append((self.command, self.path, headers))
                    self.send_response(reply.status, reply.reason)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)

                do_POST = do_CONNECT = do_GET  # noqa: N815 - the names that http.server looks for

                def log_message(self, *_: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # a client that distrusts the certificate hangs up
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
            return state

        yield serve


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def connect() -> Iterator[Callable[..., IndexClient]]:
    """Open clients that are closed when the test ends, and that never really wait."""
    with ExitStack() as stack:

        def connect(url: str, *, key: str = "local-key", sleep=lambda _: None, attempts: int = 5, **settings):
            chosen = ClientSettings(api_key=key, **settings)
            return stack.enter_context(IndexClient(url, chosen, sleep=sleep, attempts=attempts))

        yield connect
