"""What others learn of an upsert, in real runs: asset events in Airflow's database."""

from __future__ import annotations

import pytest

from airflow_pinecone_upsert import pinecone_asset

from .test_operator import HEAD

UPSERT = 'PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="n"{more})'


@pytest.fixture
def asset_of(pinecone_index):
    """The asset of a namespace of the local index."""
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
def test_a_success_is_one_event_with_the_report(run_dag, asset_of, namespace):
    run = run_dag(
        HEAD + f'\n    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="{namespace}")'
    )
    assert run.state == "success"
    uri = asset_of(namespace).uri
    assert events_of(run) == [(uri, uri, "upsert", -1, run.output("upsert"))]


@pytest.mark.parametrize("name", ["pinecone_asset(HOST, 'n').name", "'articles'"])
def test_an_outlet_that_the_user_declared_takes_the_report(run_dag, pinecone_index, asset_of, name):
    source = f"""
from airflow.sdk import Asset
from airflow_pinecone_upsert import pinecone_asset

HOST = "{pinecone_index.url}"
OUTLET = Asset(name={name}, uri=pinecone_asset(HOST, "n").uri)
"""
    dag_id = f"declares_{len(name)}_{pinecone_index.url.rpartition(':')[2]}"
    head = HEAD.replace("dag_of_a_test", dag_id)
    run = run_dag(source + head + "\n    " + UPSERT.format(more=", outlets=[OUTLET]"))
    assert run.state == "success"
    (event,) = events_of(run)
    assert event[0] == ("articles" if name == "'articles'" else asset_of("n").uri)
    assert event[1:] == (asset_of("n").uri, "upsert", -1, run.output("upsert"))


def test_an_outlet_for_something_else_stays_as_it_is(run_dag, asset_of):
    head = HEAD.replace("dag_of_a_test", "declares_another")
    run = run_dag(
        "from airflow.sdk import Asset\n" + head + "\n    " + UPSERT.format(more=', outlets=[Asset("something_else")]')
    )
    assert run.state == "success"
    events = {name: extra for name, *_, extra in events_of(run)}
    assert events == {"something_else": {}, asset_of("n").uri: run.output("upsert")}


def test_every_mapped_instance_has_an_event_of_its_own(run_dag, asset_of):
    run = run_dag(
        HEAD.replace("dag_of_a_test", "has_mapped_instances")
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


def test_a_failure_is_no_event(run_dag):
    run = run_dag(HEAD + '\n    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 7)])')
    assert run.state == "failed"
    assert events_of(run) == []


def test_an_event_that_cannot_be_does_not_fail_the_task(run_dag, pinecone_index, caplog):
    """Airflow takes 1,500 characters of a URI; Pinecone takes a namespace that needs more."""
    run = run_dag(
        HEAD + '\n    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="#" * 512)'
    )
    assert run.state == "success"
    assert set(pinecone_index.vectors("#" * 512)) == {"a"}
    assert events_of(run) == []
    assert "The asset event of this upsert could not be emitted; the upsert itself is complete." in caplog.text


def test_another_asset_with_the_same_uri_does_no_harm(run_dag, pinecone_index, asset_of):
    """Airflow takes it for another one: who is to be woken must use `pinecone_asset`."""
    source = f"""
from airflow.sdk import Asset

with DAG("uses_another_name", schedule=Asset("mine", uri="{asset_of("n").uri}")):
    task(lambda: None, task_id="react")()
"""
    head = HEAD.replace("dag_of_a_test", "uses_the_uri_as_name")
    run = run_dag(head + "    " + UPSERT.format(more="") + source)
    assert run.state == "success"
    uri = asset_of("n").uri
    assert events_of(run) == [(uri, uri, "upsert", -1, run.output("upsert"))]


def test_a_dag_that_is_scheduled_on_the_namespace_is_queued_and_no_other(run_dag, pinecone_index):
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    source = f"""
from airflow.sdk import DAG, task
from airflow_pinecone_upsert import PineconeUpsertOperator, pinecone_asset

for namespace in ("n", "other"):
    with DAG(f"reacts_to_{{namespace}}", schedule=pinecone_asset("{pinecone_index.url}", namespace), is_paused_upon_creation=False):
        task(lambda: None, task_id="react")()

with DAG("is_reacted_to", schedule=None) as dag:
    {UPSERT.format(more="")}
"""
    assert run_dag(source).state == "success"
    with create_session() as session:
        queued = session.scalars(select(AssetDagRunQueue.target_dag_id)).all()
    assert [dag_id for dag_id in queued if dag_id.startswith("reacts_to_")] == ["reacts_to_n"]
