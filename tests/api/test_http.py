"""The HTTP boundary over real sockets: hosts, the API key, proxies, certificates, connections."""

import logging
import traceback
from dataclasses import dataclass
from importlib.util import find_spec

import httpx
import orjson
import psutil
import pytest
from pydantic import ValidationError

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api import endpoints
from airflow_pinecone_upsert.api.hosts import index_url, is_control_plane
from airflow_pinecone_upsert.api.http import USER_AGENT, ClientSettings, HttpClient
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

SECRET = "pcsk_very-secret"
RECORD = {"id": "a", "values": [1, 2]}
REQUEST = UpsertRequest(EncodedRecords(["XCom"], [0], ["a"], [orjson.dumps(RECORD)], [b""], [""]), Envelope())


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2)


# What is sent -----------------------------------------------------------------------------------


def test_requests_share_one_connection_and_have_our_headers(serve, reply, open_client):
    server = serve(reply(body=b'{"upsertedCount":1}'))
    client = open_client(server.url, key=SECRET, api_version="2026-01")
    for _ in range(5):
        client.upsert(REQUEST)
    assert server.connections == 1
    method, target, headers = server.seen[0]
    assert (method, target) == ("POST", "/vectors/upsert")
    assert headers["api-key"] == SECRET
    assert headers["x-pinecone-api-version"] == "2026-01"
    assert headers["user-agent"] == USER_AGENT
    assert headers["content-type"] == "application/json"


@dataclass
class Pieces:
    """A body that is not in one block."""

    pieces: list[bytes]

    def __len__(self):
        return sum(map(len, self.pieces))

    def __iter__(self):
        return iter(self.pieces)


def test_a_body_in_pieces_is_sent_with_its_length(index):
    first, second = (orjson.dumps({**RECORD, "id": record_id}) for record_id in "ab")
    body = Pieces([b'{"vectors":[', first, b"," + second, b"]}"])
    http = HttpClient(index.url, ClientSettings(api_key=index.api_key))
    assert http.send(endpoints.UPSERT, content=body).upserted_count == 2
    http.close()
    assert list(index.vectors()) == ["a", "b"]
    request = index.requests[-1]
    assert request.body_bytes == len(body)
    assert request.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize("version", ["2025-04\nX: y", "é", "2025 04", ""])
def test_an_api_version_that_does_not_fit_a_header_is_rejected(version):
    with pytest.raises(ValidationError, match="api_version"):
        ClientSettings(api_key="key", api_version=version)


# Connections ------------------------------------------------------------------------------------


def test_a_client_that_is_not_closed_leaves_no_connection(index):
    def connections():
        found = psutil.Process().net_connections("tcp")
        return [one for one in found if one.raddr and index.url.endswith(f":{one.raddr.port}")]

    client = IndexClient(index.url, ClientSettings(api_key=index.api_key))
    client.describe_index_stats()
    assert len(connections()) == 1
    del client
    assert all(one.status != psutil.CONN_ESTABLISHED for one in connections())


def test_a_timeout_is_a_transport_error(index, open_client):
    index.faults.next(Fault.stall(60.0))
    with pytest.raises(exceptions.TransportError, match=r"No answer from http://127.0.0.1:\d+ \(ReadTimeout"):
        open_client(index.url, timeout_s=0.2).upsert(REQUEST)


def test_a_closed_port_is_a_transport_error(index, open_client):
    index.close()
    with pytest.raises(exceptions.TransportError, match=r"ConnectError.*Check the index host, DNS, proxy and firewall"):
        open_client(index.url).describe_index_stats()


def test_an_unknown_host_name_is_a_transport_error(open_client):
    """A resolver may fail for a moment. No query leaves this machine: the name is too long for one."""
    with pytest.raises(exceptions.TransportError, match=r"the name is unknown\. Copy the index host again"):
        open_client(f"https://{'.'.join(['a' * 60] * 5)}", attempts=1).describe_index_stats()


@pytest.mark.parametrize("name", ["a..b.pinecone.io", f"{'a' * 64}.pinecone.io"])
def test_an_invalid_host_name_is_a_setup_error(open_client, name):
    with pytest.raises(exceptions.SetupError, match=r"cannot be requested .*Check the index host"):
        open_client(f"https://{name}", sleep=pytest.fail).describe_index_stats()


def test_a_server_without_tls_is_a_setup_error(index, open_client):
    """The emulator, named without its scheme."""
    with pytest.raises(exceptions.SetupError, match=r"does not speak TLS.*named with http://"):
        open_client(index.url.removeprefix("http://"), sleep=pytest.fail).describe_index_stats()


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
        ("https://gateway.example/pinecone/", "https://gateway.example/pinecone"),
        ("notpinecone.io/a/b", "https://notpinecone.io/a/b"),
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
def test_a_host_that_must_not_receive_the_key_is_rejected(host, message):
    with pytest.raises(exceptions.SetupError, match=message):
        index_url(host)


@pytest.mark.parametrize("host", [f"https://me:{SECRET}@name.pinecone.io", f"me:{SECRET}@name/path", f"{SECRET}@[::1"])
def test_user_information_in_a_host_is_rejected_and_not_quoted(host):
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
def test_the_control_plane_is_distinguished_from_an_index(host, expected):
    assert is_control_plane(host) is expected


# The key ----------------------------------------------------------------------------------------


def test_a_redirect_is_not_followed(serve, reply, open_client):
    target = serve(reply())
    server = serve(reply(307, headers={"Location": f"{target.url}/vectors/upsert"}))
    with pytest.raises(exceptions.SetupError, match="A redirect is not followed"):
        open_client(server.url).describe_index_stats()
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
def test_a_key_in_a_response_body_is_not_shown(*, serve, reply, open_client, caplog, status, body):
    caplog.set_level(logging.DEBUG)
    client = open_client(serve(reply(status, body.encode())).url, key=SECRET)
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        client.upsert(REQUEST)
    with pytest.raises(exceptions.PineconeUpsertError):
        list(client.list_namespaces()) if status != 200 else client.upsert(REQUEST)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.response) + caplog.text
    assert SECRET[:8] not in shown


def spelled(key, escape):
    return "".join(escape.format(code=ord(character)) for character in key)


@pytest.mark.parametrize(
    "escape",
    [
        r"\u{code:04x}",
        r"\u{code:04X}",
        r"\\u{code:04x}",
        r"\x{code:02x}",
        "%{code:02X}",
        "%25{code:02x}",
        "&#{code};",
        "&#x{code:x};",
    ],
)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, '{{"upsertedCount":"{key}"}}'),
        (400, '{{"message":"the key {key} is odd"}}'),
        (401, '{{"error":{{"message":"{key}"}}}}'),
        (503, "<p>{key}</p>"),
    ],
)
def test_a_key_that_is_echoed_with_escapes_is_not_shown(*, serve, reply, open_client, caplog, status, body, escape):
    caplog.set_level(logging.DEBUG)
    echoed = spelled(SECRET, escape)
    server = serve(reply(status, body.format(key=echoed).encode(), {"X-Echo": echoed}))
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        open_client(server.url, key=SECRET).upsert(REQUEST)
    shown = str(caught.value) + repr(caught.value.response) + caplog.text
    assert "***" in shown
    assert SECRET not in shown
    assert echoed not in shown


def everything_about(error):
    """Return what error reporting collects: the chain of causes, with the variables of all frames but those of tests."""
    parts, remaining = [], [error]
    while remaining:
        one = remaining.pop()
        parts.append(repr(one) + str(vars(one)))
        parts += [str(list(value.headers.raw)) for value in vars(one).values() if isinstance(value, httpx.Request)]
        remaining += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        frames = traceback.TracebackException.from_exception(one, capture_locals=True).stack
        parts += [str(frame.locals) for frame in frames if "/tests/" not in frame.filename]
    return "".join(parts)


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_key_in_response_headers_is_not_logged(serve, reply, open_client, caplog, status):
    """At DEBUG, httpcore logs the headers of a response."""
    caplog.set_level(logging.DEBUG)
    headers = {"x-pinecone-request-id": f"for {SECRET}", "Retry-After": SECRET, "Api-Key": SECRET}
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        open_client(serve(reply(status, b"[]", headers, reason=SECRET)).url, key=SECRET).upsert(REQUEST)
    assert "receive_response_headers.complete" in caplog.text
    assert "***" in caplog.text
    assert SECRET not in caplog.text + everything_about(caught.value)


@pytest.mark.parametrize("method", ["upsert", "describe_index_stats"])
@pytest.mark.parametrize(
    "failure",
    ["redirect", "error response", "invalid response", "reset", "time-out", "closed", "proxy", "SOCKS", "bundle"],
)
def test_the_key_is_not_in_the_variables_of_a_traceback(*, serve, reply, index, open_client, failure, method):
    index.faults.next(Fault.reset() if failure == "reset" else Fault.stall(60.0))
    url, settings = {
        "redirect": lambda: (serve(reply(307)).url, {}),
        "error response": lambda: (serve(reply(400, reason=SECRET)).url, {}),
        "invalid response": lambda: (serve(reply(200, f"{{{SECRET}".encode(), reason=SECRET)).url, {}),
        "reset": lambda: (index.url, {}),
        "time-out": lambda: (index.url, {"timeout_s": 0.1}),
        "closed": lambda: ("https://127.0.0.1:1", {}),
        "proxy": lambda: ("https://name.pinecone.io", {"proxy": "nonsense"}),
        "SOCKS": lambda: ("https://name.pinecone.io", {"proxy": "socks5://127.0.0.1:1"}),
        "bundle": lambda: ("https://name.pinecone.io", {"ca_bundle": "/nowhere.pem"}),
    }[failure]()
    arguments = [REQUEST] if method == "upsert" else []
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        getattr(open_client(url, key=SECRET, attempts=1, **settings), method)(*arguments)
    assert SECRET not in everything_about(caught.value)


def test_the_key_is_not_in_a_repr(open_client):
    settings = ClientSettings(api_key=SECRET, proxy="http://me:hidden@proxy.example")
    client = open_client("https://name.pinecone.io", key=SECRET)
    shown = f"{settings!r} {settings} {client!r} {client} {settings.model_dump()}"
    assert SECRET not in shown
    assert "hidden" not in repr(settings)
    assert repr(client) == "IndexClient('https://name.pinecone.io')"


@pytest.mark.parametrize("key", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}é", f"{SECRET}\r\nX: y", "\0"])
def test_a_key_that_does_not_fit_a_header_is_rejected_and_not_quoted(key):
    with pytest.raises(
        exceptions.SetupError, match="The API key holds white space or characters outside ASCII"
    ) as caught:
        IndexClient("https://name.pinecone.io", ClientSettings(api_key=key))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# Proxies ----------------------------------------------------------------------------------------


def test_a_proxy_opens_a_tunnel_and_does_not_see_the_key(serve, reply, open_client):
    proxy = serve(reply(502))
    client = open_client("https://name.pinecone.io", key=SECRET, proxy=proxy.url, attempts=1)
    with pytest.raises(exceptions.TransportError, match="ProxyError: 502"):
        client.describe_index_stats()
    [(method, target, headers)] = proxy.seen
    assert (method, target) == ("CONNECT", "name.pinecone.io:443")
    assert SECRET not in str(headers)


def test_the_proxy_of_the_environment_is_used(serve, reply, open_client, monkeypatch):
    proxy = serve(reply(502))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(exceptions.TransportError, match="ProxyError"):
        open_client("https://name.pinecone.io", attempts=1).describe_index_stats()
    assert len(proxy.seen) == 1


def test_a_loopback_address_is_requested_without_a_proxy(serve, reply, index, open_client, monkeypatch):
    proxy = serve(reply(502))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert open_client(index.url, proxy=proxy.url).describe_index_stats().dimension == 2
    assert proxy.seen == []


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://proxy.example", "http://[::1"])
def test_an_invalid_proxy_is_a_setup_error(proxy):
    with pytest.raises(exceptions.SetupError, match=r"The proxy is not a URL such as http:.*Fix the extra"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", proxy=proxy))


@pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS proxies work where socksio is installed")
def test_a_socks_proxy_names_the_package_that_it_needs(monkeypatch):
    with pytest.raises(exceptions.SetupError, match="needs the package socksio"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", proxy="socks5://127.0.0.1:1"))
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(exceptions.SetupError, match="needs the package socksio"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key"))


@pytest.mark.parametrize("timeout_s", [0, -1, 3_601, 1e12, float("inf"), float("nan")])
def test_a_time_out_beyond_reason_is_rejected(timeout_s):
    with pytest.raises(ValidationError, match="timeout_s"):
        ClientSettings(api_key="key", timeout_s=timeout_s)


def test_a_key_log_file_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys.log")
    with pytest.raises(
        exceptions.SetupError, match=r"SSLKEYLOGFILE names '/nowhere/keys.log', which cannot be written"
    ):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key"))


def test_every_path_is_joined_below_the_path_of_a_gateway(serve, reply, open_client):
    server = serve(reply())
    client = open_client(f"{server.url}/base/a%2Fb/")
    client.describe_index_stats()
    client.delete_namespace("x/y")
    client.fetch(["a"])
    assert [target for _, target, _ in server.seen] == [
        "/base/a%2Fb/describe_index_stats",
        "/base/a%2Fb/namespaces/x%2Fy",
        "/base/a%2Fb/vectors/fetch?ids=a",
    ]


# Certificates -----------------------------------------------------------------------------------


def test_the_key_is_not_sent_to_a_host_with_an_untrusted_certificate(tls_server, open_client):
    with pytest.raises(exceptions.SetupError, match=r"no certificate that is trusted here.* Set ca_bundle"):
        open_client(tls_server.url, sleep=pytest.fail).describe_index_stats()
    assert tls_server.seen == []


def test_a_ca_bundle_is_trusted(tls_server, open_client, certificate):
    client = open_client(tls_server.url, ca_bundle=str(certificate / "ca.pem"))
    assert client.describe_index_stats().dimension == 3


def test_the_ca_bundle_of_the_environment_is_trusted(tls_server, open_client, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.pem"))
    assert open_client(tls_server.url).describe_index_stats().dimension == 3


def test_a_missing_ca_bundle_of_the_environment_is_a_setup_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(exceptions.SetupError, match=r"CA bundle that SSL_CERT_FILE .* names cannot be read"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key"))


@pytest.mark.parametrize(
    "variable",
    ["PYTHONHTTPSVERIFY", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_NO_VERIFY", "NODE_TLS_REJECT_UNAUTHORIZED"],
)
@pytest.mark.parametrize("value", ["0", ""])
def test_no_variable_disables_certificate_verification(tls_server, open_client, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(exceptions.SetupError, match="no certificate that is trusted here"):
        open_client(tls_server.url).describe_index_stats()
    assert tls_server.seen == []


@pytest.mark.parametrize(
    "setting", [{"verify": False}, {"ca_bundle": False}, {"ca_bundle": "false"}, {"ca_bundle": "0"}]
)
def test_no_setting_disables_certificate_verification(setting):
    with pytest.raises((ValidationError, exceptions.SetupError), match=r"verify|ca_bundle|CA bundle"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", **setting))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unreadable_ca_bundle_is_a_setup_error(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(exceptions.SetupError, match=r"CA bundle '.*ca.pem' cannot be read"):
        IndexClient("https://name.pinecone.io", ClientSettings(api_key="key", ca_bundle=str(path)))
