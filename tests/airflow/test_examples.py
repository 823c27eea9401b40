"""The example DAGs: each one is run, and the index is checked."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.operators.retry_policy import ExceptionRetryPolicy
from airflow_pinecone_upsert.pipeline import freshness

from .airflow_home import HOME

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    """Write three Parquet files with ten records each, and point the examples to them. Return the ids."""
    for number in range(3):
        ids = [f"{number}-{row}" for row in range(10)]
        table = pa.table({"id": ids, "values": [np.ones(8, np.float32)] * 10, "metadata": ["{}"] * 10})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    monkeypatch.setenv("AIRFLOW_VAR_EMBEDDINGS", str(tmp_path))
    return {f"{number}-{row}" for number in range(3) for row in range(10)}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_described_and_does_not_run_by_itself(path):
    dag = runpy.run_path(str(path))["dag"]
    assert dag.dag_id == path.stem
    assert dag.description
    assert dag.description.rstrip(".") != dag.doc_md.strip()
    assert dag.is_paused_upon_creation or dag.timetable.can_be_scheduled is False or dag.timetable.asset_condition


def test_make_airflow_sets_the_variables_of_the_examples(tmp_path):
    script = runpy.run_path(str(EXAMPLES.parent / "dev" / "demo.py"))
    variables = {name for path in EXAMPLES.glob("*.py") for name in re.findall(r"var\.value\.(\w+)", path.read_text())}
    assert variables
    environment = script["airflow_environment"](tmp_path, tmp_path)
    assert {f"AIRFLOW_VAR_{name.upper()}" for name in variables} <= environment.keys()


def test_upsert_parquet(run_dag, pinecone_index, embeddings):
    run = run_dag(EXAMPLES / "upsert_parquet.py")
    assert run.state == "success"
    assert run.output("upsert")["upsertedCount"] == 30
    assert set(pinecone_index.vectors("articles")) == embeddings


@pytest.mark.skipif(ExceptionRetryPolicy is None, reason="before Airflow 3.3, dag.test() stores no other DAG")
def test_react_to_upsert_is_queued_by_upsert_parquet(run_dag, pinecone_index, embeddings, monkeypatch):
    """The scheduler then runs it with the report: see test_ui.py."""
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    monkeypatch.setenv("PINECONE_INDEX_HOST", pinecone_index.url)
    unpaused = (EXAMPLES / "react_to_upsert.py").read_text().replace("tags=", "is_paused_upon_creation=False, tags=")
    (HOME / "dags" / "react_to_upsert.py").write_text(unpaused)
    assert run_dag(EXAMPLES / "upsert_parquet.py").state == "success"
    with create_session() as session:
        queued = session.scalars(select(AssetDagRunQueue.target_dag_id)).all()
    assert "react_to_upsert" in queued


def test_import_then_check(run_dag, pinecone_index_factory, use_index, tmp_path, monkeypatch):
    index = use_index(pinecone_index_factory(8, lag_s=0.2))
    (tmp_path / "articles").mkdir()
    values = list(np.eye(8, dtype=np.float32))
    pq.write_table(pa.table({"id": list("abcdefgh"), "values": values}), tmp_path / "articles" / "0.parquet")
    monkeypatch.setenv("AIRFLOW_VAR_IMPORT_URI", str(tmp_path))
    monkeypatch.setattr(freshness, "SETTLE_S", 0.1)
    source = (EXAMPLES / "import_then_check.py").read_text().replace('"wait",', '"wait", poke_interval=0.1,')
    run = run_dag(source)
    assert run.state == "success"
    assert run.output("import", "recordsImported") == run.output("wait")["recordCount"] == 8
    assert set(index.vectors("articles")) == set("abcdefgh")


def test_upsert_xcom(run_dag, pinecone_index_factory, use_index):
    index = use_index(pinecone_index_factory(dimension=256))
    run = run_dag(EXAMPLES / "upsert_xcom.py")
    assert run.state == "success"
    assert run.output("announce") == "50 topics can be searched."
    stored = index.vectors("topics")
    assert len(stored) == 50
    assert stored["assert"].metadata["text"].startswith('The "assert" statement')


def test_embed_and_upsert(run_dag, pinecone_index_factory, use_index):
    index = use_index(pinecone_index_factory(dimension=256))
    run = run_dag(EXAMPLES / "embed_and_upsert.py")
    assert run.state == "success"
    stored = index.vectors("topics")
    assert run.output("announce") == f"{len(stored)} topics can be searched."
    assert stored["assert"].metadata["text"].startswith('The "assert" statement')


def test_upsert_mapped_files(run_dag, pinecone_index, embeddings):
    run = run_dag(EXAMPLES / "upsert_mapped_files.py")
    assert run.state == "success"
    assert [run.output("upsert", map_index=number)["upsertedCount"] for number in range(3)] == [10, 10, 10]
    assert run.output("total") == 30
    labels = [run.run.get_task_instance("upsert", map_index=number).rendered_map_index for number in range(3)]
    assert all(label.endswith(f"part-{number}.parquet") for number, label in enumerate(labels))
    assert set(pinecone_index.vectors("articles")) == embeddings


def test_delete_withdrawn(run_dag, pinecone_index, embeddings, tmp_path, monkeypatch):
    assert run_dag(EXAMPLES / "upsert_parquet.py").state == "success"
    withdrawn = ["0-0", "1-9", "2-5", "unknown"]
    (tmp_path / "withdrawn").mkdir()
    pq.write_table(pa.table({"id": withdrawn}), tmp_path / "withdrawn" / "ids.parquet")
    monkeypatch.setenv("AIRFLOW_VAR_WITHDRAWN", str(tmp_path / "withdrawn"))
    run = run_dag(EXAMPLES / "delete_withdrawn.py")
    assert run.state == "success"
    assert run.output("delete", "deletedCount") == 4
    assert set(pinecone_index.vectors("articles")) == embeddings - set(withdrawn)


def test_reindex_nightly_sends_what_changed(run_dag, pinecone_index, embeddings, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AIRFLOW_VAR_MANIFESTS", str(tmp_path_factory.mktemp("manifests")))
    files = Path(os.environ["AIRFLOW_VAR_EMBEDDINGS"])
    run = run_dag(EXAMPLES / "reindex_nightly.py")
    assert run.state == "success"
    assert run.output("announce") == "30 new, 0 changed, 0 deleted articles."
    run = run_dag(EXAMPLES / "reindex_nightly.py")
    assert run.output("reindex")["unchangedCount"] == 30
    assert run.task_state("announce") == "skipped"
    table = pa.table({"id": ["2-9", "new"], "values": [np.ones(8, np.float32), np.ones(8, np.float32)]})
    pq.write_table(table, files / "part-2.parquet")  # 9 vanish, and "2-9" has no metadata any more
    run = run_dag(EXAMPLES / "reindex_nightly.py")
    assert run.output("announce") == "1 new, 0 changed, 9 deleted articles."
    assert set(pinecone_index.vectors("articles")) == {one for one in embeddings if one[0] != "2"} | {"2-9", "new"}


def test_reindex_tenants(run_dag, pinecone_index, tmp_path, monkeypatch):
    """The folder of a tenant vanishes: its task fails, and so does the sum, but the other tenants are reindexed."""
    monkeypatch.setenv("AIRFLOW_VAR_TENANTS", str(tmp_path / "tenants"))
    monkeypatch.setenv("AIRFLOW_VAR_MANIFESTS", str(tmp_path / "manifests"))
    ids = {"__default__": "ab", "acme": "abc", "zoo": "aabc"}  # one id twice
    for tenant, names in ids.items():
        (tmp_path / "tenants" / tenant).mkdir(parents=True)
        table = pa.table({"id": list(names), "values": [np.ones(8, np.float32)] * len(names)})
        pq.write_table(table, tmp_path / "tenants" / tenant / "0.parquet")
    run = run_dag(EXAMPLES / "reindex_tenants.py")
    assert run.state == "success"
    total = run.output("summarize")
    assert (total["taskCount"], total["unchangedCount"] + total["newCount"] + total["changedCount"]) == (3, 9)
    instances = [run.run.get_task_instance("reindex", map_index=number) for number in range(3)]
    assert [one.rendered_map_index for one in instances] == sorted(ids)
    for tenant, names in ids.items():
        assert set(pinecone_index.vectors(tenant.replace("__default__", ""))) == set(names)

    shutil.rmtree(tmp_path / "tenants" / "acme")
    run = run_dag(EXAMPLES / "reindex_tenants.py")
    assert [run.task_state("reindex", map_index=number) for number in range(3)] == ["success", "failed", "success"]
    assert run.task_state("summarize") == "failed"


@pytest.fixture
def blue(pinecone_index, embeddings):
    """Create two earlier namespaces, of which the alias serves the newer one, and one that is not of the DAG."""
    from airflow_pinecone_upsert import PineconeHook

    with PineconeHook() as hook:
        for night in ("articles-20200101T020000", "articles-20200102T020000", "others"):
            hook.upsert([(f"old-{row}", [1.0] * 8) for row in range(30)], namespace=night)
        hook.create_alias("articles", "articles-20200102T020000")
        yield hook


def test_reindex_blue_green_and_its_rollback(run_dag, pinecone_index, embeddings, blue):
    table = pa.table({"id": ["0-0"], "values": [np.ones(8, np.float32)]})  # an id twice, which is stored once
    pq.write_table(table, Path(os.environ["AIRFLOW_VAR_EMBEDDINGS"]) / "part-9.parquet")
    run = run_dag(EXAMPLES / "reindex_blue_green.py")
    assert run.state == "success"
    green = f"articles-{run.run.run_after:%Y%m%dT%H%M%S}"
    assert run.output("swap")["targetNamespace"] == blue.describe_alias("articles").target_namespace == green
    assert set(pinecone_index.vectors(green)) == set(blue.list_ids(namespace="articles")) == embeddings
    assert run.output("swap")["deletedNamespaces"] == ["articles-20200101T020000"]
    remaining = {namespace.name for namespace in blue.list_namespaces()}
    assert remaining == {"articles-20200102T020000", green, "others"}

    back = run_dag((EXAMPLES / "reindex_blue_green.py").read_text() + "\ndag = rollback\n")
    assert back.state == "success"
    assert back.output("swap_back")["targetNamespace"] == "articles-20200102T020000"
    assert next(blue.list_ids(namespace="articles")).startswith("old-")
    assert {namespace.name for namespace in blue.list_namespaces()} == remaining


def test_reindex_blue_green_stays_where_it_is_if_records_are_missing(run_dag, pinecone_index, embeddings, blue):
    """The server confirms records that the namespace does not hold in the end."""
    answer = json.dumps({"upsertedCount": 10}).encode()
    pinecone_index.faults.next(Fault.body(200, answer, "application/json"), path="/vectors/upsert")
    source = (
        (EXAMPLES / "reindex_blue_green.py").read_text().replace('task_id="upsert"', 'task_id="upsert", batch_size=10')
    )
    run = run_dag(source)
    assert run.task_state("swap") == "failed"
    assert blue.describe_alias("articles").target_namespace == "articles-20200102T020000"
    assert {namespace.name for namespace in blue.list_namespaces()} >= {"articles-20200101T020000"}
