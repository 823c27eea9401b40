"""The gRPC boundary over real sockets: the API key, statuses, deadlines, certificates, proxies."""

import logging
import platform
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import psutil
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.grpc_client import GrpcClient
from airflow_pinecone_upsert.api.http import USER_AGENT, ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.emulator.messages import MESSAGES
from airflow_pinecone_upsert.pipeline.encode.protobuf_format import PROTOBUF
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

SECRET = "pcsk_very-secret"
HOST = "http://127.0.0.1:1"
ONE = MESSAGES["UpsertResponse"](upserted_count=1).SerializeToString()
Code = grpc.StatusCode


def request_of(metadata):
    body = PROTOBUF.encode("a", None, None, metadata)
    return UpsertRequest(EncodedRecords(["XCom"], [0], ["a"], [body], [b""], [""]), Envelope("n", PROTOBUF))


REQUEST = request_of({"x": 1})


@dataclass
class Server:
    """A gRPC server that is not Pinecone: it answers every call in the same way."""

    port: int = 0
    seen: list = field(default_factory=list)


@pytest.fixture
def grpc_serve():
    """Start servers: ``serve(b"…")`` responds, ``serve(Code.NOT_FOUND, "…")`` fails."""
    servers = []

    def serve(answer, details="", *, trailing=(("server", "a test"),), credentials=None):
        state = Server()

        def handle(request, context):
            state.seen.append((request, dict(context.invocation_metadata())))
            context.set_trailing_metadata(trailing)
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, details)
            return answer

        handlers = {"Upsert": grpc.unary_unary_rpc_method_handler(handle)}
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("VectorService", handlers)])
        address = "127.0.0.1:0"
        state.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return state

    yield serve
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def open_to(open_client):
    """Open a client of a server."""
    return lambda server, scheme="http", **settings: open_client(
        f"{scheme}://127.0.0.1:{server.port}", key=SECRET, **settings
    )


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2, grpc_port=0)


# What is sent -----------------------------------------------------------------------------------


def test_the_message_the_key_the_version_and_the_user_agent_are_sent(grpc_serve, open_to):
    server = grpc_serve(ONE, trailing=(("x-pinecone-request-lsn", "42"),))
    client = open_to(server, api_version="2026-01")
    response = client.upsert(REQUEST)
    assert (response.upserted_count, response.lsn) == (1, 42)
    [(message, metadata)] = server.seen
    assert MESSAGES["UpsertRequest"].FromString(message).namespace == "n"
    assert metadata["api-key"] == SECRET
    assert metadata["x-pinecone-api-version"] == "2026-01"
    assert metadata["user-agent"].startswith(USER_AGENT)


def test_a_zero_that_protobuf_leaves_out_and_fields_of_newer_versions(grpc_serve, open_to):
    assert open_to(grpc_serve(b"")).upsert(REQUEST).upserted_count == 0
    assert open_to(grpc_serve(ONE + b"\x12\x01x\x18\x05")).upsert(REQUEST).upserted_count == 1


@pytest.mark.parametrize("answer", [b"\xff", b"\x0a\x01x", b"\x08", b"<html>"])
def test_a_response_that_is_not_pinecones(grpc_serve, open_to, answer):
    with pytest.raises(exceptions.UnexpectedResponseError, match="not with a Pinecone response"):
        open_to(grpc_serve(answer)).upsert(REQUEST)


def test_a_response_that_is_too_long(grpc_serve, open_to):
    with pytest.raises(exceptions.UnexpectedResponseError, match="larger than max"):
        open_to(grpc_serve(bytes(1_100_000))).upsert(REQUEST)


def test_a_request_that_is_too_long_is_not_sent(grpc_serve, open_to):
    server = grpc_serve(ONE)
    with pytest.raises(exceptions.RequestTooLargeError, match="larger than max"):
        open_to(server).upsert(request_of({"text": "x" * 4_200_000}))
    assert not server.seen


# Errors -----------------------------------------------------------------------------------------

QUOTA = "You've reached your write unit limit for the current month (2000000). To continue writing data, upgrade."
RATE = "Request failed. You've reached the max upsert size limit per second for index x"
SIZE = "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes"

STATUSES = [
    (Code.UNAUTHENTICATED, "Invalid API Key", exceptions.AuthenticationError),
    (Code.PERMISSION_DENIED, "Forbidden", exceptions.AuthenticationError),
    (Code.PERMISSION_DENIED, "The storage quota is reached", exceptions.QuotaExceededError),
    (Code.NOT_FOUND, "Namespace not found", exceptions.NotFoundError),
    (Code.UNIMPLEMENTED, "Method not found!", exceptions.NotFoundError),
    (Code.INVALID_ARGUMENT, "Vector dimension 2 does not match", exceptions.BadRequestError),
    (Code.INVALID_ARGUMENT, "This index has a document schema, so", exceptions.UnsupportedIndexError),
    (
        Code.INVALID_ARGUMENT,
        "Request size 3MB exceeds the maximum supported size of 2MB",
        exceptions.RequestTooLargeError,
    ),
    (Code.FAILED_PRECONDITION, "no", exceptions.BadRequestError),
    (Code.OUT_OF_RANGE, SIZE, exceptions.RequestTooLargeError),
    (Code.RESOURCE_EXHAUSTED, RATE, exceptions.RateLimitError),
    (Code.RESOURCE_EXHAUSTED, QUOTA, exceptions.QuotaExceededError),
    (Code.RESOURCE_EXHAUSTED, SIZE, exceptions.RequestTooLargeError),
    (Code.UNKNOWN, "Received http2 header with status: 413", exceptions.RequestTooLargeError),
    (Code.UNAVAILABLE, "down", exceptions.ServerError),
    (Code.DEADLINE_EXCEEDED, "upstream", exceptions.ServerError),
    (Code.INTERNAL, "bug", exceptions.ServerError),
    (Code.UNKNOWN, "", exceptions.ServerError),
    (Code.ABORTED, "", exceptions.ServerError),
    (Code.CANCELLED, "", exceptions.ServerError),
    (Code.DATA_LOSS, "", exceptions.ServerError),
    (Code.ALREADY_EXISTS, "", exceptions.ServerError),
]


@pytest.mark.parametrize(("code", "details", "expected"), STATUSES)
def test_a_status_is_the_error_of_what_to_do_next(grpc_serve, open_to, code, details, expected):
    client = open_to(grpc_serve(code, details, trailing=(("x-pinecone-request-id", "17"), ("retry-after", "1.5"))))
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        client.upsert(REQUEST)
    assert type(caught.value) is expected
    assert f" answered {code.name} (request id 17" in str(caught.value) or not details
    assert details in str(caught.value)
    response = caught.value.response
    assert (response.code, response.message, response.retry_after_s) == (code.value[0], details, 1.5)


def test_every_status_is_tested():
    assert {code for code, *_ in STATUSES} == set(Code) - {Code.OK}


@pytest.mark.parametrize("fault", [b"", b"\xff", b"\x1a\x03abc", b"\x1a\x04\x12\x02\x0a\x00"])
def test_details_without_a_reason(grpc_serve, open_to, fault):
    trailing = (("grpc-status-details-bin", fault),)
    with pytest.raises(exceptions.BadRequestError) as caught:
        open_to(grpc_serve(Code.INVALID_ARGUMENT, "no", trailing=trailing)).upsert(REQUEST)
    assert caught.value.response.reason is None


def test_the_reason_of_a_rejected_write_is_read(index, open_client):
    """By its status alone, it would be taken for a fault of a record."""
    client = open_client(index.url, key=index.api_key, grpc_port=index.grpc_port)
    record = PROTOBUF.encode("a", np.float32([1, 2]), None, None)
    records = EncodedRecords(["XCom"], [0], ["a"], [record], [b""], [""])
    client.upsert(UpsertRequest(records, Envelope("articles-1", PROTOBUF)))
    client.create_alias("articles", "articles-1")
    with pytest.raises(exceptions.SetupError, match="A namespace alias only serves reads") as caught:
        client.upsert(UpsertRequest(records, Envelope("articles", PROTOBUF)))
    assert caught.value.response.reason == "NAME_IN_USE_BY_ALIAS"


def test_no_response_within_the_time_out(index, open_client):
    index.faults.next(Fault.stall(60.0))
    client = open_client(index.url, key=index.api_key, timeout_s=0.2, grpc_port=index.grpc_port)
    with pytest.raises(exceptions.TransportError, match=r"No answer from http://127.0.0.1:\d+ \(DEADLINE_EXCEEDED"):
        client.upsert(REQUEST)


@pytest.mark.parametrize("fault", [Fault.reset(), Fault.lost_ack()])
def test_a_lost_connection_is_a_transport_error(index, open_client, fault):
    index.faults.next(fault)
    with pytest.raises(exceptions.TransportError, match="UNAVAILABLE"):
        open_client(index.url, key=index.api_key, grpc_port=index.grpc_port).upsert(REQUEST)


def test_a_closed_port_is_a_transport_error(open_client):
    with pytest.raises(exceptions.TransportError, match="Check the index host, DNS, proxy and firewall"):
        open_client(HOST).upsert(REQUEST)


def test_a_client_connects_again(index, open_client):
    client = open_client(index.url, key=index.api_key, grpc_port=index.grpc_port)
    with pytest.raises(exceptions.BadRequestError):
        client.upsert(REQUEST)
    client.close()
    with pytest.raises(exceptions.TransportError, match="The client is closed"):
        client.upsert(REQUEST)


def test_a_client_that_is_not_closed_leaves_no_connection(grpc_serve):
    server = grpc_serve(ONE)

    def connections():
        found = psutil.Process().net_connections("tcp")
        return [one for one in found if one.raddr and one.raddr.port == server.port]

    client = IndexClient(f"http://127.0.0.1:{server.port}", ClientSettings(api_key=SECRET))
    client.upsert(REQUEST)
    assert len(connections()) == 1
    del client
    assert all(one.status != psutil.CONN_ESTABLISHED for one in connections())


COUNT_PAGE_FAULTS = """
import resource
import sys

from airflow_pinecone_upsert.api.grpc_client import GrpcClient
from airflow_pinecone_upsert.api.http import ClientSettings

client = GrpcClient(sys.argv[1], ClientSettings(api_key="key"))
records = [b"\\n\\x80\\x08" + bytes(1_024)] * 1_900


def page_faults(messages):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(messages):
        client.upsert(b"".join(records))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


page_faults(5)
print(page_faults(10) / 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_message_takes_the_memory_of_the_one_before_it(grpc_serve):
    url = f"http://127.0.0.1:{grpc_serve(ONE).port}"
    done = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS, url], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # two blocks of 475 pages otherwise


def test_a_host_with_a_path_is_rejected(open_client):
    with pytest.raises(exceptions.SetupError, match="which gRPC has no place for"):
        open_client("https://gateway.example/pinecone").upsert(REQUEST)


WITHOUT_GRPCIO = f"""
import sys
sys.modules["grpc"] = None
from airflow_pinecone_upsert.api.grpc_client import GrpcClient
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.exceptions import SetupError
try:
    GrpcClient({HOST!r}, ClientSettings(api_key="key")).upsert(b"")
except SetupError as exc:
    print(exc)
"""


def test_without_grpcio_the_error_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT_GRPCIO], capture_output=True, text=True, check=True)
    assert "pip install 'airflow-pinecone-upsert[grpc]'" in done.stdout


# The key ----------------------------------------------------------------------------------------


def everything_about(error):
    """Return what error reporting collects: the chain of causes, with the variables of all frames but those of tests."""
    parts, remaining = [], [error]
    while remaining:
        one = remaining.pop()
        parts.append(repr(one) + str(vars(one)))
        remaining += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        frames = traceback.TracebackException.from_exception(one, capture_locals=True).stack
        parts += [str(frame.locals) for frame in frames if "/tests/" not in frame.filename]
    return "".join(parts)


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("echoed", [SECRET, SECRET.upper(), "\\u0070csk_very-secret"])
def test_an_echoed_key_is_not_shown(grpc_serve, open_to, caplog, code, echoed):
    caplog.set_level(logging.DEBUG)
    trailing = (("x-pinecone-request-id", f"for {echoed}"), ("retry-after", echoed), ("api-key", echoed))
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        open_to(grpc_serve(code, f"the key {echoed} is wrong", trailing=trailing)).upsert(REQUEST)
    shown = everything_about(caught.value) + caplog.text
    assert "***" in shown
    assert echoed not in shown
    assert SECRET not in shown


@pytest.mark.parametrize("answer", [b"\xff" + SECRET.encode(), None])
def test_the_key_is_not_in_the_variables_of_a_traceback(grpc_serve, open_to, open_client, answer):
    client = open_to(grpc_serve(answer)) if answer else open_client(HOST, key=SECRET)
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        client.upsert(REQUEST)
    assert SECRET not in everything_about(caught.value)


def test_the_key_is_in_no_option_of_the_channel_and_in_no_repr():
    client = GrpcClient("https://name.pinecone.io", ClientSettings(api_key=SECRET))
    assert SECRET not in str(client._options("http://proxy.example:3128"))
    assert SECRET not in f"{client!r}{vars(client)}"


# Certificates and proxies -------------------------------------------------------------------------


@pytest.fixture
def tls(grpc_serve, certificate):
    pair = ((certificate / "key.pem").read_bytes(), (certificate / "ca.pem").read_bytes())
    return grpc_serve(ONE, credentials=grpc.ssl_server_credentials([pair]))


def test_the_key_is_not_sent_to_a_host_with_an_untrusted_certificate(tls, open_to):
    with pytest.raises(
        exceptions.SetupError, match=r"no certificate that is trusted here .*Set ca_bundle if it should"
    ):
        open_to(tls, "https").upsert(REQUEST)
    assert not tls.seen


@pytest.mark.parametrize("way", ["ca_bundle", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_ca_bundle_is_trusted(*, tls, open_to, certificate, monkeypatch, tmp_path, way):
    settings = {}
    (tmp_path / "0.pem").write_bytes((certificate / "ca.pem").read_bytes())
    if way == "ca_bundle":
        settings = {"ca_bundle": str(certificate / "ca.pem")}
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.setenv(way, str(tmp_path / "0.pem" if way == "SSL_CERT_FILE" else tmp_path))
    assert open_to(tls, "https", **settings).upsert(REQUEST).upserted_count == 1


def test_the_key_is_not_sent_without_tls_where_it_was_asked_for(grpc_serve, open_to):
    server = grpc_serve(ONE)
    with pytest.raises(exceptions.PineconeUpsertError):
        open_to(server, "https").upsert(REQUEST)
    assert not server.seen


@pytest.fixture
def proxy(serve, reply):
    return serve(reply(502))


@pytest.mark.parametrize("way", ["connection", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_opens_a_tunnel_and_does_not_see_the_key(proxy, open_client, monkeypatch, way):
    settings = {"proxy": proxy.url} if way == "connection" else {}
    if not settings:
        monkeypatch.setenv(way, proxy.url)
    with pytest.raises(exceptions.TransportError, match="UNAVAILABLE"):
        open_client("https://name.pinecone.io", key=SECRET, **settings).upsert(REQUEST)
    method, target, headers = proxy.seen[0]
    assert (method, target) == ("CONNECT", "name.pinecone.io:443")
    assert SECRET not in str(headers)


def test_no_proxy_is_used_for_this_machine_nor_where_the_environment_says_so(
    *, proxy, grpc_serve, open_to, open_client, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("grpc_proxy", proxy.url)
    assert open_to(grpc_serve(ONE), proxy=proxy.url).upsert(REQUEST).upserted_count == 1
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(exceptions.TransportError):
        open_client("https://127.0.0.1:1").upsert(REQUEST)
    assert not proxy.seen


def test_a_proxy_that_grpc_cannot_use_is_rejected(open_client):
    with pytest.raises(exceptions.SetupError, match="not one of http://") as caught:
        open_client("https://name.pinecone.io", proxy="https://me:hidden@127.0.0.1:1").upsert(REQUEST)
    assert "hidden" not in everything_about(caught.value)
