"""The operator in real DAG runs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .dag_source import DAG_HEAD


def table(count: int, *, dimension: int = 8, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "id": [f"r{row}" for row in range(first, first + count)],
            "values": [np.full(dimension, row + 1, np.float32) for row in range(first, first + count)],
            "metadata": [f'{{"row": {row}}}' for row in range(first, first + count)],
        }
    )


def test_the_output_is_what_the_server_confirmed(run_dag, pinecone_index, tmp_path):
    pq.write_table(table(1_500), tmp_path / "a.parquet")
    run = run_dag(
        DAG_HEAD
        + f"""
    PineconeUpsertOperator(task_id="upsert", parquet_paths="{tmp_path}/{{{{ params.name }}}}", namespace="n-{{{{ dag.dag_id }}}}",
        params={{"name": "*.parquet"}})
    """
    )
    assert run.state == "success"
    output = run.output("upsert")
    assert output["upsertedCount"] == 1_500
    assert output["requestCount"] == 2
    assert output["namespace"] == f"n-{run.run.dag_id}"
    assert output["indexHost"] == pinecone_index.url
    assert run.output("upsert", "upsertedCount") == 1_500
    assert len(pinecone_index.vectors(output["namespace"])) == 1_500
    assert run.rendered("upsert")["parquet_paths"] == f"{tmp_path}/*.parquet"


@pytest.mark.parametrize(
    "paths",
    [
        '"{folder}/a.parquet"',
        '"{folder}"',
        '["{folder}/b.parquet", "{folder}/a.parquet"]',
        'ObjectStoragePath("file://{folder}/a.parquet")',
        '[ObjectStoragePath("file://{folder}"), "{folder}/*.parquet"]',
        'task(lambda: "{folder}", task_id="up")()',
        'task(lambda: ["{folder}/a.parquet", ObjectStoragePath("file://{folder}/b.parquet")], task_id="up")()',
        'task(lambda name: "{folder}/" + name, task_id="up").expand(name=["a.parquet", "b.parquet"])',
    ],
)
def test_parquet_paths_in_every_form(run_dag, pinecone_index, tmp_path, paths):
    pq.write_table(table(3), tmp_path / "a.parquet")
    pq.write_table(table(3, first=3), tmp_path / "b.parquet")
    run = run_dag(
        DAG_HEAD
        + f"""
    PineconeUpsertOperator(task_id="upsert", parquet_paths={paths.format(folder=tmp_path)})
    """
    )
    assert run.state == "success"
    expected = 6 if "b.parquet" in paths or "a.parquet" not in paths else 3
    assert run.output("upsert")["upsertedCount"] == expected
    assert len(pinecone_index.vectors()) == expected


def test_vectors_of_an_upstream_task_are_not_rendered_or_shown(run_dag, pinecone_index):
    run = run_dag(
        DAG_HEAD
        + """
    @task
    def embed():
        return [{"id": str(i), "values": [i + 1.0] * 8, "metadata": {"text": "{{ params.x }}"}} for i in range(500)]

    PineconeUpsertOperator(task_id="upsert", vectors=embed())
    """
    )
    assert run.state == "success"
    assert run.rendered("upsert")["vectors"] == "<500 vectors>"
    assert pinecone_index.vectors()["7"].metadata == {"text": "{{ params.x }}"}


def test_literal_vectors_are_not_rendered(run_dag, pinecone_index):
    run = run_dag(
        DAG_HEAD
        + """
    PineconeUpsertOperator(task_id="upsert", vectors=[("{{ a }}", [1.0] * 8, {"t": "{{ b }}"})])
    """
    )
    assert run.state == "success"
    assert pinecone_index.vectors()["{{ a }}"].metadata == {"t": "{{ b }}"}


@pytest.mark.parametrize(
    "records",
    [
        '[{"id": "a", "values": [1.0] * 8, "sparse_values": {"indices": [3], "values": [0.5]}, "metadata": {"x": 1}}]',
        '[{"id": "a", "values": [1.0] * 8, "sparseValues": {"indices": [3], "values": [0.5]}, "metadata": {"x": 1}}]',
        '[("a", [1.0] * 8, {"x": 1})]',
        '[["a", [1.0] * 8, {"x": 1}]]',
        'pandas.DataFrame({"id": ["a"], "values": [[1.0] * 8], "metadata": [{"x": 1}]})',
    ],
)
def test_vectors_in_every_form_that_an_xcom_can_hold(run_dag, pinecone_index_factory, use_index, records):
    index = use_index(pinecone_index_factory(dimension=8, metric="dotproduct"))
    run = run_dag(
        DAG_HEAD
        + f"""
    @task
    def embed():
        import pandas

        return {records}

    PineconeUpsertOperator(task_id="upsert", vectors=embed())
    """
    )
    assert run.state == "success"
    stored = index.vectors()["a"]
    assert stored.values.tolist() == [1.0] * 8
    assert stored.metadata == {"x": 1}
    if "sparse" in records:
        assert stored.sparse_indices.tolist() == [3]


def test_vectors_of_a_mapped_task_and_of_several_tasks(run_dag, pinecone_index):
    run = run_dag(
        DAG_HEAD
        + """
    @task
    def part(n):
        return [(f"{n}-{i}", [1.0] * 8) for i in range(n)]

    parts = part.expand(n=[1, 2, 3])
    PineconeUpsertOperator(task_id="mapped", vectors=parts, namespace="mapped")
    PineconeUpsertOperator(
        task_id="several",
        vectors=[part.override(task_id="x")(4), part.override(task_id="y")(5)],
        namespace="several",
    )
    """
    )
    assert run.state == "success"
    assert set(pinecone_index.vectors("mapped")) == {"1-0", "2-0", "2-1", "3-0", "3-1", "3-2"}
    assert len(pinecone_index.vectors("several")) == 9
    assert run.rendered("mapped")["vectors"] == "<3 XComs of vectors>"
    assert run.rendered("several")["vectors"] == "<2 XComs of vectors>"


EMBED = """
    @task
    def embed(n):
        return [float(n)] * 8

    @task
    def title():
        return "{{ not_a_template }}"

"""


@pytest.mark.parametrize(
    "record",
    [
        '("a", embed(2), {"title": title(), "tags": ["{{ x }}", title()]})',
        '["a", embed(2), {"title": title(), "tags": ["{{ x }}", title()]}]',
        '{"id": "a", "values": embed(2), "metadata": {"title": title(), "tags": ["{{ x }}", title()]}}',
    ],
)
@pytest.mark.parametrize(
    "task",
    [
        "(task_id='upsert', vectors=[{record}, ('b', [3.0] * 8)])",
        ".partial(task_id='upsert', vectors=[{record}, ('b', [3.0] * 8)]).expand(namespace=[''])",
        ".partial(task_id='upsert').expand(vectors=[[{record}, ('b', [3.0] * 8)]])",
    ],
    ids=["plain", "partial", "expand"],
)
def test_parts_of_a_record_may_be_outputs_of_tasks(run_dag, pinecone_index, task, record):
    run = run_dag(f"{DAG_HEAD}{EMBED}    PineconeUpsertOperator{task.format(record=record)}")
    assert run.state == "success"
    stored = pinecone_index.vectors()
    assert {record_id: list(found.values) for record_id, found in stored.items()} == {"a": [2.0] * 8, "b": [3.0] * 8}
    assert stored["a"].metadata == {"title": "{{ not_a_template }}", "tags": ["{{ x }}", "{{ not_a_template }}"]}
    assert run.rendered("upsert", map_index=-1 if "expand" not in task else 0)["vectors"] == "<2 vectors>"


def test_the_components_of_literal_vectors_are_not_visited(airflow_db):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    class Vector(list):
        def __iter__(self):
            raise AssertionError("a component was visited")

    literal = [("a", Vector([1.0] * 8)), {"id": "b", "values": Vector([1.0] * 8)}]
    operator = PineconeUpsertOperator(task_id="upsert", vectors=literal)
    operator.render_template_fields({})
    assert operator.vectors.value is literal


def test_a_mapped_operator_passes_its_counts_downstream(run_dag, pinecone_index):
    run = run_dag(
        DAG_HEAD
        + """
    @task
    def part(n):
        return [(f"{n}-{i}", [1.0] * 8, {"t": "{{ x }}"}) for i in range(n)]

    upsert = PineconeUpsertOperator.partial(task_id="upsert").expand(vectors=part.expand(n=[1, 2, 3]))

    @task
    def total(counts):
        return sum(counts)

    total(upsert.output["upsertedCount"])
    """
    )
    assert run.state == "success"
    assert run.output("total") == 6
    assert len(pinecone_index.vectors()) == 6
    assert pinecone_index.vectors()["1-0"].metadata == {"t": "{{ x }}"}
    assert run.rendered("upsert", map_index=1)["vectors"] == "<2 vectors>"


def test_a_failed_task_pushes_no_output(run_dag, pinecone_index):
    run = run_dag(
        DAG_HEAD
        + """
    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8), ("b", [1.0] * 7)])
    """
    )
    assert run.state == "failed"
    assert run.output("upsert") is None
    assert run.output("upsert", "upsertedCount") is None
    assert pinecone_index.vectors() == {}


def test_the_message_of_a_failed_task_names_the_record(run_dag, pinecone_index, tmp_path, capsys):
    pq.write_table(table(3, dimension=7), tmp_path / "short.parquet")
    run = run_dag(DAG_HEAD + f'\n    PineconeUpsertOperator(task_id="upsert", parquet_paths="{tmp_path}")')
    assert run.state == "failed"
    printed = capsys.readouterr().out
    assert "values: the vector must have 8 components (found 7)." in printed
    assert f"{tmp_path}/short.parquet, row 0 (counted from 0), id 'r0'." in printed


def test_execute_works_outside_a_dag_run(pinecone_index, monkeypatch):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    operator = PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="x")
    assert operator.execute({})["upsertedCount"] == 1
    assert set(pinecone_index.vectors("x")) == {"a"}


@pytest.mark.parametrize("sources", [{}, {"vectors": [], "parquet_paths": "x"}])
def test_exactly_one_source_is_required(sources):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    with pytest.raises(ValueError, match="exactly one of parquet_paths and vectors"):
        PineconeUpsertOperator(task_id="upsert", **sources)


def test_no_records_is_a_success_with_a_warning(run_dag, pinecone_index, caplog):
    run = run_dag(DAG_HEAD + '\n    PineconeUpsertOperator(task_id="upsert", vectors=[])')
    assert run.state == "success"
    assert run.output("upsert")["upsertedCount"] == 0
    assert "XCom contains no records: nothing was upserted." in caplog.text


def test_an_invalid_parameter_is_named_with_its_value(run_dag, capsys):
    run = run_dag(DAG_HEAD + '\n    PineconeUpsertOperator(task_id="upsert", vectors=[], batch_size=2_000)')
    assert run.state == "failed"
    assert "batch_size: Input should be less than or equal to 1000 (found 2000)" in capsys.readouterr().out


def test_the_connections_namespace_is_the_default(run_dag, pinecone_index, monkeypatch):
    connection = json.loads(pinecone_index.connection_json()) | {"extra": {"namespace": "connection-namespace"}}
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
    run = run_dag(
        DAG_HEAD
        + """
    PineconeUpsertOperator(task_id="a", vectors=[("a", [1.0] * 8)])
    PineconeUpsertOperator(task_id="b", vectors=[("b", [1.0] * 8)], namespace="")
    """
    )
    assert run.state == "success"
    assert set(pinecone_index.vectors("connection-namespace")) == {"a"}
    assert set(pinecone_index.vectors("")) == {"b"}


@pytest.mark.parametrize(
    ("more", "expand", "state"),
    [
        ('index_host="{url}"', "", "success"),
        ('index_host="{{{{ params.host }}}}", params={{"host": "{url}"}}', "", "failed"),
        ('index_host=task(lambda: "{url}", task_id="host")()', "", "failed"),
        ("", '.expand(index_host=["{url}"])', "failed"),
        ('index_host="{{{{ params.host }}}}", params={{"host": "{url}"}}', ".expand(namespace=['a'])", "failed"),
    ],
)
def test_only_a_host_in_the_dags_code_may_be_any_host(*, run_dag, pinecone_index, monkeypatch, more, expand, state):
    """A parameter of a DAG run, or an XCom, cannot send the key to another host."""
    connection = json.loads(pinecone_index.connection_json()) | {"host": "https://a.pinecone.io"}
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
    run = run_dag(
        DAG_HEAD
        + f"""
    PineconeUpsertOperator{".partial" if expand else ""}(
        task_id="upsert", vectors=[("a", [1.0] * 8)], {more.format(url=pinecone_index.url)}
    ){expand.format(url=pinecone_index.url)}
    """
    )
    assert run.task_state("upsert", 0 if expand else -1) == state
    assert bool(pinecone_index.requests) is (state == "success")
