"""The hosts that a control plane may name, over real TLS: through a tunnel, it has a name that is not this machine's."""

import socket
import ssl
import threading
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.hosts import check_allowed
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import describe_index

SECRET = "pcsk_very-secret"


def copy(source, target):
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tunnel_to():
    """Start proxies: ``tunnel_to(port)`` connects every host to a port of this machine."""
    listeners = []

    def start(port):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept():
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += client.recv(1)
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    server = socket.create_connection(("127.0.0.1", port))
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def describe(serve, reply, certificate, tunnel_to):
    """Describe the index "docs" at a control plane on another machine, which answers with these fields."""

    def describe(*, allowed=(), **fields):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "ca.pem", certificate / "key.pem")
        server = serve(reply(body=orjson.dumps({"name": "docs", "host": "docs.pinecone.io", **fields})), tls=context)
        settings = ClientSettings(
            api_key=SECRET,
            ca_bundle=str(certificate / "ca.pem"),
            proxy=tunnel_to(int(server.url.rpartition(":")[2])),
            allowed_host_suffixes=allowed,
        )
        return describe_index("docs", settings, control_plane_url="https://control.example", attempts=1)

    return describe


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("docs-abc.svc.aped-1.pinecone.io", ()),
        ("docs-abc.svc.private.aped-1.pinecone.io", ()),
        ("pinecone.internal.example", ("internal.example",)),
        ("https://internal.example:8443/base", "x.example, *.internal.example"),
        ("10.0.0.5", ["10.0.0.5"]),
    ],
)
def test_a_control_plane_may_name_a_host_of_pinecone_or_one_that_is_allowed(describe, host, allowed):
    assert describe(host=host, allowed=allowed).host == host


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "notpinecone.io",
        "docs.pinecone.io.example.com",
        "https://127.0.0.1:8443",
        "http://localhost:8000",
        "badinternal.example",
    ],
)
def test_a_control_plane_may_not_name_any_other_host(describe, host):
    with pytest.raises(exceptions.SetupError, match=r"not Pinecone's.*not sent there.*allowed_host_suffixes"):
        describe(host=host, allowed=("internal.example",))


def test_a_control_plane_on_this_machine_may_name_any_host(serve, reply):
    server = serve(reply(body=b'{"name":"docs","host":"index.example.com"}'))
    settings = ClientSettings(api_key=SECRET)
    assert describe_index("docs", settings, control_plane_url=server.url).host == "index.example.com"


def test_the_description_of_another_index_is_an_error(describe):
    with pytest.raises(exceptions.UnexpectedResponseError, match="asked for the index 'docs' and described 'other'"):
        describe(name="other")


ESCAPED = "".join(f"\\u{ord(character):04x}" for character in SECRET)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": f"for {SECRET}"},
        {"name": SECRET.upper()},
        {"host": f"{SECRET}.pinecone.io"},
        {"host": f"{SECRET.upper()}.example.com"},
        {"schema": {"fields": {SECRET: {"type": "string"}}}},
    ],
)
def test_a_key_in_a_description_is_not_shown(describe, fields):
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        describe(**fields)
    assert SECRET[5:].lower() not in str(caught.value).lower()


@pytest.mark.parametrize("suffix", ["", "*", ".", "a b", "https://example.com", "example.com/path", 5, [5], ["a", ""]])
def test_an_invalid_suffix_is_rejected(suffix):
    with pytest.raises(ValidationError, match="allowed_host_suffixes"):
        ClientSettings(api_key="key", allowed_host_suffixes=suffix)


LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


@given(st.lists(LABEL, min_size=1), LABEL)
def test_only_whole_labels_match_a_suffix(labels, other):
    suffix = ".".join([*labels, "example"])
    for allowed in (suffix, f"{other}.{suffix}"):
        check_allowed(f"https://{allowed}", [suffix], chosen_by="The test")
    for refused in (f"{other}{suffix}", f"{suffix}.{other}", f"{suffix}{other}"):
        with pytest.raises(exceptions.SetupError):
            check_allowed(f"https://{refused}", [suffix], chosen_by="The test")
