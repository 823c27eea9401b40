"""The bulk import operator: in the worker, in a real triggerer that is killed, and from S3."""

from __future__ import annotations

import json
import signal
import textwrap
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeBulkImportOperator, PineconeHook, exceptions
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.triggers.bulk_import import PineconeBulkImportTrigger
from tests.state_store import InMemoryStateStore

from .dag_source import DAG_HEAD
from .supervised import wait_until
from .triggerer import running_triggerer

IMPORTS = "/bulk/imports"
DURATION_S = 100.0
RECORDS = 10


@pytest.fixture
def index(pinecone_index_factory, use_index):
    """Whose imports end at once."""
    return use_index(pinecone_index_factory(8))


@pytest.fixture
def slow(pinecone_index_factory, use_index, clock):
    """Whose imports take as long as the test wants."""
    return use_index(pinecone_index_factory(8, import_duration_s=DURATION_S, clock=clock))


def write(folder, namespace="n", values=None):
    (folder / namespace).mkdir(exist_ok=True)
    values = np.eye(RECORDS, 8, dtype=np.float32) + 1 if values is None else values
    values = values + np.arange(len(values), dtype=np.float32)[:, None]
    table = pa.table({"id": [f"r{row}" for row in range(len(values))], "values": list(values)})
    pq.write_table(table, folder / namespace / "0.parquet")


@pytest.fixture
def uri(tmp_path):
    write(tmp_path)
    return str(tmp_path)


def task(uri, **parameters):
    return PineconeBulkImportOperator(task_id="import", uri=uri, **parameters)


def started(index):
    return [request for request in list(index.requests) if (request.method, request.path) == ("POST", IMPORTS)]


def looks(index):
    return len([one for one in list(index.requests) if one.method == "GET" and one.path.startswith(f"{IMPORTS}/")])


def statuses():
    with PineconeHook() as hook:
        return [one.status for one in hook.get_conn().list_imports()]


# In the worker ----------------------------------------------------------------------------------


def test_an_import_that_is_complete_succeeds(index, uri, tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path, "m")
    output = task(uri).execute({})
    assert output.pop("createdAt") <= output.pop("finishedAt")
    assert output == {
        "importId": "1",
        "uri": uri,
        "recordsImported": 2 * RECORDS,
        "expectedRecords": 2 * RECORDS,
        "namespaces": ["m", "n"],
        "indexHost": index.url,
    }
    assert len(index.vectors("n")) == len(index.vectors("m")) == RECORDS
    assert "has 20 records in 2 files and 2 namespaces" in caplog.text
    assert "Import 1 is Completed: 100.0 %, 20 records imported." in caplog.text


def test_records_that_pinecone_drops_fail_the_task(index, uri, tmp_path):
    write(tmp_path, values=np.arange(8, 8 - RECORDS, -1, dtype=np.float32)[:, None] * np.ones(8, np.float32))
    with pytest.raises(
        exceptions.BulkImportError, match=r"ended with 1 records, and 10 were expected\. Pinecone drops"
    ):
        task(uri, error_mode="continue").execute({})
    assert len(index.vectors("n")) == 1


def test_expected_records_replace_the_rows_of_the_files(index, uri):
    with pytest.raises(exceptions.BulkImportError, match="ended with 10 records, and 11 were expected"):
        task(uri, expected_records="11").execute({})


def test_files_that_would_fail_are_not_imported(index, uri, tmp_path):
    pq.write_table(pa.table({"id": [1], "values": [[1.0] * 8]}), tmp_path / "n" / "1.parquet")
    with pytest.raises(exceptions.SourceError, match="its column 'id' is of type int64"):
        task(uri).execute({})
    assert not started(index)


def test_a_second_import_of_the_same_files_is_refused_before_it_starts(index, uri):
    task(uri).execute({})
    with pytest.raises(exceptions.SetupError, match="the index already has the namespaces 'n'"):
        task(uri).execute({})
    assert len(started(index)) == 1


def test_files_that_cannot_be_read_here_need_expected_records(index, caplog):
    with pytest.raises(exceptions.SetupError, match=r"No file system for unknown-scheme.*Or set expected_records"):
        task("unknown-scheme://bucket/import").execute({})
    with pytest.raises(exceptions.BulkImportError, match="failed after 0 of 5 records"):
        task("unknown-scheme://bucket/import", expected_records=5).execute({})
    assert "The files are not checked before the import" in caplog.text


def test_the_mode_and_the_integration_are_sent(index, uri, tmp_path):
    task(uri, integration_id="i", error_mode="continue", expected_records=RECORDS).execute({})
    (request,) = started(index)
    assert request.body_bytes == len(
        json.dumps({"uri": uri, "integrationId": "i", "errorMode": {"onError": "continue"}}, separators=(",", ":"))
    )


@pytest.mark.parametrize("parameters", [{"error_mode": "skip"}, {"on_kill": "ignore"}])
def test_a_wrong_choice_does_not_load(parameters):
    with pytest.raises(ValueError, match=r"set it to 'abort' or 'continue'|set it to 'cancel' or 'leave'"):
        task("s3://bucket/import", **parameters)


@pytest.fixture
def end_later(slow, clock):
    """Let the import end once a task waits for it."""
    threads = []

    def end():
        wait_until(lambda: looks(slow) > 0)
        clock.now = DURATION_S

    def start():
        threads.append(threading.Thread(target=end))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def test_a_lost_answer_does_not_start_a_second_import(slow, uri, end_later):
    slow.faults.next(Fault.lost_ack(), path=IMPORTS)
    end_later()
    assert task(uri, deferrable=False, poll_interval_s=0.05).execute({})["recordsImported"] == RECORDS
    assert len(started(slow)) == 1


def test_a_retry_attaches_to_the_running_import(*, slow, uri, clock, caplog, end_later):
    caplog.set_level("INFO")
    with PineconeHook() as hook:
        hook.get_conn().start_import(uri)
    clock.now = DURATION_S / 2  # its namespace exists by now
    end_later()
    task(uri, deferrable=False, poll_interval_s=0.05).execute({})
    assert len(started(slow)) == 1
    assert "is running already, so no second one is started" in caplog.text


def test_a_retry_takes_the_import_that_ended_in_between(slow, uri, clock):
    store = InMemoryStateStore()
    slow.faults.next(Fault.stall(0), path=f"{IMPORTS}/1")
    slow.faults.next(Fault.status(401, "no"), path=f"{IMPORTS}/1")
    with pytest.raises(exceptions.AuthenticationError):
        task(uri, deferrable=False, poll_interval_s=0.01).execute({"task_state_store": store})
    assert store["progress"] == {"importId": "1", "uri": uri, "status": "Pending", "percent": 0.0, "records": 0}
    clock.now = DURATION_S
    assert task(uri).execute({"task_state_store": store})["recordsImported"] == RECORDS
    assert store["progress"]["records"] == RECORDS
    assert len(started(slow)) == 1


def test_a_stored_state_that_is_not_ours_is_ignored(index, uri):
    store = InMemoryStateStore(progress="?")
    assert task(uri).execute({"task_state_store": store})["importId"] == "1"


@pytest.mark.parametrize(("on_kill", "left"), [("cancel", "Cancelled"), ("leave", "Pending")])
def test_a_task_that_is_ended_cancels_its_import(slow, uri, on_kill, left):
    operator = task(uri, deferrable=False, poll_interval_s=0.05, on_kill=on_kill)

    def kill():
        wait_until(lambda: looks(slow) > 1)
        operator.on_kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(exceptions.IncompleteUpsertError, match="The import was cancelled"):
        operator.execute({})
    thread.join()
    assert statuses() == [left]


def test_an_import_from_s3_with_an_airflow_connection(index, s3, uri, tmp_path, monkeypatch):
    import boto3

    for name, value in {"ENDPOINT_URL": s3, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    extra = {"endpoint_url": s3}
    connection = {"conn_type": "aws", "login": "k", "password": "s", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MY_CONN", json.dumps(connection))
    client = boto3.client("s3")
    client.create_bucket(Bucket="imports")
    client.upload_file(str(tmp_path / "n" / "0.parquet"), "imports", "nightly/n/0.parquet")
    output = task("s3://my_conn@imports/nightly").execute({})
    assert (output["uri"], output["recordsImported"]) == ("s3://imports/nightly", RECORDS)


# In Airflow -------------------------------------------------------------------------------------

TASK = 'PineconeBulkImportOperator(task_id="import", uri="{uri}", poll_interval_s=0.1)'
PREAMBLE = "from airflow_pinecone_upsert import PineconeBulkImportOperator"


@pytest.fixture
def deferred(task_processes, slow, uri):
    """Run an import until it is deferred."""
    run = task_processes(TASK.format(uri=uri), index=slow, preamble=PREAMBLE)
    assert run.try_once() == "deferred", run.log
    return run


@pytest.fixture
def start_triggerer(slow):
    return lambda: running_triggerer(AIRFLOW_CONN_PINECONE_DEFAULT=slow.connection_json())


@pytest.mark.slow
def test_a_deferred_import_shows_its_progress_and_survives_its_triggerer(*, deferred, start_triggerer, slow, clock):
    with start_triggerer() as first:
        before = looks(slow)
        wait_until(lambda: looks(slow) > before + 1)
        first.kill()
    with start_triggerer():
        clock.now = DURATION_S / 2
        wait_until(lambda: deferred.state == "scheduled")
        assert deferred.try_once() == "deferred"
        assert deferred.store["progress"]["status"] == "InProgress"
        assert 50 < deferred.store["progress"]["percent"] < 100
        clock.now = DURATION_S
        wait_until(lambda: deferred.state == "scheduled")
    assert deferred.try_once() == "success"
    assert deferred.output()["recordsImported"] == RECORDS
    assert deferred.store["progress"]["status"] == "Completed"
    assert len(started(slow)) == 1


@pytest.mark.slow
def test_a_deferred_task_that_a_user_ends_cancels_its_import(*, deferred, start_triggerer, slow):
    with start_triggerer():
        before = looks(slow)
        wait_until(lambda: looks(slow) > before + 1)
        deferred.mark("failed")
        wait_until(lambda: statuses() == ["Cancelled"])


@pytest.mark.slow
def test_a_triggerer_that_is_stopped_does_not_cancel_the_import(*, deferred, start_triggerer, slow):
    with start_triggerer():
        before = looks(slow)
        wait_until(lambda: looks(slow) > before + 1)
    assert deferred.state == "deferred"
    assert statuses() == ["Pending"]


def test_a_task_process_that_is_stopped_cancels_its_import(task_processes, slow, uri):
    source = TASK.format(uri=uri).replace("poll_interval_s", "deferrable=False, poll_interval_s")
    run = task_processes(source, index=slow, preamble=PREAMBLE)
    run.start()
    wait_until(lambda: looks(slow) > 2)
    run.signal(signal.SIGTERM)
    run.wait()
    assert statuses() == ["Cancelled"]


def test_the_serialized_form_restores_the_trigger_and_has_no_secret(slow, uri):
    from airflow.providers.common.compat.sdk import TaskDeferred

    with pytest.raises(TaskDeferred) as caught:
        task(uri).execute({})
    path, parameters = caught.value.trigger.serialize()
    assert path == "airflow_pinecone_upsert.triggers.bulk_import.PineconeBulkImportTrigger"
    assert PineconeBulkImportTrigger(**json.loads(json.dumps(parameters))).serialize() == (path, parameters)
    assert slow.api_key not in json.dumps(parameters)


def test_an_import_is_deferred_and_its_namespaces_are_assets(run_dag, pinecone_index_factory, use_index, tmp_path):
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    index = use_index(pinecone_index_factory(8, import_duration_s=0.5))
    for name in ("m", "n"):
        write(tmp_path, name)
    source = f"""
    from airflow_pinecone_upsert import PineconeBulkImportOperator

    PineconeBulkImportOperator(task_id="import", uri="{tmp_path}", poll_interval_s=0.1)
    """
    run = run_dag(DAG_HEAD + textwrap.indent(textwrap.dedent(source), "    "))
    assert run.state == "success"
    assert run.output("import", "recordsImported") == 2 * RECORDS
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == run.run.dag_id)).all()
        found = {event.asset.uri: event.extra["namespace"] for event in events}
    host = index.url.removeprefix("http://")
    assert found == {f"pinecone://{host}/m": "m", f"pinecone://{host}/n": "n"}
