"""What a failed task leaves in its log: the reason, the remedy, the location; then Airflow's own lines."""

from __future__ import annotations

import logging
import pickle
import re

import pytest

from airflow_pinecone_upsert import exceptions

DAG = """
from pathlib import Path

from airflow.sdk import DAG, task
from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG(Path(__file__).stem, schedule=None) as dag:
    {task}
"""

FAULTS_OF_THE_USER = [
    "PineconeUpsertOperator(task_id='upsert', vectors=[('a', [1.0])])",
    "PineconeUpsertOperator(task_id='upsert', parquet_paths='/nowhere.parquet')",
    "PineconeUpsertOperator(task_id='upsert', vectors=[], index_host='http://example.com')",
    "task.pinecone_upsert(lambda: [('a', [1.0])], task_id='upsert')()",
]


@pytest.fixture
def run_failing(run_dag, capsys):
    """Run a task that fails, and return what Airflow printed."""

    def run(task):
        run = run_dag(DAG.format(task=task))
        assert run.task_state("upsert") == "failed"
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("task", FAULTS_OF_THE_USER)
def test_a_fault_of_the_user_has_no_traceback_of_this_package(run_failing, caplog, task):
    caplog.set_level(logging.DEBUG)
    printed = run_failing(task)
    frames = re.findall(r'File "[^"]*/airflow_pinecone_upsert/([^"]+)"', printed)
    assert frames.count("operators/base.py") == 2  # where the error leaves the operator: perform(), execute()
    assert set(frames) <= {"operators/base.py", "decorators/function_records.py"}
    assert not re.search("direct cause|another exception", printed)
    (in_full,) = [record for record in caplog.records if record.getMessage() == "The traceback of this error:"]
    assert in_full.levelname == "DEBUG"
    assert in_full.exc_info[2] is not None


def test_the_error_is_of_its_own_class_and_has_its_attributes(pinecone_index, monkeypatch):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    with pytest.raises(exceptions.RecordError) as caught:
        PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0])]).execute({})
    error = caught.value
    assert (type(error).__name__, error.record_id, error.field) == ("RecordError", "a", "values")
    assert caught.traceback[-1].path.name == "base.py"  # where the operator raises it
    assert error.__cause__ is None
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is exceptions.RecordError
    assert (str(copy), copy.row) == (str(error), 0)


def test_the_log_has_reason_remedy_and_location_in_lines_of_their_own(run_failing, caplog):
    run_failing(FAULTS_OF_THE_USER[0])
    (record,) = [record for record in caplog.records if record.name == "airflow_pinecone_upsert.operators.base"]
    assert (record.levelname, record.getMessage().splitlines()) == (
        "ERROR",
        [
            "values: the vector must have 8 components (found 1).",
            "The index has 8 dimensions. Embed with the model that it was made for.",
            "XCom, row 0 (counted from 0), id 'a'.",
        ],
    )


def test_an_error_that_a_retry_may_fix_keeps_its_traceback(run_failing, pinecone_index):
    pinecone_index.close()
    printed = run_failing(FAULTS_OF_THE_USER[0])
    assert "TransportError" in printed
    assert "/airflow_pinecone_upsert/api/http.py" in printed


def test_the_error_of_a_hook_keeps_its_traceback():
    """A task of the user's own needs it: it says which of its lines called the hook."""
    from airflow_pinecone_upsert import PineconeHook

    with pytest.raises(exceptions.SetupError) as caught:
        PineconeHook(index_host="http://example.com").upsert()
    assert caught.traceback[-1].path.name == "pinecone.py"
