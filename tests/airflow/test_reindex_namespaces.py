"""Reindexing many namespaces with one manifest, in real runs of a DAG and through the hook."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook, exceptions, pinecone_asset

from .dag_source import DAG_HEAD
from .test_lineage import events_of


@pytest.fixture
def tenants(tmp_path):
    path = tmp_path / "tenants" / "a" / "1.parquet"
    path.parent.mkdir(parents=True)
    vectors = [[float(row + 1)] * 8 for row in range(3)]
    pq.write_table(pa.table({"id": ["x", "y", "z"], "values": vectors}), path)
    return path.parents[1]


REINDEX = """
    PineconeReindexOperator(
        task_id="reindex", parquet_paths="{folder}/source.parquet", namespace_column="tenant",
        manifest_path="{folder}/manifests/file",
    )

    @task.pinecone_reindex(namespace_column="team", namespace="d", manifest_path="{folder}/manifests/function")
    def generated():
        yield from [{{"id": "x", "values": [1.0] * 8, "team": team}} for team in {teams}]
"""


def test_one_manifest_has_all_tenants_of_a_task(run_dag, pinecone_index, tmp_path):
    """A record changes, one is new, and a tenant vanishes: only that is sent, and the namespace of the tenant deleted."""

    def night(versions, teams):
        ids, tenants = zip(*versions, strict=True)
        vectors = [[float(version)] * 8 for version in versions.values()]
        pq.write_table(pa.table({"id": ids, "tenant": tenants, "values": vectors}), tmp_path / "source.parquet")
        run = run_dag(DAG_HEAD + REINDEX.format(folder=tmp_path, teams=teams) + "\n    generated()\n")
        assert run.state == "success"
        return run

    first = {("x", "a"): 1, ("y", "a"): 1, ("x", "b"): 1, ("x", "c"): 1}
    assert night(first, ["e", None]).output("reindex")["namespaces"] == {"a": 2, "b": 1, "c": 1}
    seen = len(pinecone_index.requests)
    run = night({("x", "a"): 1, ("y", "a"): 2, ("x", "b"): 1, ("z", "b"): 1}, ["e"])
    output = run.output("reindex")
    counts = {name: output[f"{name}Count"] for name in ("new", "changed", "unchanged", "deleted", "deleteRequest")}
    assert counts == {"new": 1, "changed": 1, "unchanged": 2, "deleted": 1, "deleteRequest": 1}
    assert (output["namespaces"], output["namespaceCount"]) == ({"a": 1, "b": 1, "c": 0}, 3)
    writes = [one for one in pinecone_index.requests[seen:] if one.path == "/vectors/upsert"]
    assert sorted((one.namespace, *one.ids) for one in writes) == [("a", "y"), ("b", "z")]
    deleted = sorted(one.path for one in pinecone_index.requests[seen:] if one.method == "DELETE")
    assert deleted == ["/namespaces/c", "/namespaces/d"]
    held = {name: {one.id: one.values[0] for one in pinecone_index.vectors(name).values()} for name in "abcde"}
    assert held == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "z": 1}, "c": {}, "d": {}, "e": {"x": 1}}
    assets = {pinecone_asset(output["indexHost"], name).uri for name in "abc"}
    assert {uri for _, uri, task_id, *_ in events_of(run) if task_id == "reindex"} == assets


def test_the_folders_of_tenants_are_reindexed(pinecone_index, monkeypatch, tenants, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    (tenants / "b").mkdir()
    (tenants / "b" / "1.parquet").write_bytes((tenants / "a" / "1.parquet").read_bytes())
    given = {"parquet_paths": str(tenants), "namespace_from_path": True}
    with pytest.raises(exceptions.SetupError, match="is inside of parquet_paths"):
        PineconeHook().reindex(**given, manifest_path=str(tenants / "a" / "manifest"))
    manifest = str(tmp_path / "manifest")
    assert PineconeHook().reindex(**given, manifest_path=manifest).counts.new == 6
    (tenants / "a" / "1.parquet").unlink()
    counts = PineconeHook().reindex(**given, manifest_path=manifest).counts
    assert (counts.unchanged, counts.deleted, counts.delete_requests) == (3, 3, 1)
    assert {name: sorted(pinecone_index.vectors(name)) for name in "ab"} == {"a": [], "b": ["x", "y", "z"]}
