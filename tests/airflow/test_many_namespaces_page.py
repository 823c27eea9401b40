"""``docs/many-namespaces.md``: every snippet runs, and each record is in its namespace."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .readme import dags_of

SNIPPETS = dags_of("many-namespaces.md")


@pytest.fixture
def run_snippet(run_dag, tmp_path):
    """Run a snippet of the page, with a folder instead of the bucket, and perhaps with further arguments after its path."""

    def run(name, arguments=""):
        before, path, after = SNIPPETS[name].partition('"s3://my-bucket/')
        assert path
        folder, quote, after = after.partition('"')
        return run_dag(f'{before}"{tmp_path}/{folder}{quote}{arguments}{after}')

    return run


@pytest.fixture
def write(tmp_path):
    """Write a file in which each id has the vector of its row, and return its size."""

    def write(name, ids, vectors, **columns):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": list(ids), "values": list(vectors), **columns}), path)
        return path.stat().st_size

    return write


ONES = np.ones((4, 8), np.float32)


def test_a_task_fills_many_namespaces(run_snippet, write, pinecone_index):
    write("embeddings/1.parquet", "wxyz", ONES, tenant=["a", "b", "a", None])
    run = run_snippet("tenants_by_column")
    assert run.state == "success"
    output = run.output("upsert")
    assert (output["namespaces"], output["upsertedCount"]) == ({"a": 2, "b": 1, "unknown": 1}, 4)
    assert output["namespaceCount"] == 3
    stored = {name: sorted(pinecone_index.vectors(name)) for name in output["namespaces"]}
    assert stored == {"a": ["w", "y"], "b": ["x"], "unknown": ["z"]}


def test_a_folder_names_the_namespace_in_a_task(run_snippet, write, pinecone_index):
    write("documents/acme/2026/1.parquet", "wxyz", ONES)
    run = run_snippet("tenants_by_folder")
    assert run.output("upsert")["namespaces"] == {"acme": 4}
    assert sorted(pinecone_index.vectors("acme")) == ["w", "x", "y", "z"]


def test_a_plan_packs_small_tenants_and_divides_a_large_one(run_snippet, write, pinecone_index):
    """All have the same ids with other vectors, so that a record in the wrong namespace shows."""
    rng = np.random.default_rng(1)
    files = {
        "acme/1": "ab",
        "globex/2026/1": "a",
        "__default__/1": "bc",
        "large/1": range(500),
        "large/2": range(500, 999),
    }
    stored, sizes = {}, {}
    for name, ids in files.items():
        records = {str(one): rng.standard_normal(8, np.float32) for one in ids}
        sizes[name] = write(f"documents/{name}.parquet", records, records.values())
        stored.setdefault(name.partition("/")[0], {}).update(records)
    small = sum(size for name, size in sizes.items() if "large" not in name)
    run = run_snippet("load_tenants", f", target_bytes={small}")
    assert run.state == "success"

    labels = [run.run.get_task_instance("upsert", map_index=number).rendered_map_index for number in range(3)]
    assert labels == ["large", "large", "__default__ … globex (3 namespaces)"]
    packed, total = run.output("upsert", map_index=2), run.output("summarize")
    assert packed["namespaces"] == {"__default__": 2, "acme": 2, "globex": 1}
    assert (total["taskCount"], total["upsertedCount"]) == (3, sum(map(len, stored.values())))
    for namespace, records in stored.items():
        found = pinecone_index.vectors(namespace.replace("__default__", ""))
        assert found.keys() == records.keys()
        assert all(np.array_equal(found[one].values, vector) for one, vector in records.items())
