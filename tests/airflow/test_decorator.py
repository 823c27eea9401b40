"""``@task.pinecone_upsert`` in real runs: everything that a function may return or yield."""

import re
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DAG = """
from pathlib import Path
from airflow.sdk import DAG, ObjectStoragePath, task
import numpy as np, pandas as pd, pyarrow as pa

with DAG(Path(__file__).stem) as dag:
    @task.pinecone_upsert({parameters})
    def embed({signature}):
{body}

    {call}
"""


def dag_of(body, *, parameters="", signature="", call="embed()"):
    indented = textwrap.indent(textwrap.dedent(body), " " * 8)
    return DAG.format(body=indented, parameters=parameters, signature=signature, call=call)


@pytest.fixture
def pinecone_index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2)


@pytest.fixture
def files(tmp_path):
    """Write two files with one record each: ``p0`` and ``p1``."""
    for name in ("p0", "p1"):
        pq.write_table(pa.table({"id": [name], "values": [np.ones(2, np.float32)]}), tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ('return [{"id": "a", "values": [1.0, 2.0]}, ("b", [1.0, 2.0], {"year": 2024})]', "ab"),
        ('return ("a", [1.0, 2.0])', "a"),
        ('yield {"id": "a", "values": np.ones(2)}\nyield [("b", [1, 2]), ("c", [1, 2])]', "abc"),
        ('yield pd.DataFrame({"id": ["a", "b"], "values": [[1.0, 2.0], [3.0, 4.0]]})', "ab"),
        ('yield ("z", [1.0, 2.0])\nyield pa.table({"id": ["a"], "values": [[1.0, 2.0]]})', "az"),
        ("return []", ""),
    ],
)
def test_returned_and_yielded_records_are_upserted(run_dag, pinecone_index, body, ids):
    run = run_dag(dag_of(body, parameters='namespace="ns"'))
    assert run.state == "success"
    assert set(pinecone_index.vectors("ns")) == set(ids)
    assert run.output("embed")["upsertedCount"] == run.output("embed", "upsertedCount") == len(ids)


@pytest.mark.parametrize(
    "body",
    [
        'return "{files}/*.parquet"',
        'return ["{files}/p0.parquet", "{files}/p1.parquet"]',
        'yield "{files}/p0.parquet"\nyield ObjectStoragePath("file://{files}/p1.parquet")',
        'from pathlib import Path\nyield Path("{files}")\nyield ("a", [1.0, 2.0])',
    ],
)
def test_returned_and_yielded_paths_are_read(run_dag, pinecone_index, files, body):
    assert run_dag(dag_of(body.format(files=files))).state == "success"
    assert {"p0", "p1"} <= set(pinecone_index.vectors())


def test_records_are_sent_before_the_function_ends(run_dag, pinecone_index):
    body = f"""
    import time, httpx
    for number in range(40):
        yield (f"r{{number}}", [1.0, 2.0])
    # This fills the chunk: the function is resumed while its records are sent.
    yield [(f"s{{number}}", [1.0, 2.0]) for number in range(2_000)]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        stats = httpx.post("{pinecone_index.url}/describe_index_stats", headers={{"Api-Key": "{pinecone_index.api_key}"}})
        if stats.json()["totalVectorCount"]:
            break
        time.sleep(0.05)
    yield ("seen" if stats.json()["totalVectorCount"] else "not seen", [1.0, 2.0])
    yield [(f"t{{number}}", [1.0, 2.0]) for number in range(10)]
    """
    assert run_dag(dag_of(body)).state == "success"
    assert "seen" in pinecone_index.vectors()


def test_arguments_come_from_upstream_tasks_context_and_defaults(run_dag, pinecone_index):
    call = '@task\n    def words():\n        return ["a", "b"]\n    embed(words(), suffix="!")'
    body = 'for word in words:\n    yield (f"{word}{suffix}{factor}-{dag.tags}", [1.0, 2.0])'
    run = run_dag(dag_of(body, signature="words, suffix, factor=2, dag=None", call=call))
    assert run.state == "success"
    assert set(pinecone_index.vectors()) == {"a!2-set()", "b!2-set()"}


def test_a_mapped_task_upserts_each_item(run_dag, pinecone_index):
    run = run_dag(dag_of("yield (word, [1.0, 2.0])", signature="word", call='embed.expand(word=["a", "b"])'))
    assert run.state == "success"
    assert set(pinecone_index.vectors()) == {"a", "b"}


def test_the_rendered_view_shows_no_vector(run_dag):
    run = run_dag(dag_of('yield ("a", [1.0, 2.0])', parameters='namespace="{{ dag.dag_id }}"'))
    assert not {"vectors", "parquet_paths"} & set(run.rendered("embed"))
    assert run.output("embed")["namespace"] == run.run.dag_id


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "embed\\(\\) holds None .* Did the task return a value"),
        ('yield ("a", [1.0])', "must have 2 components(.|\n)* embed\\(\\), row 0 .* id 'a'"),
        ('yield ("a", [1.0, 2.0])\nraise RuntimeError("no more memory")', "no more memory"),
        ('yield "/nowhere.parquet"', "/nowhere.parquet does not exist"),
    ],
)
def test_an_error_names_the_function(run_dag, capsys, body, message):
    assert run_dag(dag_of(body)).state == "failed"
    assert re.search(message, capsys.readouterr().out)


@pytest.mark.parametrize("parameter", ["vectors", "parquet_paths"])
def test_no_other_source_is_accepted(parameter):
    from airflow.sdk import task

    with pytest.raises(ValueError, match="return or yield them"):
        task.pinecone_upsert(**{parameter: ["a"]})(lambda: None)()
