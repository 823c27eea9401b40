"""The hook: the index and the settings that a connection stands for, and every method against the emulator."""

from __future__ import annotations

import gc
import inspect
import json

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.exceptions import AuthenticationError, NotFoundError, SetupError
from airflow_pinecone_upsert.operators.retry_policy import ExceptionRetryPolicy

SECRET = "pcsk_Very-Secret"


@pytest.fixture
def connect(monkeypatch):
    """Set the default connection."""

    def set_connection(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps({"conn_type": "pinecone_upsert", **fields}))

    return set_connection


@pytest.fixture
def hook(pinecone_index, connect):
    connect(host=pinecone_index.url, password=pinecone_index.api_key)
    with PineconeHook() as hook:
        yield hook


def test_a_host_without_a_scheme_is_reached_over_https(connect):
    connect(host="articles-abc.svc.aped-1.pinecone.io", password="key")
    assert PineconeHook().get_conn().host == "https://articles-abc.svc.aped-1.pinecone.io"


def test_the_index_host_parameter_overrides_the_connection(connect):
    connect(host="https://connection.pinecone.io", password="key")
    hook = PineconeHook(index_host="operator.pinecone.io")
    assert hook.get_conn().host == "https://operator.pinecone.io"


def test_host_and_port_can_be_separate_as_in_a_connection_uri(pinecone_index, monkeypatch):
    host, _, port = pinecone_index.url.rpartition(":")
    uri = f"pinecone-upsert://:{pinecone_index.api_key}@{host.replace('://', '%3A%2F%2F')}:{port}"
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", uri)
    assert PineconeHook().test_connection()[0]


@pytest.mark.parametrize(
    ("connection", "host"),
    [
        ({"host": "https://a.pinecone.io"}, "https://b.pinecone.io"),
        ({}, "https://b.pinecone.io"),
        ({"host": "https://gateway.example/base"}, "https://gateway.example/other"),
        ({"extra": {"allowed_host_suffixes": "x.example, internal.example"}}, "https://a.internal.example"),
        ({"host": "http://127.0.0.1:1"}, "http://127.0.0.1:2"),
        ({"extra": {"control_plane_url": "http://127.0.0.1:1"}}, "http://localhost:2"),
    ],
)
def test_a_checked_index_host_is_pinecones_the_connections_or_allowed(connect, connection, host):
    connect(password="key", **connection)
    assert PineconeHook(index_host=host, check_index_host=True).get_conn().host == host


@pytest.mark.parametrize(
    ("connection", "host"),
    [
        ({"host": "https://a.pinecone.io"}, "https://example.com"),
        ({"host": "https://a.pinecone.io"}, "http://127.0.0.1:1"),
        ({}, "http://127.0.0.1:1"),
        ({"host": "http://127.0.0.1:1"}, "https://example.com"),
        ({"extra": {"allowed_host_suffixes": ["internal.example"]}}, "https://badinternal.example"),
    ],
)
def test_any_other_checked_index_host_does_not_receive_the_key(connect, connection, host):
    connect(password="key", **connection)
    with pytest.raises(SetupError, match=r"rendered index_host names the host .* not Pinecone's"):
        PineconeHook(index_host=host, check_index_host=True).get_conn()
    assert PineconeHook(index_host=host).get_conn().host == host


def test_a_gateway_with_a_path_and_a_port(connect):
    connect(host="https://gateway.example/base/", port=8443, password="key")
    assert PineconeHook().get_conn().host == "https://gateway.example:8443/base"


def test_a_connection_of_the_official_provider_works_with_an_index_host(pinecone_index, connect):
    connect(
        conn_type="pinecone",
        login="us-east-1",
        password=pinecone_index.api_key,
        extra={"region": "x", "debug_curl": True},
    )
    assert PineconeHook(index_host=pinecone_index.url).describe_index_stats().dimension == 8


@pytest.mark.parametrize("host", ["", "https://api.pinecone.io", "controller.us-east1-gcp.pinecone.io"])
def test_a_connection_without_an_index_is_rejected(connect, host):
    connect(conn_type="pinecone", host=host, password="key")
    with pytest.raises(SetupError, match=r"names no index .*index_host or index_name"):
        PineconeHook().get_conn()


def test_an_index_name_is_looked_up_once(pinecone_index, connect):
    connect(password=pinecone_index.api_key, extra={"index_name": "local", "control_plane_url": pinecone_index.url})
    hook = PineconeHook()
    hook.describe_index_stats()
    hook.describe_index_stats()
    assert hook.get_conn().host == pinecone_index.url
    assert [request.path for request in pinecone_index.requests].count("/indexes/local") == 1


def test_the_index_name_parameter_overrides_the_connections_host(pinecone_index, connect):
    connect(
        host="https://other.pinecone.io",
        password=pinecone_index.api_key,
        extra={"control_plane_url": pinecone_index.url},
    )
    assert PineconeHook(index_name="local").get_conn().host == pinecone_index.url


def test_an_unknown_index_name_is_a_setup_error(pinecone_index, connect):
    connect(password=pinecone_index.api_key, extra={"index_name": "nope", "control_plane_url": pinecone_index.url})
    with pytest.raises(NotFoundError, match="index name"):
        PineconeHook().get_conn()


def test_a_missing_key_names_the_connection(connect):
    connect(host="https://a.pinecone.io")
    with pytest.raises(SetupError, match="'pinecone_default' has no password"):
        PineconeHook().get_conn()


def test_an_invalid_extra_is_named_without_the_key(connect):
    connect(host="https://a.pinecone.io", password="secret-key-value", extra={"timeout_s": "soon"})
    with pytest.raises(SetupError, match="timeout_s") as caught:
        PineconeHook().get_conn()
    assert "secret-key-value" not in str(caught.value)


def test_empty_fields_of_the_form_are_ignored(connect):
    extra = {"timeout_s": "", "proxy": "", "ca_bundle": None, "api_version": "", "namespace": "", "index_name": ""}
    connect(host="https://a.pinecone.io", password="key", extra=extra)
    assert PineconeHook().get_conn().host == "https://a.pinecone.io"


def test_plain_http_to_another_machine_is_rejected(connect):
    connect(host="http://index.example.com", password="key")
    with pytest.raises(SetupError, match="unencrypted"):
        PineconeHook().get_conn()


def test_the_same_port_in_host_and_port_is_accepted(connect):
    connect(host="https://a.pinecone.io:8443/", port=8443, password="key")
    assert PineconeHook().get_conn().host == "https://a.pinecone.io:8443"


NEEDS_AIRFLOW_3_3 = pytest.mark.skipif(
    ExceptionRetryPolicy is None, reason="before 3.3, Airflow itself rejects an extra that is not an object"
)


@NEEDS_AIRFLOW_3_3
@pytest.mark.parametrize("extra", ["[1]", '"text"', "5"])
def test_an_extra_that_is_not_an_object_is_a_setup_error(connect, extra):
    connect(host="https://a.pinecone.io", password="key", extra=extra)
    with pytest.raises(SetupError, match="has an extra that is not a JSON object"):
        PineconeHook().get_conn()


# The client -------------------------------------------------------------------------------------


def open_clients():
    return [client for client in gc.get_objects() if type(client) is httpx.Client and not client.is_closed]


def test_a_hook_uses_one_client_until_it_is_closed(hook):
    client = hook.get_conn()
    assert hook.get_conn() is client
    assert len(open_clients()) == 1
    hook.close()
    assert open_clients() == []
    hook.close()
    assert hook.describe_index_stats().dimension == 8
    hook.close()


def test_a_with_block_closes_the_client(hook):
    with hook as entered:
        assert entered is hook
        hook.upsert([("a", [1.0] * 8)])
        assert len(open_clients()) == 1
    assert open_clients() == []


# Test in the UI ---------------------------------------------------------------------------------


@pytest.fixture
def press_test(connect):
    """Do what Airflow does when a user presses Test, and check that no client stays open."""

    def press(**connection):
        connect(**connection)
        hook = PineconeHook()
        result = hook.test_connection()
        assert open_clients() == []
        return result

    return press


def test_connection_test_reports_the_index(hook, pinecone_index, press_test):
    with hook:
        hook.upsert([("a", [1.0] * 8)])
    reached = f"Reached {pinecone_index.url}"
    connection = {"host": pinecone_index.url, "password": pinecone_index.api_key}
    assert press_test(**connection) == (True, f"{reached}: 1 record, dimension 8, metric cosine.")
    with PineconeHook() as other:
        other.upsert([(f"b{n}", [1.0] * 8) for n in range(1_233)], namespace="n")
    assert press_test(**connection) == (True, f"{reached}: 1,234 records, dimension 8, metric cosine.")


def test_connection_test_reports_a_sparse_index(pinecone_index_factory, press_test):
    index = pinecone_index_factory(vector_type="sparse")
    assert press_test(host=index.url, password=index.api_key) == (
        True,
        f"Reached {index.url}: 0 records, sparse vectors, metric dotproduct.",
    )


def test_connection_test_finds_the_host_by_index_name(pinecone_index, press_test):
    extra = {"index_name": "local", "control_plane_url": pinecone_index.url}
    succeeded, message = press_test(password=pinecone_index.api_key, extra=extra)
    assert succeeded
    assert message.startswith(f"Reached {pinecone_index.url}")
    succeeded, message = press_test(password=pinecone_index.api_key, extra={**extra, "index_name": "nope"})
    assert not succeeded
    assert "Resource nope not found" in message
    assert "Check the index host, the index name" in message


def test_connection_test_rejects_an_index_that_holds_documents(pinecone_index_factory, press_test):
    index = pinecone_index_factory(document_schema={"title": {"type": "string", "full_text_search": {}}})
    extra = {"index_name": "local", "control_plane_url": index.url}
    succeeded, message = press_test(password=index.api_key, extra=extra)
    assert not succeeded
    assert message == (
        "The index 'local' has a document schema (title). Name an index that holds vectors; this one holds documents."
    )


LONG_NAME = ".".join(["a" * 60] * 5)


@pytest.mark.parametrize(
    ("connection", "phrases"),
    [
        ({"password": "wrong"}, ["answered 401", "Invalid API Key", "the password of the Airflow connection"]),
        ({"password": None}, ["This connection has no password", "Put the Pinecone API key there"]),
        ({"password": " "}, ["This connection has no password"]),
        ({"password": "***"}, ["Airflow's mask", "Enter the key again"]),
        ({"password": "two words"}, ["The API key holds white space", "Copy it again"]),
        ({"host": ""}, ["This connection names no index (its host is empty)", "index's own host", "index_name"]),
        ({"host": "api.pinecone.io"}, ["'api.pinecone.io' is the control plane's", "index's own host", "index_name"]),
        ({"host": "https://app.pinecone.io/organizations/x"}, ["is not a host", "without a path"]),
        ({"host": "http://index.example.com"}, ["unencrypted", "Use https"]),
        ({"host": "a..b"}, ["https://a..b cannot be requested", "Check the index host"]),
        ({"host": LONG_NAME}, ["the name is unknown", "Copy the index host again"]),
        ({"host": "127.0.0.1:1"}, ["Connection refused", "Check the index host, DNS, proxy and firewall"]),
        ({"extra": {"timeout_s": "soon"}}, ["This connection has an extra that is invalid: timeout_s"]),
        ({"extra": {"timeout_s": -1}}, ["timeout_s", "greater than 0"]),
        ({"extra": {"api_version": "April 2025"}}, ["api_version"]),
        ({"extra": {"ca_bundle": "/no/such/file"}}, ["CA bundle '/no/such/file' cannot be read"]),
        pytest.param({"extra": "[1]"}, ["not a JSON object"], marks=NEEDS_AIRFLOW_3_3),
    ],
)
def test_connection_test_says_what_is_wrong(pinecone_index_factory, press_test, connection, phrases):
    index = pinecone_index_factory(dimension=8, api_key="right")
    succeeded, message = press_test(**{"host": index.url, "password": "right", **connection})
    assert not succeeded
    for phrase in phrases:
        assert phrase in message
    assert "pinecone_default" not in message  # in the UI, Airflow uses a random id


def test_connection_test_of_the_emulator_without_a_scheme(pinecone_index, press_test):
    succeeded, message = press_test(host=pinecone_index.url.removeprefix("http://"), password="key")
    assert not succeeded
    assert "does not speak TLS" in message
    assert "named with http://" in message


def test_connection_test_of_an_untrusted_certificate(tls_server, certificate, press_test):
    succeeded, message = press_test(host=tls_server.url, password="key")
    assert not succeeded
    assert "no certificate that is trusted here" in message
    assert "Set ca_bundle" in message
    extra = {"ca_bundle": str(certificate / "ca.pem")}
    succeeded, message = press_test(host=tls_server.url, password="key", extra=extra)
    assert (succeeded, message) == (True, f"Reached {tls_server.url}: 0 records, dimension 3, metric unknown.")


@pytest.mark.parametrize(
    ("fault", "phrases"),
    [
        (
            Fault.status(400, "This index has a document schema, so writes must go through the documents API"),
            ["document schema", "Name an index that holds vectors"],
        ),
        (Fault.status(404), ["answered 404", "Check the index host"]),
        (Fault.body(405, b"<html>"), ["answered 405", "check that the index host is the index's own"]),
        (Fault.body(200, b"<html>"), ["not with a Pinecone response", "Is this host a Pinecone index?"]),
        (Fault.status(307), ["answered 307", "Set the index's own host"]),
        (Fault.status(429, headers={"Retry-After": "60"}), ["answered 429"]),
        (Fault.status(503, "upstream connect error"), ["answered 503", "upstream connect error", "try again later"]),
        (Fault.reset(), ["No answer from"]),
    ],
)
def test_connection_test_sends_one_request_and_does_not_retry(pinecone_index, press_test, fault, phrases):
    pinecone_index.faults.next(fault)
    succeeded, message = press_test(host=pinecone_index.url, password=pinecone_index.api_key)
    assert not succeeded
    for phrase in phrases:
        assert phrase in message
    assert len(pinecone_index.requests) <= 1


def test_connection_test_does_not_raise_without_a_connection():
    succeeded, message = PineconeHook("nowhere").test_connection()
    assert not succeeded
    assert "nowhere" in message


@pytest.mark.parametrize(
    "connection",
    [
        {"host": SECRET},
        {"host": f"https://{SECRET}.pinecone.io/path"},
        {"host": "http://127.0.0.1:1", "extra": {"ca_bundle": SECRET}},
        {"host": "api.pinecone.io", "extra": {"index_name": SECRET, "control_plane_url": "http://127.0.0.1:1"}},
        {"host": "api.pinecone.io", "extra": {"index_name": "x", "control_plane_url": f"https://{SECRET}..io"}},
    ],
)
def test_connection_test_never_shows_the_key(press_test, connection, caplog):
    """Not even if another field contains it, too."""
    succeeded, message = press_test(password=SECRET, **connection)
    assert not succeeded
    assert SECRET.lower() not in (message + caplog.text).lower()


@pytest.mark.parametrize(
    "body",
    [
        b'{"dimension":3,"metric":"%s"}' % SECRET.encode(),
        b'{"dimension":3,"metric":"%s"}' % b"".join(b"\\u%04X" % byte for byte in SECRET.encode()),
        b'{"dimension":3,"metric":["%s"]}' % b"".join(b"\\u%04x" % byte for byte in SECRET.encode()),
    ],
)
def test_connection_test_does_not_show_a_key_that_the_index_echoes(serve, reply, press_test, body):
    _, message = press_test(host=serve(reply(body=body)).url, password=SECRET)
    assert "***" in message
    assert "u0070" not in message
    assert SECRET not in message


# Every method -----------------------------------------------------------------------------------


def test_every_method(hook):
    report = hook.upsert([(f"doc-{n}", [1.0, n, 0, 0, 0, 0, 0, 0], {"n": n}) for n in range(5)], namespace="x")
    assert report.upserted_count == 5
    assert hook.describe_index_stats().namespaces["x"].vector_count == 5
    assert hook.fetch(["doc-1", "unknown"], namespace="x")["doc-1"].metadata == {"n": 1}
    assert sorted(hook.list_ids(prefix="doc-", namespace="x")) == [f"doc-{n}" for n in range(5)]
    best = hook.query(
        vector=[1.0, 4.0, 0, 0, 0, 0, 0, 0], top_k=1, namespace="x", filter={"n": {"$lt": 4}}, include_metadata=True
    )
    assert [(hit.id, hit.metadata) for hit in best] == [("doc-3", {"n": 3})]
    hook.delete(ids=["doc-0"], namespace="x")
    hook.delete(filter={"n": 1}, namespace="x")
    assert sorted(hook.list_ids(namespace="x")) == ["doc-2", "doc-3", "doc-4"]
    assert [namespace.name for namespace in hook.list_namespaces()] == ["x"]
    assert hook.describe_namespace("x").record_count == 3
    hook.create_alias("live", "x")
    assert hook.repoint_alias("live", "x") == hook.describe_alias("live") == next(hook.list_aliases(prefix="l"))
    hook.delete_alias("live")
    hook.delete_namespace("x")
    assert list(hook.list_namespaces()) == []
    with pytest.raises(NotFoundError):
        hook.delete(delete_all=True, namespace="x")


def test_the_connections_namespace_is_the_default_of_every_method(pinecone_index, connect):
    connect(host=pinecone_index.url, password=pinecone_index.api_key, extra={"namespace": "mine"})
    hook = PineconeHook()
    hook.upsert([("a", [1.0] * 8)])
    assert set(pinecone_index.vectors("mine")) == {"a"}
    assert set(hook.fetch(["a"])) == {"a"}
    assert list(hook.list_ids()) == ["a"]
    assert [hit.id for hit in hook.query(vector=[1.0] * 8)] == ["a"]
    hook.delete(ids=["a"])
    assert pinecone_index.vectors("mine") == {}


def test_a_wrong_key_fails_without_a_retry(pinecone_index_factory, connect):
    index = pinecone_index_factory(dimension=8, api_key="right")
    connect(host=index.url, password="wrong")
    with PineconeHook() as hook, pytest.raises(AuthenticationError):
        hook.upsert([("a", [1.0] * 8)])
    assert len(index.requests) == 1


def test_upsert_takes_parquet_paths(hook, pinecone_index, tmp_path):
    for name in ("a", "b"):
        table = pa.table({"sku": [name], "values": [[1.0] * 8]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    report = hook.upsert(parquet_paths=f"{tmp_path}/*.parquet", namespace="x", id_column="sku")
    assert report.upserted_count == 2
    assert set(pinecone_index.vectors("x")) == {"a", "b"}


@pytest.mark.parametrize("sources", [{}, {"records": [], "parquet_paths": "x"}])
def test_upsert_takes_exactly_one_source(hook, sources):
    with pytest.raises(SetupError, match="exactly one of records and parquet_paths"):
        hook.upsert(**sources)


def test_an_upsert_with_a_wrong_parameter_names_it(hook):
    with pytest.raises(SetupError, match=r"Invalid parameters: bach_size: .* \(found 10\)"):
        hook.upsert([], bach_size=10)


def test_the_signatures_of_the_hook_name_every_parameter_of_the_client():
    for name in ("fetch", "list_ids", "query", "delete", "list_aliases", "create_alias", "describe_namespace"):
        of_hook, of_client = (inspect.signature(getattr(kind, name)).parameters for kind in (PineconeHook, IndexClient))
        assert set(of_hook) == set(of_client) - {"cancellation"}
        defaults = {key: one.default for key, one in of_client.items() if key not in ("cancellation", "namespace")}
        assert {key: of_hook[key].default for key in defaults} == defaults
