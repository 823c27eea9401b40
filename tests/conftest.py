"""
Fixtures for all tests: clients of an index, and servers that are not Pinecone.

``pinecone_index`` and ``pinecone_index_factory`` come from the package's pytest plugin. Nothing here imports Airflow:
``tests/airflow`` sets its home first.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clock import Clock

if TYPE_CHECKING:
    from airflow_pinecone_upsert.client import IndexClient


@dataclass
class Reply:
    """What a :class:`LoopbackServer` answers to every request."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class LoopbackServer:
    """
    A server on a loopback address that is not Pinecone: it answers every request with the same reply.

    :param url: Its URL.
    :param seen: Method, target and headers of each request.
    :param connections: TCP connections so far.
    """

    url: str
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0


@pytest.fixture
def reply() -> type[Reply]:
    """Return the class of replies, for ``serve(reply(404))``."""
    return Reply


@pytest.fixture
def serve() -> Iterator[Callable[..., LoopbackServer]]:
    """Start servers: ``serve(reply(307, headers={"Location": "…"}))``; ``tls=context`` makes it an HTTPS server."""
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

                do_POST = do_DELETE = do_CONNECT = do_GET  # noqa: N815 - the names are http.server's

                def log_message(self, *_: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # a client that does not trust the certificate closes the connection
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
            return state

        yield serve


@pytest.fixture
def clock() -> Clock:
    """A clock for an emulated index that is to lag, or to import slowly. It begins at 0."""
    return Clock()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start an S3 server without buckets, and return its URL."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # one that the environment configured may be that of an earlier server
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """Create a self-signed certificate for 127.0.0.1 and control.example: ``ca.pem`` and ``key.pem`` in the folder that is returned."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = dt.datetime.now(dt.timezone.utc)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("control.example")]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls_server(serve, reply, certificate) -> LoopbackServer:
    """Start an HTTPS server with that certificate, which answers like an index of dimension 3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
    return serve(reply(body=b'{"dimension":3}'), tls=context)


@pytest.fixture
def open_client() -> Iterator[Callable[..., IndexClient]]:
    """Open clients that do not wait between attempts, and that are closed when the test ends."""
    from airflow_pinecone_upsert.api.http import ClientSettings
    from airflow_pinecone_upsert.client import IndexClient

    with ExitStack() as stack:

        def open_client(
            url: str,
            *,
            key: str = "local-key",
            sleep: Callable[[float], None] = lambda _: None,
            attempts: int = 5,
            **settings: Any,
        ) -> IndexClient:
            client = IndexClient(url, ClientSettings(api_key=key, **settings), attempts=attempts, sleep=sleep)
            return stack.enter_context(client)

        yield open_client
