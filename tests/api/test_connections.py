"""Connections over raw sockets: what follows after a response, and requests that would not end."""

import gzip
import itertools
import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import h11
import httpcore
import httpx
import orjson
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api import endpoints, limits
from airflow_pinecone_upsert.api.connections import GuardedStream
from airflow_pinecone_upsert.api.http import ClientSettings, HttpClient
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

REQUEST = UpsertRequest(EncodedRecords(["XCom"], [0], ["a"], [b'{"id":"a","values":[1,2]}'], [b""], [""]), Envelope())


def response(count, status=b"200 OK"):
    body = orjson.dumps({"upsertedCount": count})
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunked(count):
    body = orjson.dumps({"upsertedCount": count})
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (2, body[:2], len(body) - 2, body[2:])


@dataclass
class RawServer:
    """A server on a loopback address that sends what a test says, not what HTTP says."""

    url: str = ""
    connections: list[socket.socket] = field(default_factory=list)


def read_request(connection):
    """Read one request, and return whether there was one."""
    parser = h11.Connection(h11.SERVER)
    while type(event := parser.next_event()) is not h11.EndOfMessage:
        if type(event) is h11.ConnectionClosed:
            return False
        if event is h11.NEED_DATA:
            parser.receive_data(connection.recv(65_536))
    return True


@pytest.fixture
def serve_raw(certificate):
    """Start servers: ``serve_raw(talk)`` calls ``talk(socket)`` for each connection, in a thread of its own."""
    with ExitStack() as stack:

        def serve(talk, *, tls=False):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = RawServer(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
            threads = []

            def run(connection):
                with connection, suppress(OSError, h11.RemoteProtocolError):
                    talk(connection)

            def accept():
                with suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        connection = context.wrap_socket(connection, server_side=True) if tls else connection
                        server.connections.append(connection)
                        threads.append(threading.Thread(target=run, args=[connection], daemon=True))
                        threads[-1].start()

            acceptor = threading.Thread(target=accept, daemon=True)
            acceptor.start()

            def stop():
                listener.shutdown(socket.SHUT_RDWR)
                acceptor.join()
                for connection in server.connections:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()

            stack.callback(stop)
            return server

        yield serve


@pytest.fixture
def open_http(certificate):
    """Open clients that trust the test's certificate."""
    with ExitStack() as stack:

        def open_http(url, **settings):
            client = HttpClient(url, ClientSettings(api_key="key", ca_bundle=str(certificate / "ca.pem"), **settings))
            stack.callback(client.close)
            return client

        yield open_http


def upsert(client):
    return client.send(REQUEST.endpoint, content=REQUEST.body).upserted_count


# Bytes that are left over -----------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        response(1) + response(99),
        chunked(1) + chunked(99),
        response(1) + b"HTTP/1.1 200 OK\r\nContent-Le",
        response(1) + b"\n",
    ],
)
def test_a_second_response_in_one_write_does_not_confirm_the_next_request(serve_raw, open_http, sent, tls):
    def talk(connection):
        while read_request(connection):
            connection.sendall(sent)

    server = serve_raw(talk, tls=tls)
    client = open_http(server.url)
    assert [upsert(client) for _ in range(4)] == [1, 1, 1, 1]
    assert len(server.connections) == 4


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("sent", [response(1), chunked(1)])
def test_a_connection_without_bytes_left_over_is_used_again(serve_raw, open_http, sent, tls):
    def talk(connection):
        while read_request(connection):
            for start in range(0, len(sent), 7):
                connection.sendall(sent[start : start + 7])

    server = serve_raw(talk, tls=tls)
    client = open_http(server.url)
    assert [upsert(client) for _ in range(4)] == [1, 1, 1, 1]
    assert len(server.connections) == 1


def wait_until_readable(server):
    """Wait until what the server sent has arrived at the client's end of the connection."""
    found = psutil.Process().net_connections("tcp")
    ends = [one.fd for one in found if one.raddr and server.url.endswith(f":{one.raddr.port}")]
    assert select.select(ends, [], [], 30)[0]


@pytest.mark.parametrize("tls", [False, True])
def test_a_second_response_that_arrives_late_does_not_confirm_the_next_request(serve_raw, open_http, tls):
    def talk(connection):
        while read_request(connection):
            connection.sendall(response(1))

    server = serve_raw(talk, tls=tls)
    client = open_http(server.url)
    assert upsert(client) == 1
    server.connections[0].sendall(response(99))
    wait_until_readable(server)
    assert upsert(client) == 1
    assert len(server.connections) == 2


class Pieces:
    """A body in pieces. Before the first one, when the headers are sent, it calls a function."""

    def __init__(self, before_the_first):
        self._before_the_first = before_the_first
        self._pieces = [b'{"vectors":[', b'{"id":"a","values":[1,2]}', b"]}"]

    def __len__(self):
        return sum(map(len, self._pieces))

    def __iter__(self):
        self._before_the_first()
        yield from self._pieces


@pytest.mark.parametrize("tls", [False, True])
def test_a_second_response_that_arrives_during_the_next_request_does_not_confirm_it(serve_raw, open_http, tls):
    def talk(connection):
        while read_request(connection):
            connection.sendall(response(1))

    server = serve_raw(talk, tls=tls)
    client = open_http(server.url)
    assert client.send(endpoints.UPSERT, content=Pieces(lambda: None)).upserted_count == 1

    def send_second_response():
        server.connections[0].sendall(response(99))
        wait_until_readable(server)

    with pytest.raises(exceptions.TransportError, match="belongs to an earlier request"):
        client.send(endpoints.UPSERT, content=Pieces(send_second_response))
    assert upsert(client) == 1
    assert len(server.connections) == 2


def test_an_error_may_come_before_the_whole_request_was_sent(serve_raw, open_http):
    def talk(connection):
        connection.sendall(response(0, b"413 Too Large"))
        read_request(connection)

    server = serve_raw(talk)
    with pytest.raises(exceptions.RequestTooLargeError):
        open_http(server.url).send(endpoints.UPSERT, content=Pieces(lambda: wait_until_readable(server)))


class SplitStream(httpcore.NetworkStream):
    """Returns these pieces, one for each read."""

    def __init__(self, pieces):
        self.pieces = pieces

    def read(self, max_bytes, timeout=None):  # noqa: ARG002
        return self.pieces.pop(0)

    def write(self, buffer, timeout=None):
        pass

    def get_extra_info(self, info):
        return bool(self.pieces) if info == "is_readable" else None


@given(
    sent=st.sampled_from([response(1), chunked(1), b"HTTP/1.1 204 No Content\r\n\r\n"]),
    left_over=st.binary(max_size=4),
    cuts=st.lists(st.integers(1, 120)),
)
def test_any_byte_left_over_makes_a_connection_readable(sent, left_over, cuts):
    """httpcore closes an idle connection that is readable."""
    data = sent + left_over
    ends = sorted({*(cut for cut in cuts if cut < len(data)), len(data)})
    stream = GuardedStream(SplitStream([data[a:b] for a, b in itertools.pairwise([0, *ends])]), 60.0)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    while type(event := parser.next_event()) is not h11.EndOfMessage:
        if event is h11.NEED_DATA:
            parser.receive_data(stream.read(65_536))
    assert stream.get_extra_info("is_readable") is bool(left_over)


# Time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 503 Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_a_response_that_never_ends_is_a_transport_error(serve_raw, open_http, head, repeated):
    def talk(connection):
        read_request(connection)
        connection.sendall(head)
        while True:
            connection.sendall(repeated)
            time.sleep(0.02)

    client = open_http(serve_raw(talk).url, timeout_s=30, total_timeout_s=0.3)
    with pytest.raises(exceptions.TransportError, match=r"ReadTimeout: the request .* took more than 0\.3 s"):
        upsert(client)


def test_the_bound_of_a_request_starts_with_its_first_byte():
    now = 0.0
    stream = GuardedStream(SplitStream([b"ab", b"cd"]), 10.0, clock=lambda: now)
    now = 100.0
    stream.write(b"request")
    assert stream.read(9) + stream.read(9) == b"ab"
    now = 109.0
    assert stream.read(9) + stream.read(9) == b"cd"
    now = 111.0
    with pytest.raises(httpcore.ReadTimeout):
        stream.read(9)
    stream.write(b"next request")
    now = 122.0
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(b"its body")


def test_the_total_time_out_is_some_minutes_or_the_time_out_if_that_is_longer():
    assert ClientSettings(api_key="k").longest_request_s == limits.DEFAULT_TOTAL_TIMEOUT_S
    assert ClientSettings(api_key="k", timeout_s=1_000).longest_request_s == 1_000
    assert ClientSettings(api_key="k", timeout_s=1_000, total_timeout_s=20).longest_request_s == 20


# Size -------------------------------------------------------------------------------------------

ENDPOINTS = [
    *(value for value in vars(endpoints).values() if isinstance(value, endpoints.Endpoint)),
    endpoints.delete_namespace("n"),
    endpoints.describe_index("n"),
]


def endless(status, sent):
    """Return a ``talk`` that sends spaces for ever, and counts them."""
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"

    def talk(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status)
        while True:
            connection.sendall(piece)
            sent.append(65_536)

    return talk


SLACK = 16_000_000
"""Bytes that may be in the buffers of both sockets."""


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_an_endless_response_is_read_up_to_its_bound(serve_raw, open_http, endpoint):
    sent = []
    with pytest.raises(exceptions.UnexpectedResponseError, match=rf"more than {endpoint.max_response_bytes:,} bytes"):
        open_http(serve_raw(endless(200, sent)).url).send(endpoint)
    assert sum(sent) < endpoint.max_response_bytes + SLACK


def test_an_endless_error_response_is_read_up_to_its_bound(serve_raw, open_http):
    sent = []
    with pytest.raises(exceptions.ServerError, match="answered 503"):
        open_http(serve_raw(endless(503, sent)).url).send(endpoints.QUERY)
    assert sum(sent) < SLACK


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP, identity"])
def test_a_compressed_response_is_rejected(serve, reply, open_http, encoding):
    server = serve(reply(200, gzip.compress(b'{"upsertedCount":1}'), {"Content-Encoding": encoding}))
    with pytest.raises(exceptions.UnexpectedResponseError, match=r"content encoding .* was not asked for"):
        upsert(open_http(server.url))
    assert server.seen[0][2]["accept-encoding"] == "identity"


def test_a_compressed_error_response_has_its_class_without_a_message(serve, reply, open_http):
    server = serve(reply(503, gzip.compress(b"x" * 1_000), {"Content-Encoding": "gzip"}))
    with pytest.raises(exceptions.ServerError, match=r"answered 503\. The service"):
        upsert(open_http(server.url))


def test_an_encoding_that_is_none_is_read(serve, reply, open_http):
    assert upsert(open_http(serve(reply(200, b'{"upsertedCount":1}', {"Content-Encoding": "identity"})).url)) == 1


# TLS --------------------------------------------------------------------------------------------


def test_clients_share_tls_settings_until_the_ca_bundle_changes(certificate, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes((certificate / "ca.pem").read_bytes())

    def context():
        client = HttpClient("https://a.pinecone.io", ClientSettings(api_key="key", ca_bundle=str(bundle)))
        client.close()
        return client._client._transport._pool._ssl_context

    assert context() is context()
    before = context()
    bundle.write_bytes(bundle.read_bytes() * 2)
    assert context() is not before


def test_a_proxys_connections_are_guarded(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = HttpClient("https://name.pinecone.io", ClientSettings(api_key="key"))
    transports = {client._client._transport_for_url(httpx.URL(url)) for url in (client.url, "http://127.0.0.1")}
    client.close()
    assert len(transports) == 2
    assert {type(one._pool._network_backend).__module__ for one in transports} == {GuardedStream.__module__}
