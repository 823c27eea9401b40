"""``docs/reindexing.md``: every snippet runs, what it says about manifests holds, and its figures are measured."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook, exceptions

from .readme import commands_of, dags_of, page_text, tables_of

PAGE = page_text("reindexing.md")
SNIPPETS = dags_of("reindexing.md")
MANIFESTS = "s3://my-bucket/manifests"


@pytest.fixture
def run_snippet(run_dag, tmp_path):
    """Run a snippet of the page, with a folder instead of the bucket."""
    (tmp_path / "embeddings").mkdir()

    def run(name):
        assert "s3://my-bucket/" in SNIPPETS[name]
        return run_dag(SNIPPETS[name].replace("s3://my-bucket/", f"{tmp_path}/"))

    return run


@pytest.fixture
def write(tmp_path):
    """Write the records of the source."""

    def write(count):
        ids, values = [f"r{row}" for row in range(count)], [np.ones(8, np.float32)] * count
        pq.write_table(pa.table({"id": ids, "values": values}), tmp_path / "embeddings" / "1.parquet")
        return set(ids)

    return write


def test_the_first_run_adopts_a_namespace(run_snippet, write, pinecone_index):
    ids = write(20)
    PineconeHook().upsert([("r3", [2.0] * 8), ("old", [2.0] * 8)], namespace="articles")
    run = run_snippet("adopt_articles")
    assert run.state == "success"
    assert set(pinecone_index.vectors("articles")) == ids
    assert run.output("adopt")["deletedCount"] == 1


def test_a_dry_run_is_described(run_snippet, write, pinecone_index):
    write(20)
    run = run_snippet("preview_articles")
    assert run.output("describe") == "20 new, 0 changed, 0 would be deleted"
    assert pinecone_index.vectors("articles") == {}


def test_a_function(run_snippet, my_project, pinecone_index):
    run = run_snippet("reindex_chapters")
    assert run.state == "success"
    assert len(pinecone_index.vectors("chapters")) == run.output("embed_chapters")["newCount"] == 20


@pytest.fixture
def write_tenant(tmp_path):
    """Write the records of a tenant. All tenants have the same ids."""

    def write(tenant, count):
        (tmp_path / "embeddings" / tenant).mkdir()
        columns = {"id": [f"r{row}" for row in range(count)], "values": [np.ones(8, np.float32)] * count}
        pq.write_table(pa.table(columns), tmp_path / "embeddings" / tenant / "1.parquet")

    return write


def test_one_task_reindexes_all_tenants_and_deletes_the_one_that_vanished(
    run_snippet, write_tenant, pinecone_index, tmp_path
):
    write_tenant("acme", 3)
    write_tenant("globex", 2)
    assert run_snippet("reindex_tenants").output("reindex")["namespaces"] == {"acme": 3, "globex": 2}
    shutil.rmtree(tmp_path / "embeddings" / "globex")
    output = run_snippet("reindex_tenants").output("reindex")
    assert (output["unchangedCount"], output["deletedCount"], output["writeUnits"]) == (3, 2, 5)
    assert [len(pinecone_index.vectors(tenant)) for tenant in ("acme", "globex")] == [3, 0]


def test_a_tenant_with_a_manifest_of_its_own_that_returns_needs_an_audit(
    run_snippet, write_tenant, pinecone_index, tmp_path
):
    """As the page says: its namespace was deleted, and its manifest was not."""
    write_tenant("globex", 2)
    hook = PineconeHook()
    given = {
        "parquet_paths": str(tmp_path / "embeddings" / "globex"),
        "namespace": "globex",
        "manifest_path": str(tmp_path / "manifests" / "globex"),
    }
    hook.reindex(**given)
    hook.delete_namespace("globex")
    with pytest.raises(exceptions.VerificationError, match="2 of 2 records"):
        hook.reindex(**given, verify_timeout_s=0)
    report = hook.reindex(**given, audit=True)
    assert (report.counts.lost, len(pinecone_index.vectors("globex"))) == (2, 2)


def test_a_manifest_can_be_shown_and_moved(run_snippet, write, tmp_path):
    ids = write(20)
    run_snippet("adopt_articles")
    (command,) = commands_of(PAGE)
    manifests = tmp_path / "manifests"
    arguments = shlex.split(command.replace(MANIFESTS, str(manifests)))
    shown = subprocess.run([sys.executable, *arguments[1:]], capture_output=True, text=True, check=True).stdout
    assert f"records     {len(ids)}" in shown
    shutil.copytree(manifests / "articles", manifests / "moved")
    source = str(tmp_path / "embeddings")
    report = PineconeHook().reindex(parquet_paths=source, namespace="articles", manifest_path=str(manifests / "moved"))
    assert (report.counts.unchanged, report.counts.new) == (len(ids), 0)


def test_a_lost_manifest_is_replaced_by_an_audit(run_snippet, write, pinecone_index, tmp_path):
    write(21)
    run_snippet("adopt_articles")
    shutil.rmtree(tmp_path / "manifests")
    ids = write(20)
    run = run_snippet("adopt_articles")
    assert run.state == "success"
    assert set(pinecone_index.vectors("articles")) == ids


def test_the_write_units_are_those_of_real_runs(pinecone_index_factory, use_index, tmp_path):
    use_index(pinecone_index_factory(dimension=1_536))
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1_000, 1_536), dtype=np.float32)

    def run(**parameters):
        table = pa.table(
            {
                "id": [f"r{row:03}" for row in range(1_000)],
                "values": pa.FixedSizeListArray.from_arrays(values.ravel(), 1_536),
                "text": ["x" * 1_000] * 1_000,
            }
        )
        report = PineconeHook().reindex(
            table, manifest_path=str(tmp_path), metadata_columns=["text"], batch_size=100, **parameters
        )
        return report.counts.write_units

    measured = {
        "into a new namespace": run(),
        "every record again, in place (`full=True`)": run(full=True),
    }
    values[:20] += 1
    measured["2 % changed, incremental"] = run()
    measured["nothing changed, incremental"] = run()
    assert {name: int(units.replace(",", "")) for name, units in tables_of(PAGE)[1]} == measured
