"""Assets: the URI of a namespace, and how Airflow reads it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from airflow.sdk import DAG, Asset, AssetAlias, TaskGroup
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert import PineconeUpsertOperator, pinecone_asset

HOST = "articles-abc123.svc.aped-4627-b74a.pinecone.io"


@pytest.mark.parametrize(
    ("host", "namespace", "uri"),
    [
        (HOST, "articles", f"pinecone://{HOST}/articles"),
        (f"https://{HOST}", "articles", f"pinecone://{HOST}/articles"),
        (f" https://{HOST.upper()}/ ", "Articles", f"pinecone://{HOST}/Articles"),
        ("http://127.0.0.1:5080", "n", "pinecone://127.0.0.1:5080/n"),
        ("http://[::1]:5080", "n", "pinecone://[::1]:5080/n"),
        ("https://gateway.example/a/b/", "n", "pinecone://gateway.example%2fa%2fb/n"),
        (HOST, "", f"pinecone://{HOST}/__default__"),
        (HOST, "__default__", f"pinecone://{HOST}/__default__"),
        (HOST, "a/b c?d#e%41é", f"pinecone://{HOST}/a%2Fb%20c%3Fd%23e%2541%C3%A9"),
        (HOST, "2026-01-01T00:00+00:00", f"pinecone://{HOST}/2026-01-01T00:00+00:00"),
    ],
)
def test_the_uri_of_a_namespace(host, namespace, uri):
    asset = pinecone_asset(host, namespace)
    assert asset.uri == uri
    assert asset.name == uri


def test_the_extra_is_passed_to_the_asset():
    assert pinecone_asset(HOST, "n", extra={"team": "search"}).extra == {"team": "search"}


@pytest.mark.parametrize(
    ("uri", "normalised"),
    [
        (f"pinecone://{HOST}", f"pinecone://{HOST}/__default__"),
        (f"PINECONE://{HOST.upper()}/n/", f"pinecone://{HOST}/n"),
        (f"pinecone://{HOST}/a b", f"pinecone://{HOST}/a%20b"),
        (f"pinecone://{HOST}/%61%2fb", f"pinecone://{HOST}/a%2Fb"),
    ],
)
def test_airflow_normalises_a_uri_written_by_hand(airflow_db, uri, normalised):
    from airflow.sdk import Asset

    assert Asset(uri=uri).uri == normalised


@pytest.mark.parametrize("uri", ["pinecone:///n", f"pinecone://{HOST}/a/b", f"pinecone://{HOST}/a?b=c"])
def test_a_uri_that_is_not_a_namespace_is_rejected(airflow_db, uri):
    from airflow.sdk import Asset

    with pytest.raises(ValueError, match="is not pinecone://<index host>/<namespace>"):
        Asset(uri=uri)


@pytest.mark.parametrize("host", ["", "https://", f"{HOST}/path", f"https://{HOST}/path", f"{HOST}?x=y"])
def test_an_invalid_host_is_rejected(host):
    with pytest.raises(ValueError, match="is not pinecone://<index host>/<namespace>"):
        pinecone_asset(host, "n")


def test_a_key_in_the_host_is_rejected_and_not_quoted(airflow_db):
    from airflow.sdk import Asset

    for create in (
        lambda: pinecone_asset(f"https://pckey@{HOST}", "n"),
        lambda: Asset(uri=f"pinecone://pckey@{HOST}/n"),
    ):
        with pytest.raises(ValueError, match="user information") as caught:
            create()
        assert "pckey" not in str(caught.value)


@given(st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=200))
def test_every_namespace_has_a_different_asset(namespace):
    from airflow.sdk import Asset

    asset = pinecone_asset(HOST, namespace)
    assert unquote(urlsplit(asset.uri).path[1:]) == namespace
    assert Asset(uri=asset.uri) == asset


def test_the_provider_registers_uri_handler_factory_and_converter(airflow_db):
    try:
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as ProvidersManager
    except ImportError:  # before Airflow 3.2
        from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.asset_factories["pinecone"](index_host=HOST, namespace="n") == pinecone_asset(HOST, "n")
    dataset = manager.asset_to_openlineage_converters["pinecone"](pinecone_asset(HOST, "a/b"), None)
    assert (dataset.namespace, dataset.name) == (f"pinecone://{HOST}", "a/b")
    assert "pinecone" in manager.asset_uri_handlers


def test_a_mapped_task_declares_its_outlet_when_the_dag_is_parsed():
    """Airflow then creates the alias once. Otherwise each instance does when it ends, and one of two at a time fails."""
    declared = Asset("x-declared")
    with DAG("mapped", schedule=None) as dag, TaskGroup("group"):
        PineconeUpsertOperator.partial(task_id="load", parquet_paths="p", outlets=[declared]).expand(namespace=["a"])
    mapped = dag.get_task("group.load")
    expected = [declared, AssetAlias("pinecone:mapped.group.load")]
    assert mapped.outlets == mapped.unmap({"namespace": "a"}).outlets == expected
