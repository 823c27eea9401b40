"""Which failures Airflow retries: real runs with ``retries=2``."""

import pytest

from airflow_pinecone_upsert.emulator.faults import Fault
from airflow_pinecone_upsert.operators.retry_policy import ExceptionRetryPolicy

DAG = """
from pathlib import Path
from datetime import timedelta
from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeUpsertOperator
{imports}

with DAG(Path(__file__).stem, default_args={default_args}) as dag:
    PineconeUpsertOperator{partial}(
        task_id="upsert", retries=2, retry_delay=timedelta(0), {more}
    ){expand}
"""


def dag_of(more='vectors=[{"id": "a", "values": [1.0, 2.0]}]', *, imports="", default_args="{}", mapped=""):
    partial, expand = (".partial", f".expand({mapped})") if mapped else ("", "")
    return DAG.format(more=more, imports=imports, default_args=default_args, partial=partial, expand=expand)


@pytest.fixture
def pinecone_index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2)


def tries(run, map_index=-1):
    return run.run.get_task_instance("upsert", map_index=map_index).try_number


@pytest.mark.parametrize(
    "more",
    [
        'vectors=[{"id": "a", "values": [1.0, 2.0, 3.0]}]',  # the data
        'parquet_paths="/nowhere/*.parquet"',  # the source
        'vectors=[{"id": "a", "values": [1.0, 2.0]}], batch_size=5_000',  # a parameter
        'vectors=[{"id": "a", "values": [1.0, 2.0]}], index_host="http://example.com"',  # the connection
        'vectors=[{"id": "a", "values": [1.0, 2.0]}], pinecone_conn_id="not_there"',
    ],
)
def test_an_error_that_no_retry_can_fix_fails_at_once(run_dag, more):
    run = run_dag(dag_of(more))
    assert run.task_state("upsert") == "failed"
    assert tries(run) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_final_server_error_fails_at_once(run_dag, pinecone_index, status):
    pinecone_index.faults.next(Fault.status(status, "no"), path="/vectors/upsert")
    run = run_dag(dag_of())
    assert (run.task_state("upsert"), tries(run)) == ("failed", 1)


def test_a_final_error_of_a_mapped_task_fails_at_once(run_dag):
    run = run_dag(dag_of("", mapped='vectors=[[{"id": "a", "values": [1.0]}], [{"id": "b", "values": [1.0, 2.0]}]]'))
    assert [run.task_state("upsert", number) for number in (0, 1)] == ["failed", "success"]
    assert tries(run, 0) == 1


def test_a_transient_error_is_retried(run_dag, pinecone_index):
    pinecone_index.faults.next(Fault.body(200, b'{"upsertedCount":999}', "application/json"), path="/vectors/upsert")
    run = run_dag(dag_of())
    assert (run.task_state("upsert"), tries(run)) == ("success", 2)
    assert run.output("upsert")["upsertedCount"] == 1


@pytest.mark.skipif(ExceptionRetryPolicy is None, reason="retry policies need Airflow 3.3")
@pytest.mark.parametrize("in_default_args", [False, True])
def test_a_retry_policy_of_the_user_replaces_the_default(run_dag, pinecone_index, in_default_args):
    pinecone_index.faults.next(Fault.status(404, "no"), path="/vectors/upsert")
    imports = "from airflow.sdk import ExceptionRetryPolicy\nretry_policy = ExceptionRetryPolicy(rules=[])"
    vectors = 'vectors=[{"id": "a", "values": [1.0, 2.0]}]'
    if in_default_args:
        source = dag_of(vectors, imports=imports, default_args='{"retry_policy": retry_policy}')
    else:
        source = dag_of(f"{vectors}, retry_policy=retry_policy", imports=imports)
    run = run_dag(source)
    assert (run.task_state("upsert"), tries(run)) == ("success", 2)
