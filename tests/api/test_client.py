"""The client over real HTTP: every method against the local index, and how it guards the API key."""

import datetime as dt
import gc
import ipaddress
import logging
import ssl
import sys
import traceback
from dataclasses import dataclass

import httpx
import numpy as np
import orjson
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.client import (
    USER_AGENT,
    ClientSettings,
    IndexClient,
    describe_index,
    index_url,
    is_control_plane,
)
from airflow_pinecone_upsert.api.limits import MAX_ID_LENGTH
from airflow_pinecone_upsert.emulator import Fault

SECRET = "pcsk_very-secret"


@dataclass
class Pieces:
    """A body that is not in one block."""

    pieces: list[bytes]

    def __len__(self):
        return sum(map(len, self.pieces))

    def __iter__(self):
        return iter(self.pieces)


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2, metric="dotproduct", name="docs")


@pytest.fixture
def client(index, connect):
    return connect(index.url)


def upsert(client, *records, namespace=""):
    body = {"vectors": list(records), **({"namespace": namespace} if namespace else {})}
    return client.upsert(orjson.dumps(body))


def numbered(count):
    return [{"id": f"r{n:04}", "values": [1, n], "metadata": {"n": n}} for n in range(count)]


# Every method -----------------------------------------------------------------------------------


def test_upsert_returns_what_the_server_confirmed(index, client):
    assert upsert(client, *numbered(3), namespace="ns") == 3
    assert list(index.vectors("ns")) == ["r0000", "r0001", "r0002"]


@pytest.mark.parametrize("fault", [None, Fault.status(503), Fault.body(200, b"?"), Fault.reset()], ids=repr)
def test_a_body_is_let_go_of_with_its_answer(index, client, fault):
    """Two megabytes a request must not wait for the garbage collector."""
    body = Pieces([orjson.dumps({"vectors": numbered(3)})])
    if fault is not None:
        index.faults.next(fault)
    gc.collect()
    gc.disable()
    try:
        held = sys.getrefcount(body)
        try:
            client.upsert(body)
        except exceptions.PineconeUpsertError:
            assert fault is not None
        assert sys.getrefcount(body) == held
    finally:
        gc.enable()


def test_a_body_may_come_in_pieces(index, client):
    first, second = map(orjson.dumps, numbered(2))
    body = Pieces([b'{"vectors":[', first, b"," + second, b"]}"])
    assert client.upsert(body) == 2
    assert list(index.vectors()) == ["r0000", "r0001"]
    request = index.requests[-1]
    assert request.body_bytes == len(body)
    assert request.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in request.headers


def test_upsert_is_sent_once(index, client):
    index.faults.next(Fault.status(503))
    with pytest.raises(exceptions.ServerError):
        upsert(client, *numbered(1))
    assert len(index.requests) == 1


def test_describe_index_stats(client):
    upsert(client, *numbered(3), namespace="ns")
    stats = client.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count, stats.namespaces["ns"].vector_count) == (2, 3, 3)


def test_fetch_returns_any_number_of_records_by_id(index, client):
    upsert(client, *numbered(250))
    found = client.fetch([f"r{n:04}" for n in range(250)] + ["unknown"])
    assert sorted(found) == list(index.vectors())
    assert found["r0007"].values.tolist() == [1, 7]
    assert found["r0007"].metadata == {"n": 7}
    assert client.fetch([]) == {}
    assert client.fetch(["r0007"], namespace="other") == {}


def test_fetch_takes_ids_of_any_characters(client):
    ids = ["a&b=c", "a/b", "a?b#c", "a b", "a+b", "%41", '"\\']
    upsert(client, *({"id": one, "values": [1, 2]} for one in ids), namespace="a&b/c")
    assert sorted(client.fetch(ids, namespace="a&b/c")) == sorted(ids)


def test_fetch_takes_the_longest_ids(client):
    ids = [f"{number:&>{MAX_ID_LENGTH}}" for number in range(100)]
    upsert(client, *({"id": one, "values": [1, 2]} for one in ids))
    assert sorted(client.fetch(ids)) == sorted(ids)


def test_list_ids_goes_through_all_pages(client):
    upsert(client, *numbered(250))
    assert list(client.list_ids()) == [f"r{n:04}" for n in range(250)]
    assert list(client.list_ids(prefix="r000")) == [f"r{n:04}" for n in range(10)]
    assert list(client.list_ids(namespace="other")) == []


def test_query(client):
    upsert(client, *numbered(20), namespace="ns")
    [best, second] = client.query(vector=np.array([0.0, 1.0], np.float32), top_k=2, namespace="ns")
    assert (best.id, best.score, second.id) == ("r0019", 19.0, "r0018")
    assert best.metadata is None
    assert best.values is None or best.values.size == 0  # Pinecone sends an empty list
    [full] = client.query(
        id="r0001", top_k=1, filter={"n": {"$lt": 3}}, include_values=True, include_metadata=True, namespace="ns"
    )
    assert (full.id, full.values.tolist(), full.metadata) == ("r0002", [1, 2], {"n": 2})


def test_query_with_a_sparse_vector(client):
    record = {"id": "a", "values": [1, 0], "sparseValues": {"indices": [5], "values": [2]}}
    upsert(client, record)
    [hit] = client.query(vector=[1.0, 0.0], sparse_vector={"indices": [5], "values": [3.0]}, include_values=True)
    assert hit.score == 7
    assert hit.sparse_values.indices.tolist() == [5]


def test_delete_by_ids_in_any_number(index, client):
    for start in range(0, 2_500, 500):
        upsert(client, *numbered(2_500)[start : start + 500])
    client.delete(ids=[f"r{n:04}" for n in range(2_499)])
    assert list(index.vectors()) == ["r2499"]
    client.delete(ids=[])
    assert list(index.vectors()) == ["r2499"]


def test_delete_by_filter_and_all_of_a_namespace(index, client):
    upsert(client, *numbered(10), namespace="ns")
    client.delete(filter={"n": {"$gte": 3}}, namespace="ns")
    assert len(index.vectors("ns")) == 3
    client.delete(delete_all=True, namespace="ns")
    assert index.vectors("ns") == {}
    with pytest.raises(exceptions.NotFoundError, match="Namespace not found"):
        client.delete(delete_all=True, namespace="unknown")


@pytest.mark.parametrize("ways", [{}, {"ids": ["a"], "delete_all": True}, {"ids": [], "filter": {}}])
def test_delete_wants_exactly_one_way(index, client, ways):
    with pytest.raises(exceptions.SetupError, match="exactly one of ids, filter and delete_all"):
        client.delete(**ways)
    assert not index.requests


def test_namespaces_are_listed_and_deleted(index, client):
    for name in ("a", "b/c", ""):
        upsert(client, *numbered(2), namespace=name)
    listed = {namespace.name: namespace.record_count for namespace in client.list_namespaces()}
    assert listed in ({"a": 2, "b/c": 2, "__default__": 2}, {"a": 2, "b/c": 2, "": 2})
    client.delete_namespace("b/c")
    client.delete_namespace("")
    assert (len(index.vectors("a")), index.vectors("b/c"), index.vectors("")) == (2, {}, {})
    with pytest.raises(exceptions.NotFoundError):
        client.delete_namespace("unknown")


def test_namespaces_are_listed_through_all_pages(client):
    for n in range(120):
        upsert(client, *numbered(1), namespace=f"ns{n:03}")
    assert [namespace.name for namespace in client.list_namespaces()] == [f"ns{n:03}" for n in range(120)]


def test_describe_index_asks_the_control_plane_for_the_host(index):
    settings = ClientSettings(api_key=index.api_key)
    found = describe_index("docs", settings, control_plane_url=index.url)
    assert found.name == "docs"
    assert index_url(f"http://{found.host}" if "://" not in found.host else found.host) == index.url
    with pytest.raises(exceptions.NotFoundError):
        describe_index("no such/index", settings, control_plane_url=index.url)
    assert index.requests[-1].path.startswith("/indexes/no such")


# Passing failures -------------------------------------------------------------------------------


def test_passing_failures_are_tried_again_with_growing_waits(index, connect):
    waits = []
    index.faults.next(Fault.status(503), times=2)
    index.faults.next(Fault.status(429, headers={"Retry-After": "7"}))
    index.faults.next(Fault.reset())
    assert connect(index.url, sleep=waits.append).describe_index_stats().dimension == 2
    assert len(waits) == 4
    assert waits[0] <= 1
    assert waits[1] <= 2
    assert waits[2] == 7
    assert waits[3] <= 8


def test_tries_are_bounded(index, connect):
    waits = []
    index.faults.next(Fault.status(503, "still starting"), times=5)
    with pytest.raises(exceptions.ServerError, match="still starting"):
        connect(index.url, sleep=waits.append).describe_index_stats()
    assert (len(waits), len(index.requests)) == (4, 5)


def test_what_is_final_is_not_tried_again(index, connect):
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        connect(index.url, key="wrong", sleep=pytest.fail).describe_index_stats()
    assert len(index.requests) == 1


def test_describe_index_refuses_an_index_that_holds_documents(pinecone_index_factory):
    fields = {"title": {"type": "string", "full_text_search": {}}, "embedding": {"type": "dense_vector"}}
    index = pinecone_index_factory(name="docs", document_schema=fields)
    with pytest.raises(exceptions.UnsupportedIndexError, match=r"'docs' has a document schema \(title, embedding\)"):
        describe_index("docs", ClientSettings(api_key=index.api_key), control_plane_url=index.url)


def test_describe_index_asks_in_a_version_that_tells_the_schema(index):
    for chosen, asked in (("2025-04", "2026-07"), ("2026-10", "2026-10")):
        settings = ClientSettings(api_key=index.api_key, api_version=chosen)
        assert describe_index("docs", settings, control_plane_url=index.url).index_schema
        assert index.requests[-1].headers["x-pinecone-api-version"] == asked


def test_a_client_that_nobody_closed_leaves_no_connection_behind(index):
    def connections():
        found = psutil.Process().net_connections("tcp")
        return [one for one in found if one.raddr and index.url.endswith(f":{one.raddr.port}")]

    client = IndexClient(index.url, ClientSettings(api_key=index.api_key))
    client.describe_index_stats()
    assert len(connections()) == 1
    del client
    assert all(one.status != psutil.CONN_ESTABLISHED for one in connections())


def test_describe_index_is_tried_again(index):
    waits = []
    index.faults.next(Fault.status(500), times=2)
    describe_index("docs", ClientSettings(api_key=index.api_key), control_plane_url=index.url, sleep=waits.append)
    assert len(waits) == 2


def test_silence_is_a_passing_failure(index, connect):
    index.faults.next(Fault.stall(60.0))
    with pytest.raises(exceptions.TransportError, match=r"No answer from http://127.0.0.1:\d+ \(ReadTimeout"):
        upsert(connect(index.url, timeout_s=0.2), *numbered(1))


def test_a_closed_port_is_a_passing_failure(index, connect):
    index.close()
    with pytest.raises(exceptions.TransportError, match=r"ConnectError.*Check the index host, DNS, proxy and firewall"):
        connect(index.url).describe_index_stats()


def test_a_name_that_nobody_knows_is_a_passing_failure_that_says_so(connect):
    """A resolver may be out of order for a moment. No query leaves this machine: the name is too long for one."""
    with pytest.raises(exceptions.TransportError, match=r"the name is unknown\. Copy the index host again"):
        connect(f"https://{'.'.join(['a' * 60] * 5)}", attempts=1).describe_index_stats()


@pytest.mark.parametrize("name", ["a..b.pinecone.io", f"{'a' * 64}.pinecone.io"])
def test_a_name_that_none_can_have_is_a_setup_error(connect, name):
    with pytest.raises(exceptions.SetupError, match=r"cannot be requested .*Check the index host"):
        connect(f"https://{name}", sleep=pytest.fail).describe_index_stats()


def test_a_server_without_tls_is_a_setup_error(index, connect):
    """A local index named without its scheme."""
    with pytest.raises(exceptions.SetupError, match=r"does not speak TLS.*named with http://"):
        connect(index.url.removeprefix("http://"), sleep=pytest.fail).describe_index_stats()


@pytest.mark.parametrize("version", ["2025-04\nX: y", "é", "2025 04", ""])
def test_an_api_version_that_no_header_can_hold_is_refused(version):
    with pytest.raises(ValidationError, match="api_version"):
        ClientSettings(api_key="key", api_version=version)


# What is sent -----------------------------------------------------------------------------------


def test_requests_share_one_connection_and_name_us(serve, reply, connect):
    server = serve(reply(body=b'{"upsertedCount":1}'))
    client = connect(server.url, key=SECRET, api_version="2026-01")
    for _ in range(5):
        client.upsert(b'{"vectors":[]}')
    assert server.connections == 1
    method, target, headers = server.seen[0]
    assert (method, target) == ("POST", "/vectors/upsert")
    assert headers["api-key"] == SECRET
    assert headers["x-pinecone-api-version"] == "2026-01"
    assert headers["user-agent"] == USER_AGENT
    assert headers["content-type"] == "application/json"


# The index's host -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("name-abc.svc.pinecone.io", "https://name-abc.svc.pinecone.io"),
        (" https://name-abc.svc.pinecone.io/ ", "https://name-abc.svc.pinecone.io"),
        ("https://name.example:8443", "https://name.example:8443"),
        ("name.example:443", "https://name.example"),
        ("http://localhost:5080", "http://localhost:5080"),
        ("HTTP://LOCALHOST:5080", "http://localhost:5080"),
        ("http://127.0.0.1:5080/", "http://127.0.0.1:5080"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:5080", "http://[::1]:5080"),
    ],
)
def test_a_host_is_completed_to_a_url(host, url):
    assert index_url(host) == url


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "is not a host"),
        ("https://", "is not a host"),
        ("name.pinecone.io/path", "is not a host. Copy it from the Pinecone console, without a path"),
        ("https://name.pinecone.io?x=1", "is not a host"),
        ("https://name.pinecone.io#x", "is not a host"),
        ("ftp://name.pinecone.io", "is not a host"),
        ("https://[::1", "is not a URL"),
        ("https://a\x00b", "is not a URL"),
        ("http://name.pinecone.io", "plain http: the API key would be sent unencrypted"),
        ("http://10.0.0.1", "plain http"),
        ("http://0.0.0.0", "plain http"),
        ("http://localhost.example.com", "plain http"),
        ("http://127.0.0.1.example.com", "plain http"),
    ],
)
def test_a_host_that_must_not_see_the_key_is_refused(host, message):
    with pytest.raises(exceptions.SetupError, match=message):
        index_url(host)


@pytest.mark.parametrize("host", [f"https://me:{SECRET}@name.pinecone.io", f"me:{SECRET}@name/path", f"{SECRET}@[::1"])
def test_user_information_in_a_host_is_refused_and_not_quoted(host):
    with pytest.raises(exceptions.SetupError, match="contains user information") as caught:
        index_url(host)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.pinecone.io", True),
        ("https://api.pinecone.io/", True),
        ("controller.us-east1-gcp.pinecone.io", True),
        ("name-abc.svc.pinecone.io", False),
        ("controller.example.com", False),
        ("https://[::1", False),
        ("", False),
    ],
)
def test_the_control_plane_is_told_from_an_index(host, expected):
    assert is_control_plane(host) is expected


# The key ----------------------------------------------------------------------------------------


def test_a_redirect_does_not_carry_the_key_elsewhere(serve, reply, connect):
    target = serve(reply())
    server = serve(reply(307, headers={"Location": f"{target.url}/vectors/upsert"}))
    with pytest.raises(exceptions.SetupError, match="A redirect is not followed"):
        connect(server.url).describe_index_stats()
    assert len(server.seen) == 1
    assert target.seen == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, f"the key {SECRET} is odd"),
        (401, f'{{"code":16,"message":"no such key: {SECRET}"}}'),
        (503, f"{'x' * 490}{SECRET}"),
        (200, f"<html>{SECRET}</html>"),
        (200, f'{{"upsertedCount":"{SECRET}"}}'),
        (200, f"{'x' * 190}{SECRET}"),
    ],
)
def test_a_server_that_echoes_the_key_puts_it_into_no_message(*, serve, reply, connect, caplog, status, body):
    caplog.set_level(logging.DEBUG)
    client = connect(serve(reply(status, body.encode())).url, key=SECRET)
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        client.upsert(b"{}")
    with pytest.raises(exceptions.PineconeUpsertError):
        list(client.list_namespaces()) if status != 200 else client.upsert(b"{}")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.answer) + caplog.text
    assert SECRET[:8] not in shown


def everything_about(error):
    """What a tool that reports errors collects: the whole chain, with the variables of every frame but the tests' own."""
    shown, waiting = [], [error]
    while waiting:
        one = waiting.pop()
        shown.append(repr(one) + str(vars(one)))
        shown += [str(list(value.headers.raw)) for value in vars(one).values() if isinstance(value, httpx.Request)]
        waiting += [behind for behind in (one.__cause__, one.__context__) if behind is not None]
        frames = traceback.TracebackException.from_exception(one, capture_locals=True).stack
        shown += [str(frame.locals) for frame in frames if "/tests/" not in frame.filename]
    return "".join(shown)


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_server_that_echoes_the_headers_puts_the_key_into_no_line_of_a_log(serve, reply, connect, caplog, status):
    """httpcore logs the headers of an answer at DEBUG."""
    caplog.set_level(logging.DEBUG)
    headers = {"x-pinecone-request-id": f"for {SECRET}", "Retry-After": SECRET, "Api-Key": SECRET}
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        connect(serve(reply(status, b"[]", headers, reason=SECRET)).url, key=SECRET).upsert(b"{}")
    assert "receive_response_headers.complete" in caplog.text
    assert "***" in caplog.text
    assert SECRET not in caplog.text + everything_about(caught.value)


@pytest.mark.parametrize(
    "what", ["redirect", "refusal", "other answer", "reset", "silence", "closed", "proxy", "bundle"]
)
def test_the_key_is_in_no_variable_of_a_traceback(serve, reply, index, connect, what):
    index.faults.next(Fault.reset() if what == "reset" else Fault.stall(60.0))
    url, settings = {
        "redirect": lambda: (serve(reply(307)).url, {}),
        "refusal": lambda: (serve(reply(400, reason=SECRET)).url, {}),
        "other answer": lambda: (serve(reply(200, f"{{{SECRET}".encode(), reason=SECRET)).url, {}),
        "reset": lambda: (index.url, {}),
        "silence": lambda: (index.url, {"timeout_s": 0.1}),
        "closed": lambda: ("https://127.0.0.1:1", {}),
        "proxy": lambda: ("https://name.pinecone.io", {"proxy": "nonsense"}),
        "bundle": lambda: ("https://name.pinecone.io", {"ca_bundle": "/nowhere.pem"}),
    }[what]()
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        connect(url, key=SECRET, **settings).upsert(b"{}")
    assert SECRET not in everything_about(caught.value)


def test_the_key_is_in_no_representation(connect):
    settings = ClientSettings(api_key=SECRET, proxy="http://me:hidden@proxy.example")
    client = connect("https://name.pinecone.io", key=SECRET)
    shown = f"{settings!r} {settings} {client!r} {client} {settings.model_dump()}"
    assert SECRET not in shown
    assert "hidden" not in repr(settings)
    assert repr(client) == "IndexClient('https://name.pinecone.io')"


@pytest.mark.parametrize("key", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}é", f"{SECRET}\r\nX: y", "\0"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted(key):
    with pytest.raises(
        exceptions.SetupError, match="The API key holds white space or characters outside ASCII"
    ) as caught:
        IndexClient("https://name.pinecone.io", ClientSettings(api_key=key))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# Proxies and certificates -----------------------------------------------------------------------


def test_a_proxy_is_asked_for_a_tunnel_and_never_shown_the_key(serve, reply, connect):
    proxy = serve(reply(502))
    client = connect("https://name.pinecone.io", key=SECRET, proxy=proxy.url, attempts=1)
    with pytest.raises(exceptions.TransportError, match="ProxyError: 502"):
        client.describe_index_stats()
    [(method, target, headers)] = proxy.seen
    assert (method, target) == ("CONNECT", "name.pinecone.io:443")
    assert SECRET not in str(headers)


def test_the_proxy_of_the_environment_is_used(serve, reply, connect, monkeypatch):
    proxy = serve(reply(502))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(exceptions.TransportError, match="ProxyError"):
        connect("https://name.pinecone.io", attempts=1).describe_index_stats()
    assert len(proxy.seen) == 1


def test_a_loopback_address_is_asked_without_a_proxy(serve, reply, index, connect, monkeypatch):
    proxy = serve(reply(502))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert connect(index.url, proxy=proxy.url).describe_index_stats().dimension == 2
    assert proxy.seen == []


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://proxy.example", "http://[::1"])
def test_a_proxy_that_is_none(proxy):
    with pytest.raises(exceptions.SetupError, match=r"The proxy is not a URL such as http:.*Fix the extra"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", proxy=proxy))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody but its owner trusts, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = dt.datetime.now(dt.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls_server(serve, reply, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
    return serve(reply(body=b'{"dimension":3}'), tls=context)


def test_a_certificate_that_is_not_trusted_ends_it_before_the_key_is_sent(tls_server, connect):
    with pytest.raises(exceptions.SetupError, match=r"no certificate that is trusted here.* Set ca_bundle"):
        connect(tls_server.url, sleep=pytest.fail).describe_index_stats()
    assert tls_server.seen == []


def test_a_ca_bundle_is_trusted(tls_server, connect, certificate):
    client = connect(tls_server.url, ca_bundle=str(certificate / "ca.pem"))
    assert client.describe_index_stats().dimension == 3


def test_the_ca_bundle_of_the_environment_is_trusted(tls_server, connect, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.pem"))
    assert connect(tls_server.url).describe_index_stats().dimension == 3


def test_a_ca_bundle_of_the_environment_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(exceptions.SetupError, match=r"CA bundle that SSL_CERT_FILE .* names cannot be read"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key"))


@pytest.mark.parametrize(
    "variable",
    ["PYTHONHTTPSVERIFY", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_NO_VERIFY", "NODE_TLS_REJECT_UNAUTHORIZED"],
)
@pytest.mark.parametrize("value", ["0", ""])
def test_no_variable_of_the_environment_turns_the_check_off(tls_server, connect, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(exceptions.SetupError, match="no certificate that is trusted here"):
        connect(tls_server.url).describe_index_stats()
    assert tls_server.seen == []


@pytest.mark.parametrize(
    "setting", [{"verify": False}, {"ca_bundle": False}, {"ca_bundle": "false"}, {"ca_bundle": "0"}]
)
def test_no_setting_turns_the_check_off(setting):
    with pytest.raises((ValidationError, exceptions.SetupError), match=r"verify|ca_bundle|CA bundle"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", **setting))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_bundle_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(exceptions.SetupError, match=r"CA bundle '.*ca.pem' cannot be read"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", ca_bundle=str(path)))
