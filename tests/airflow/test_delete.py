"""The delete operator in real DAG runs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeDeleteOperator, PineconeHook, pinecone_asset
from airflow_pinecone_upsert.emulator import Fault

from .dag_source import DAG_HEAD
from .test_lineage import events_of

HEAD = "from airflow_pinecone_upsert import PineconeDeleteOperator\n" + DAG_HEAD


@pytest.fixture
def records(pinecone_index, monkeypatch):
    """Upsert ten records, ``r0`` to ``r9``."""
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    PineconeHook().upsert([(f"r{n}", [1.0] * 8, {"n": n}) for n in range(10)], namespace="n")


def delete_task(parameters):
    return f'{HEAD}\n    PineconeDeleteOperator(task_id="delete", namespace="n", {parameters})\n'


@pytest.mark.parametrize(
    "parameters",
    [
        'ids=["r0", "r1"]',
        'ids=task(lambda: ["r0", "r1"], task_id="up")()',
        'ids=task(lambda n: f"r{n}", task_id="up").expand(n=[0, 1])',
        'ids=task(lambda n: [f"r{n}"], task_id="up").expand(n=[0, 1])',
        'ids=["r0", task(lambda: "r1", task_id="up")()]',
        'id_path="{folder}/{{{{ params.name }}}}", params={{"name": "*.parquet"}}',
        'id_path=task(lambda: "{folder}/ids.parquet", task_id="up")()',
        'filter={{"n": {{"$lt": 2}}}}',
        'filter=task(lambda: {{"n": {{"$in": [0, 1]}}}}, task_id="up")()',
    ],
)
def test_records_are_selected_in_every_form(run_dag, pinecone_index, records, tmp_path, parameters):
    pq.write_table(pa.table({"id": ["r0", "r1"]}), tmp_path / "ids.parquet")
    if "{folder}" in parameters or "{{" in parameters:
        parameters = parameters.format(folder=tmp_path)
    run = run_dag(delete_task(parameters))
    assert run.state == "success"
    assert run.output("delete")["deletedCount"] == run.output("delete", "deletedCount") == 2
    assert set(pinecone_index.vectors("n")) == {f"r{n}" for n in range(2, 10)}


def test_a_success_emits_one_event_with_the_output(run_dag, pinecone_index, records):
    run = run_dag(delete_task("delete_all=True"))
    uri = pinecone_asset(pinecone_index.url, "n").uri
    assert events_of(run) == [(uri, uri, "delete", -1, run.output("delete"))]
    assert run.output("delete")["deletedCount"] == 10


def test_a_dry_run_emits_no_event(run_dag, pinecone_index, records):
    run = run_dag(delete_task("delete_all=True, dry_run=True"))
    assert run.state == "success"
    assert (run.output("delete")["dryRun"], events_of(run)) == (True, [])
    assert len(pinecone_index.vectors("n")) == 10


def test_ids_are_not_rendered_or_shown(run_dag, pinecone_index, records):
    run = run_dag(delete_task('ids=["{{ params.x }}", "r0"]'))
    assert run.state == "success"
    assert run.rendered("delete")["ids"] == "<2 ids>"
    assert pinecone_index.requests[-1].ids == ("{{ params.x }}", "r0")


def test_mapped_namespaces(run_dag, pinecone_index, records):
    run = run_dag(
        HEAD + '\n    PineconeDeleteOperator.partial(task_id="delete", ids=["r0"]).expand(namespace=["n", "nowhere"])\n'
    )
    assert run.state == "success"
    assert "r0" not in pinecone_index.vectors("n")


def test_a_guard_fails_at_once_and_a_retry_deletes_what_is_left(run_dag, pinecone_index, records):
    run = run_dag(delete_task("delete_all=True, max_deletes=9, retries=2"))
    assert run.state == "failed"
    assert len(pinecone_index.vectors("n")) == 10
    pinecone_index.faults.next(Fault.lost_ack(), path="/vectors/delete")
    assert (
        run_dag(delete_task("delete_all=True, max_deletes=10").replace("Path(__file__).stem", "'again'")).state
        == "success"
    )
    assert pinecone_index.vectors("n") == {}


@pytest.mark.parametrize("selected", [{}, {"ids": ["a"], "delete_all": True}, {"id_path": "x", "filter": {"a": 1}}])
def test_exactly_one_selection_is_set(selected):
    with pytest.raises(ValueError, match="exactly one of ids, id_path, filter and delete_all"):
        PineconeDeleteOperator(task_id="delete", **selected)


def test_the_console_link_knows_the_index(records, pinecone_index):
    operator = PineconeDeleteOperator(task_id="delete", ids=["r0"], namespace="n")
    assert operator.index_url is None
    operator.execute({})
    assert operator.index_url == pinecone_index.url
