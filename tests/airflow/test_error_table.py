"""The README's table of failures: each row is made to happen, and the task does and says what the row says."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeUpsertOperator, exceptions
from airflow_pinecone_upsert.api import backoff
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from tests.api.conftest import reply, serve  # noqa: F401 - fixtures
from tests.api.test_client import certificate, tls_server  # noqa: F401 - fixtures

from .test_readme import table

ROWS = [[row[0], row[1].strip("*"), re.findall(r"`([^`]+)`", row[2]), row[3]] for row in table("When things go wrong")]
STATS = "/describe_index_stats"
UPSERT = "/vectors/upsert"
GOOD = [("a", [1.0] * 8), ("b", [2.0] * 8)]
BAD = [("a", [1.0] * 8), ("b", [1.0] * 7), ("c", [3.0] * 8)]


class Store(dict):
    """A task state store in memory."""

    set = dict.__setitem__
    delete = dict.__delitem__


@dataclass
class Stage:
    """Where a failure is played: an index, a connection to it, and one task."""

    index: EmulatedIndex
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    def connect(self, **fields: Any) -> None:
        """Change the connection."""
        connection = {"conn_type": "pinecone_upsert", "host": self.index.url, "password": self.index.api_key} | fields
        self.monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))

    def fault(self, fault: Fault, path: str = UPSERT, times: int = 1) -> None:
        self.index.faults.next(fault, path=path, times=times)

    def write(self, **columns: Any) -> str:
        columns = {"id": ["a", "b"], "values": [np.ones(8, np.float32)] * 2} | columns
        found = {name: column for name, column in columns.items() if column is not None}
        pq.write_table(pa.table(found), self.folder / "records.parquet")
        return str(self.folder / "records.parquet")

    def task(self, **parameters: Any) -> PineconeUpsertOperator:
        if "parquet_paths" not in parameters:
            parameters.setdefault("vectors", GOOD)
        return PineconeUpsertOperator(task_id="upsert", **parameters)

    def run(self, context: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
        return self.task(**parameters).execute(context or {})


Scenario = Callable[[Stage], Any]
SCENARIOS: dict[str, list[Scenario]] = {}


def row(*cells: str) -> Callable[[Scenario], Scenario]:
    """Name the row that a scenario plays; of rows that continue one ("…"), the scenarios stand in their order."""

    def register(scenario: Scenario) -> Scenario:
        for cell in cells:
            SCENARIOS.setdefault(cell, []).append(scenario)
        return scenario

    return register


# Set-up -----------------------------------------------------------------------------------------


@row("Both `parquet_paths` and `vectors` are set, or neither")
def _(stage):
    stage.task(vectors=[], parquet_paths="x")


@row("A parameter is out of its range")
def _(stage):
    stage.run(batch_size=2_000)


@row("The connection has no key")
def _(stage):
    stage.connect(password="")
    stage.run()


@row("The connection names no index")
def _(stage):
    stage.connect(host="")
    stage.run()


@row("An extra of the connection is wrong")
def _(stage):
    stage.connect(extra={"timeout_s": "soon"})
    stage.run()


@row("The host is no host")
def _(stage):
    stage.connect(host="https://a.pinecone.io/vectors/upsert")
    stage.run()


@row("The host is plain http on another machine")
def _(stage):
    stage.connect(host="http://index.example.com")
    stage.run()


@row("The host's certificate is not trusted")
def _(stage):
    stage.connect(host=stage.request.getfixturevalue("tls_server").url)
    stage.run()


@row("The CA bundle is missing")
def _(stage):
    stage.connect(host="a.pinecone.io", extra={"ca_bundle": str(stage.folder / "nowhere.pem")})
    stage.run()


@row("The proxy is no URL")
def _(stage):
    stage.connect(host="a.pinecone.io", extra={"proxy": "nonsense"})
    stage.run()


@row("The server redirects")
def _(stage):
    stage.fault(Fault.status(307, "elsewhere", headers={"Location": stage.index.url}), STATS)
    stage.run()


@row("The key is wrong")
def _(stage):
    stage.connect(password="another-key")
    stage.run()


@row("The key may write, but not read")
def _(stage):
    stage.fault(Fault.status(403, "forbidden"), STATS)
    return stage.run()


@row("No such index")
def _(stage):
    stage.connect(host="", extra={"index_name": "nope", "control_plane_url": stage.index.url})
    stage.run()


@row("The index holds documents")
def _(stage):
    stage.fault(
        Fault.status(400, "This index has a document schema, so writes must go through the documents API"), UPSERT
    )
    stage.run()


@row("A quota of the plan is used up")
def _(stage):
    stage.fault(Fault.status(429, "You've reached your write unit limit for the current month (2000000)."))
    stage.run()


@row("No answer: DNS, firewall, proxy, time-out")
def _(stage):
    stage.index.close()
    stage.run()


@row("The answer is not Pinecone's")
def _(stage):
    stage.fault(Fault.body(200, b"<html>Sign in</html>", "text/html"), STATS)
    stage.run()


# Input ------------------------------------------------------------------------------------------


@row("Nothing knows the scheme of a path")
def _(stage):
    stage.run(parquet_paths="nobody-knows://bucket/a.parquet")


@row("No file where one should be")
def _(stage):
    stage.run(parquet_paths=f"{stage.folder}/*.parquet")


@row("The storage of a file does not answer")
def _(stage):
    extra = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
    }
    connection = {"conn_type": "aws", "login": "k", "password": "s", "extra": extra}
    stage.monkeypatch.setenv("AIRFLOW_CONN_AWS_SILENT", json.dumps(connection))
    stage.run(parquet_paths="s3://aws_silent@embeddings/a.parquet")


@row("A file is not Parquet")
def _(stage):
    (stage.folder / "a.parquet").write_text("id,values")
    stage.run(parquet_paths=str(stage.folder))


@row("A file is damaged")
def _(stage):
    path = stage.folder / "a.parquet"
    table = pa.table({"id": ["a", "b"], "values": [np.arange(8, dtype=np.float32)] * 2})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(np.float32(5).tobytes(), np.float32(6).tobytes(), 1))
    stage.run(parquet_paths=str(path))


@row("A column is missing")
def _(stage):
    stage.run(parquet_paths=stage.write(), id_column="sku")


@row("A column has a type that does not fit")
def _(stage):
    stage.run(parquet_paths=stage.write(values=["[1, 2]", "[1, 2]"]))


@row("The XCom contains no records")
def _(stage):
    stage.run(vectors="a.parquet")


@row("A record breaks a rule")
def _(stage):
    try:
        stage.run(vectors=BAD)
    finally:
        assert stage.index.vectors() == {}  # nothing of its chunk was sent


@row("… and `max_rejects` allows it")
def _(stage):
    output = stage.run(vectors=BAD, max_rejects=1, rejects_path=str(stage.folder))
    (path,) = output["rejectsPaths"]
    assert pq.read_table(path)["id"].to_pylist() == ["b"]
    return output


@row("… but not so many")
def _(stage):
    stage.run(vectors=[*BAD, ("d", [])], max_rejects=1)


@row("The server refuses a record")
def _(stage):
    stage.fault(Fault.status(400, "no such thing"), times=2)
    stage.run(max_concurrency=1)


@row("… and `max_rejects` allows it")
def _(stage):
    stage.fault(Fault.status(400, "no such thing"), times=2)
    output = stage.run(max_concurrency=1, max_rejects=1, rejects_path=str(stage.folder))
    (path,) = output["rejectsPaths"]
    assert len(pq.read_table(path)) == 1
    return output


@row("Rejects cannot be written")
def _(stage):
    (stage.folder / "file").write_text("")
    stage.run(vectors=BAD, max_rejects=1, rejects_path=str(stage.folder / "file" / "folder"))


# The server -------------------------------------------------------------------------------------


@row("The request is too large for the server")
def _(stage):
    stage.fault(Fault.body(413, b""))
    return stage.run()


@row("429: too many requests or bytes")
def _(stage):
    stage.fault(Fault.status(429, headers={"Retry-After": "0"}))
    return stage.run()


@row("408, 5xx, time-out, reset")
def _(stage):
    for fault in (Fault.status(408), Fault.status(503), Fault.reset(), Fault.lost_ack()):
        stage.fault(fault)
    output = stage.run()
    assert output["retryCount"] == 4
    return output


@row("… ten times")
def _(stage):
    stage.fault(Fault.status(503), times=10)
    try:
        stage.run()
    finally:
        assert len([one for one in stage.index.requests if one.path == UPSERT]) == 10


@row("The server confirms fewer records than were sent")
def _(stage):
    stage.fault(Fault.short_count(1))
    stage.run()


# The run ----------------------------------------------------------------------------------------


@row("The task is stopped: marked, timed out, worker ends")
def _(stage):
    stage.fault(Fault.stall(0.2))
    task = stage.task(batch_size=1, max_concurrency=1)

    ended = threading.Event()

    def stop_once_something_is_under_way():
        while stage.index.faults.pending and not ended.wait(0.01):
            pass
        task.on_kill()

    killer = threading.Thread(target=stop_once_something_is_under_way)
    killer.start()
    try:
        task.execute({})
    finally:
        ended.set()
        killer.join()


@row("Airflow tries a failed task again")
def _(stage):
    pytest.importorskip("airflow.models.task_state_store", reason="Before Airflow 3.3 a retry starts at the first row.")
    path = stage.write()
    stage.fault(Fault.stall(0.0))
    stage.fault(Fault.short_count(0))
    run = stage.request.getfixturevalue("run_dag")(
        f"""
        from datetime import timedelta

        from airflow.sdk import DAG
        from airflow_pinecone_upsert import PineconeUpsertOperator

        with DAG("dag_of_a_test", schedule=None) as dag:
            PineconeUpsertOperator(task_id="upsert", parquet_paths="{path}", batch_size=1, max_concurrency=1,
                retries=1, retry_delay=timedelta(0))
        """
    )
    return run.output("upsert")


@row("Airflow before 3.3, `durable`")
def _(stage):
    return stage.run(parquet_paths=stage.write())


@row("The files changed since the failed try")
def _(stage):
    store = Store()
    stage.fault(Fault.stall(0.0))
    stage.fault(Fault.short_count(0))
    task = {"batch_size": 1, "max_concurrency": 1}
    with pytest.raises(exceptions.IncompleteUpsertError):
        stage.run({"task_state_store": store}, parquet_paths=stage.write(), **task)
    assert "checkpoint" in store
    stage.write(id=["another a", "b"])
    output = stage.run({"task_state_store": store}, parquet_paths=stage.write(id=["another a", "b"]), **task)
    assert output["upsertedCount"] == 2
    return output


@row("The checkpoint cannot be kept")
def _(stage):
    class Broken(Store):
        def set(self, *_):
            raise OSError("the database is away")

    return stage.run({"task_state_store": Broken(checkpoint=None)}, parquet_paths=stage.write())


@row("Nothing to upsert")
def _(stage):
    return stage.run(vectors=[])


# The check --------------------------------------------------------------------------------------

NUMBERED = [(cells, [one[0] for one in ROWS[:number]].count(cells[0])) for number, cells in enumerate(ROWS)]


@pytest.fixture
def stage(airflow_db, pinecone_index, tmp_path, monkeypatch, request) -> Stage:
    monkeypatch.setattr(backoff, "BACKOFF_BASE_S", 0.0)  # waits have no length here
    stage = Stage(pinecone_index, tmp_path, monkeypatch, request)
    stage.connect()
    return stage


def test_every_row_has_a_scenario_and_every_scenario_a_row():
    assert [cells[0] for cells in ROWS if cells[0] not in SCENARIOS] == []
    assert {name: len(scenarios) for name, scenarios in SCENARIOS.items()} == {
        name: [cells[0] for cells in ROWS].count(name) for name in SCENARIOS
    }


@pytest.mark.parametrize(("cells", "occurrence"), NUMBERED, ids=[cells[0] for cells in ROWS])
def test_the_task_does_and_says_what_the_row_says(cells, occurrence, stage, caplog, capsys):
    what, does, phrases, remedy = cells
    caplog.set_level(logging.INFO)
    output, error = None, None
    try:
        output = SCENARIOS[what][occurrence](stage)
    except Exception as exc:  # noqa: BLE001 - its class is looked at below
        error = exc
    if type(error).__name__ == "AirflowFailException":  # by which Airflow before 3.3 does not retry
        error = error.__cause__
    said = caplog.text + capsys.readouterr().out + str(error)
    assert phrases
    assert [phrase for phrase in phrases if phrase not in said] == []
    assert remedy.endswith(".")
    assert_it_does(does, output, error)


def assert_it_does(does: str, output: dict[str, Any] | None, error: Exception | None) -> None:
    match does:
        case "does not load":
            assert isinstance(error, ValueError)
        case "fails now":
            assert isinstance(error, (exceptions.SetupError, exceptions.InputError))
        case "fails":
            assert isinstance(error, exceptions.PineconeUpsertError)
            assert not isinstance(error, (exceptions.SetupError, exceptions.InputError))
        case "repeats":
            assert output["retryCount"] > 0
            assert output["upsertedCount"] == 2
        case "sets aside":
            assert output["rejectedCount"] == 1
            assert output["upsertedCount"] > 0
        case "resumes":
            assert output["resumedCount"] == 1
            assert output["upsertedCount"] == 2
        case "goes on":
            assert error is None
            assert output["retryCount"] == output["rejectedCount"] == output["resumedCount"] == 0
        case _:
            pytest.fail(f"{does!r} is nothing that a task does.")
