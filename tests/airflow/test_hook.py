"""The hook: which index and which settings a connection means, and every method against the local index."""

from __future__ import annotations

import json

import pytest

from airflow_pinecone_upsert import PineconeHook
from airflow_pinecone_upsert.api.errors import AuthenticationError, NotFoundError, SetupError


@pytest.fixture
def connect(monkeypatch):
    """Set the default connection."""

    def set_connection(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps({"conn_type": "pinecone_upsert", **fields}))

    return set_connection


@pytest.fixture
def hook(pinecone_index, connect):
    connect(host=pinecone_index.url, password=pinecone_index.api_key)
    return PineconeHook()


def test_a_host_without_a_scheme_is_reached_over_https(connect):
    connect(host="articles-abc.svc.aped-1.pinecone.io", password="key")
    assert PineconeHook().get_conn().host == "https://articles-abc.svc.aped-1.pinecone.io"


def test_the_parameter_goes_before_the_connection(connect):
    connect(host="https://of-the-connection.pinecone.io", password="key")
    hook = PineconeHook(index_host="of-the-operator.pinecone.io")
    assert hook.get_conn().host == "https://of-the-operator.pinecone.io"


def test_host_and_port_may_stand_apart_as_in_a_connection_uri(pinecone_index, monkeypatch):
    host, _, port = pinecone_index.url.rpartition(":")
    uri = f"pinecone-upsert://:{pinecone_index.api_key}@{host.replace('://', '%3A%2F%2F')}:{port}"
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", uri)
    assert PineconeHook().test_connection()[0]


def test_a_connection_of_the_official_provider_works_with_a_host(pinecone_index, connect):
    connect(
        conn_type="pinecone",
        login="us-east-1",
        password=pinecone_index.api_key,
        extra={"region": "x", "debug_curl": True},
    )
    assert PineconeHook(index_host=pinecone_index.url).describe_index_stats().dimension == 8


@pytest.mark.parametrize("host", ["", "https://api.pinecone.io", "controller.us-east1-gcp.pinecone.io"])
def test_a_connection_that_names_no_index_says_what_to_do(connect, host):
    connect(conn_type="pinecone", host=host, password="key")
    with pytest.raises(SetupError, match=r"names no index .*index_host or index_name"):
        PineconeHook().get_conn()


def test_an_index_name_is_looked_up_once(pinecone_index, connect):
    connect(password=pinecone_index.api_key, extra={"index_name": "local", "control_plane_url": pinecone_index.url})
    hook = PineconeHook()
    hook.describe_index_stats()
    hook.describe_index_stats()
    assert hook.get_conn().host == pinecone_index.url
    assert [one.path for one in pinecone_index.requests].count("/indexes/local") == 1


def test_the_name_of_the_operator_goes_before_the_host_of_the_connection(pinecone_index, connect):
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


def test_a_missing_key_is_named_with_its_place(connect):
    connect(host="https://a.pinecone.io")
    with pytest.raises(SetupError, match="'pinecone_default' has no password"):
        PineconeHook().get_conn()


def test_a_wrong_extra_is_named_without_the_key(connect):
    connect(host="https://a.pinecone.io", password="secret-key-value", extra={"timeout_s": "soon"})
    with pytest.raises(SetupError, match="timeout_s") as caught:
        PineconeHook().get_conn()
    assert "secret-key-value" not in str(caught.value)


def test_empty_fields_of_the_form_are_as_good_as_absent(connect):
    extra = {"timeout_s": "", "proxy": "", "ca_bundle": None, "api_version": "", "namespace": "", "index_name": ""}
    connect(host="https://a.pinecone.io", password="key", extra=extra)
    assert PineconeHook().get_conn().host == "https://a.pinecone.io"


def test_plain_http_to_another_machine_is_refused(connect):
    connect(host="http://index.example.com", password="key")
    with pytest.raises(SetupError, match="in clear"):
        PineconeHook().get_conn()


def test_connection_test_says_what_it_reached(hook, pinecone_index):
    hook.upsert([("a", [1.0] * 8)])
    worked, message = hook.test_connection()
    assert worked
    assert message == f"Reached {pinecone_index.url}: 1 records, dimension 8, metric cosine."


def test_connection_test_says_what_is_wrong(pinecone_index_factory, connect):
    index = pinecone_index_factory(dimension=8, api_key="right")
    connect(host=index.url, password="wrong")
    worked, message = PineconeHook().test_connection()
    assert not worked
    assert "Invalid API Key" in message
    assert "password of the Airflow connection" in message


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
    assert [one.name for one in hook.list_namespaces()] == ["x"]
    hook.delete_namespace("x")
    assert list(hook.list_namespaces()) == []
    with pytest.raises(NotFoundError):
        hook.delete(delete_all=True, namespace="x")


def test_the_namespace_of_the_connection_is_the_default_of_every_method(pinecone_index, connect):
    connect(host=pinecone_index.url, password=pinecone_index.api_key, extra={"namespace": "mine"})
    hook = PineconeHook()
    hook.upsert([("a", [1.0] * 8)])
    assert set(pinecone_index.vectors("mine")) == {"a"}
    assert set(hook.fetch(["a"])) == {"a"}
    assert list(hook.list_ids()) == ["a"]
    assert [hit.id for hit in hook.query(vector=[1.0] * 8)] == ["a"]
    hook.delete(ids=["a"])
    assert pinecone_index.vectors("mine") == {}


def test_a_wrong_key_fails_at_once(pinecone_index_factory, connect):
    index = pinecone_index_factory(dimension=8, api_key="right")
    connect(host=index.url, password="wrong")
    with pytest.raises(AuthenticationError):
        PineconeHook().upsert([("a", [1.0] * 8)])
    assert len(index.requests) == 1
