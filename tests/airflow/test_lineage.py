"""Asset events of upserts: real runs, and the events in Airflow's database."""

from __future__ import annotations

import pytest

from airflow_pinecone_upsert import pinecone_asset

from .dag_source import DAG_HEAD

UPSERT = 'PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="n"{more})'


@pytest.fixture
def asset_of(pinecone_index):
    """Return a function that builds the asset of a namespace of the emulator."""
    return lambda namespace: pinecone_asset(pinecone_index.url, namespace)


def events_of(run):
    """Return the asset events of a run: (name, URI, task, map index, extra)."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(
            select(AssetEvent).where(AssetEvent.source_run_id == run.run.run_id).order_by(AssetEvent.id)
        ).all()
        return [
            (event.asset.name, event.asset.uri, event.source_task_id, event.source_map_index, event.extra)
            for event in found
        ]


@pytest.mark.parametrize("namespace", ["articles", "", "a/b"])
def test_a_success_emits_one_event_with_the_report(run_dag, asset_of, namespace):
    task = f'PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="{namespace}")'
    run = run_dag(f"{DAG_HEAD}\n    {task}")
    assert run.state == "success"
    uri = asset_of(namespace).uri
    assert events_of(run) == [(uri, uri, "upsert", -1, run.output("upsert"))]


@pytest.mark.parametrize("name", ["pinecone_asset(HOST, 'n').name", "'articles'"])
def test_a_declared_outlet_gets_the_report(run_dag, pinecone_index, asset_of, name):
    source = f"""
from airflow.sdk import Asset
from airflow_pinecone_upsert import pinecone_asset

HOST = "{pinecone_index.url}"
OUTLET = Asset(name={name}, uri=pinecone_asset(HOST, "n").uri)
"""
    run = run_dag(source + DAG_HEAD + "\n    " + UPSERT.format(more=", outlets=[OUTLET]"))
    assert run.state == "success"
    (event,) = events_of(run)
    assert event[0] == ("articles" if name == "'articles'" else asset_of("n").uri)
    assert event[1:] == (asset_of("n").uri, "upsert", -1, run.output("upsert"))


def test_an_outlet_for_another_asset_is_unchanged(run_dag, asset_of):
    source = "from airflow.sdk import Asset\n" + DAG_HEAD
    run = run_dag(source + "\n    " + UPSERT.format(more=', outlets=[Asset("something_else")]'))
    assert run.state == "success"
    events = {name: extra for name, *_, extra in events_of(run)}
    assert events == {"something_else": {}, asset_of("n").uri: run.output("upsert")}


def test_every_mapped_instance_emits_its_own_event(run_dag, asset_of):
    run = run_dag(
        DAG_HEAD
        + """
    PineconeUpsertOperator.partial(task_id="upsert", vectors=[("a", [1.0] * 8)]).expand(namespace=["x", "y"])
    """
    )
    assert run.state == "success"
    events = {map_index: (uri, extra) for _, uri, _, map_index, extra in events_of(run)}
    assert events == {
        number: (asset_of(namespace).uri, run.output("upsert", map_index=number))
        for number, namespace in enumerate(["x", "y"])
    }


def test_a_failure_emits_no_event(run_dag):
    run = run_dag(DAG_HEAD + '\n    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 7)])')
    assert run.state == "failed"
    assert events_of(run) == []


def test_an_event_that_cannot_be_emitted_does_not_fail_the_task(run_dag, pinecone_index, caplog):
    """Airflow accepts at most 1,500 characters in a URI; a valid namespace of Pinecone can need more."""
    task = 'PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="#" * 512)'
    run = run_dag(f"{DAG_HEAD}\n    {task}")
    assert run.state == "success"
    assert set(pinecone_index.vectors("#" * 512)) == {"a"}
    assert events_of(run) == []
    assert "The asset event of this upsert could not be emitted; the upsert itself is complete." in caplog.text


def test_another_asset_with_the_same_uri_is_allowed(run_dag, pinecone_index, asset_of):
    """Airflow treats it as another asset: a DAG that waits for upserts must use `pinecone_asset`."""
    source = f"""
from airflow.sdk import Asset

with DAG("uses_another_name", schedule=Asset("mine", uri="{asset_of("n").uri}")):
    task(lambda: None, task_id="consume")()
"""
    run = run_dag(DAG_HEAD + "    " + UPSERT.format(more="") + source)
    assert run.state == "success"
    uri = asset_of("n").uri
    assert events_of(run) == [(uri, uri, "upsert", -1, run.output("upsert"))]


def test_only_a_dag_scheduled_on_the_namespace_is_queued(run_dag, pinecone_index):
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    source = f"""
from airflow.sdk import DAG, task
from airflow_pinecone_upsert import PineconeUpsertOperator, pinecone_asset

for namespace in ("n", "other"):
    with DAG(f"consumer_of_{{namespace}}", schedule=pinecone_asset("{pinecone_index.url}", namespace), is_paused_upon_creation=False):
        task(lambda: None, task_id="consume")()

with DAG("producer", schedule=None) as dag:
    {UPSERT.format(more="")}
"""
    assert run_dag(source).state == "success"
    with create_session() as session:
        queued = session.scalars(select(AssetDagRunQueue.target_dag_id)).all()
    assert [dag_id for dag_id in queued if dag_id.startswith("consumer_of_")] == ["consumer_of_n"]
