"""``transport``: a parameter of operators, decorator and hook, and a default in the connection's extra."""

from __future__ import annotations

import json

import pytest

from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator, SetupError

from .dag_source import DAG_HEAD

RECORDS = [("a", [1.0] * 8, {"year": 2024})]


@pytest.fixture
def connect(pinecone_index_factory, monkeypatch):
    """Start an index that serves gRPC, too, and make it the default connection with some more keys in its extra."""

    def connect(**extra):
        index = pinecone_index_factory(grpc_port=0)
        connection = json.loads(index.connection_json())
        connection["extra"].update(extra)
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
        return index

    return connect


def versions(index):
    """Return the version of HTTP of each upsert; that of gRPC is 2."""
    return [request.http_version for request in index.requests if request.path == "/vectors/upsert"]


@pytest.mark.parametrize(
    ("extra", "parameters", "expected"),
    [
        ({}, {}, "1.1"),
        ({}, {"transport": "rest"}, "1.1"),
        ({}, {"transport": "grpc"}, "2"),
        ({"transport": "grpc"}, {}, "2"),
        ({"transport": ""}, {}, "1.1"),
        ({"transport": "grpc"}, {"transport": "rest"}, "1.1"),
    ],
)
def test_the_parameter_wins_over_the_connection(connect, extra, parameters, expected):
    index = connect(**extra)
    output = PineconeUpsertOperator(task_id="upsert", vectors=RECORDS, **parameters).execute({})
    assert output["upsertedCount"] == 1
    with PineconeHook() as hook:
        assert hook.upsert(RECORDS, **parameters).upserted_count == 1
    assert versions(index) == [expected] * 2
    assert index.vectors()["a"].metadata == {"year": 2024}


def test_a_task_of_a_dag(run_dag, connect):
    index = connect()
    run = run_dag(
        DAG_HEAD
        + """
    @task.pinecone_upsert(transport="grpc", namespace="decorated")
    def embed():
        yield "a", [1.0] * 8

    embed() >> PineconeUpsertOperator(task_id="upsert", vectors=[("b", [1.0] * 8)], transport="grpc")
    """
    )
    assert run.state == "success"
    assert (set(index.vectors("decorated")), set(index.vectors())) == ({"a"}, {"b"})
    assert versions(index) == ["2", "2"]


@pytest.mark.parametrize("way", ["extra", "parameter"])
def test_another_transport_is_rejected(connect, way):
    index = connect(**({"transport": "http3"} if way == "extra" else {}))
    more = {"transport": "http3"} if way == "parameter" else {}
    with pytest.raises(SetupError, match=r"transport: Input should be 'rest' or 'grpc' \(found 'http3'\)"):
        PineconeUpsertOperator(task_id="upsert", vectors=RECORDS, **more).execute({})
    assert not versions(index)
