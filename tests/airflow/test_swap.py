"""The swap operator in real DAG runs."""

from __future__ import annotations

import pytest

from airflow_pinecone_upsert import PineconeHook, PineconeSwapNamespaceOperator, pinecone_asset
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.operators.retry_policy import ExceptionRetryPolicy

from .dag_source import DAG_HEAD
from .test_lineage import events_of

HEAD = "from airflow_pinecone_upsert import PineconeSwapNamespaceOperator\n" + DAG_HEAD
SWAP = """
    upsert = PineconeUpsertOperator(
        task_id="upsert", vectors=[(f"r{n}", [1.0] * 8) for n in range(10)], namespace="a-{{ params.night }}", params={"night": 3}
    )
    PineconeSwapNamespaceOperator(
        task_id="swap",
        alias="{{ params.alias }}",
        target_namespace="a-{{ params.night }}",
        lsn=upsert.output["lsn"],
        min_records=upsert.output["upsertedCount"],
        namespace_prefix="a-",
        retries=1,
        retry_delay=0,
        params={"night": 3, "alias": "live"},
    )
"""


@pytest.fixture
def hook(pinecone_index, monkeypatch):
    """Open a hook of an index with an alias for ``a-2``, and an older namespace ``a-1``."""
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    with PineconeHook() as hook:
        for night in ("a-1", "a-2"):
            hook.upsert([(f"r{n}", [1.0] * 8) for n in range(10)], namespace=night)
        hook.create_alias("live", "a-2")
        yield hook


def test_an_alias_is_repointed_once_the_upsert_is_searchable(run_dag, pinecone_index, hook):
    run = run_dag(HEAD + SWAP)
    assert run.state == "success"
    assert run.output("swap") == {
        "alias": "live",
        "targetNamespace": "a-3",
        "previousNamespace": "a-2",
        "recordCount": 10,
        "previousRecordCount": 10,
        "deletedNamespaces": ["a-1"],
        "namespace": "live",
        "indexHost": pinecone_index.url,
    }
    assert hook.describe_alias("live").target_namespace == "a-3"
    uri = pinecone_asset(pinecone_index.url, "live").uri
    assert [event[1:] for event in events_of(run) if event[2] == "swap"] == [(uri, "swap", -1, run.output("swap"))]


@pytest.mark.skipif(ExceptionRetryPolicy is None, reason="before Airflow 3.3, there is no task state store")
def test_a_retry_after_the_repoint_knows_the_previous_namespace(run_dag, pinecone_index, hook):
    hook.upsert([("partial", [1.0] * 8)], namespace="a-2b")  # of a run that failed
    pinecone_index.faults.next(Fault.status(401, "revoked"), path="/namespaces")
    source = (
        (HEAD + SWAP)
        .replace("retries=1", "retries=1, retry_policy=RETRY_ALL")
        .replace("from airflow.sdk import", "from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule,", 1)
    )
    every = "RETRY_ALL = ExceptionRetryPolicy(rules=[RetryRule(exception=Exception, action=RetryAction.RETRY)])\n\nwith DAG("
    run = run_dag(source.replace("with DAG(", every, 1))
    assert pinecone_index.faults.pending == 0
    assert run.state == "success"
    assert run.output("swap")["previousNamespace"] == "a-2"
    assert {one.name for one in hook.list_namespaces()} == {"a-2", "a-3"}


def test_a_guard_fails_at_once_and_readers_stay(run_dag, pinecone_index, hook):
    run = run_dag(HEAD + SWAP.replace("range(10)", "range(7)"))
    assert run.task_state("swap") == "failed"
    assert hook.describe_alias("live").target_namespace == "a-2"
    assert {one.name for one in hook.list_namespaces()} == {"a-1", "a-2", "a-3"}


def test_a_namespace_is_not_set_beside_the_target():
    with pytest.raises(ValueError, match="set alias and target_namespace instead of namespace"):
        PineconeSwapNamespaceOperator(task_id="swap", alias="a", target_namespace="b", namespace="c")
