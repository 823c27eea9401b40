"""Many namespaces in a real run of a DAG: output, asset events and lineage."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .dag_source import DAG_HEAD


@pytest.fixture
def tenants(tmp_path):
    path = tmp_path / "tenants" / "a" / "1.parquet"
    path.parent.mkdir(parents=True)
    vectors = [[float(row + 1)] * 8 for row in range(3)]
    pq.write_table(pa.table({"id": ["x", "y", "z"], "values": vectors, "tenant": ["a", "b", "a"]}), path)
    return path.parents[1]


def test_a_task_fills_many_namespaces(run_dag, pinecone_index, tenants):
    run = run_dag(
        DAG_HEAD
        + f"""
    PineconeUpsertOperator(task_id="upsert", parquet_paths="{tenants}/a", namespace_column="tenant")
"""
    )
    assert run.state == "success"
    output = run.output("upsert")
    assert (output["namespaces"], output["namespaceCount"], output["upsertedCount"]) == ({"a": 2, "b": 1}, 2, 3)
    assert {name: sorted(pinecone_index.vectors(name)) for name in "ab"} == {"a": ["x", "z"], "b": ["y"]}


def test_a_folder_names_the_namespace_in_a_task(run_dag, pinecone_index, tenants):
    run = run_dag(
        DAG_HEAD
        + f"""
    PineconeUpsertOperator(task_id="upsert", parquet_paths="{tenants}", namespace_from_path=True)
"""
    )
    assert run.output("upsert")["namespaces"] == {"a": 3}
    assert sorted(pinecone_index.vectors("a")) == ["x", "y", "z"]
