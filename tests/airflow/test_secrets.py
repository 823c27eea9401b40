"""
The API key is nowhere: one DAG fails in every way, with DEBUG logging for everything and Airflow's own masking off.

It runs in a process of its own with a fresh AIRFLOW_HOME, so that all it leaves behind can be searched: what it printed,
every file, every column of the metadata database, and what a tool that reports errors would collect.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet

from airflow_pinecone_upsert import PineconeHook, exceptions
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from tests.api.conftest import reply, serve  # noqa: F401 - fixtures
from tests.api.test_client import certificate, tls_server  # noqa: F401 - fixtures

KEY = "pcsk_7Zq4Xw_kN3vB8tR2mHs6YdLf9Jc5Ga"
BASE64 = base64.b64encode(KEY.encode()).decode()
OF_THE_PROXY = "xT5_proxy-password"
NEEDLES = (KEY, KEY[:12], BASE64, BASE64[:12], OF_THE_PROXY)
STATS = "/describe_index_stats"
UPSERT = "/vectors/upsert"
MONTHLY = "You've reached your write unit limit for the current month (2000000)."
VECTORS = [("a", [1.0] * 8), ("b", [2.0] * 8)]

DAG = '''
import json, logging, os, traceback

from airflow_pinecone_upsert.api import limits

limits.BACKOFF_BASE_S = 0.0  # waits have no length here

from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator

for name in ("httpx", "httpcore", "urllib3", "airflow", "airflow_pinecone_upsert", ""):
    logging.getLogger(name).setLevel("DEBUG")


def collect(task, error):
    """Write down what a tool that reports errors would: the chain, the variables of every frame, the objects at hand."""
    if type(error).__name__ == "AirflowFailException":  # before Airflow 3.3, in place of what it is raised from
        error = error.__cause__
    hook = PineconeHook(task.pinecone_conn_id, index_host=task.index_host)
    shown = [repr(task), str(vars(task)), repr(hook), task.task_id + " ended with " + type(error).__name__]
    try:
        shown.append(repr(hook.get_conn()))
    except Exception as exc:
        shown.append(repr(exc))
    while error is not None:
        shown += [repr(error), str(vars(error))]
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
        error = error.__cause__ or error.__context__
    with open(os.environ["COLLECTED"], "a") as file:
        file.write("\\n".join(shown))


class Collecting(PineconeUpsertOperator):
    """Collects what it leaves when it fails."""

    def execute(self, context):
        try:
            return super().execute(context)
        except Exception as error:
            collect(self, error)
            raise


with DAG("secrets", schedule=None) as dag:
    for task_id, parameters in json.loads(os.environ["CASES"]).items():
        Collecting(task_id=task_id, **{"pinecone_conn_id": task_id} | parameters)

if __name__ == "__main__":
    from airflow.models import Connection
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    initdb()
    with create_session() as session:
        session.add(Connection(conn_id="in_the_table", **json.loads(os.environ["IN_THE_TABLE"])))
    del os.environ["IN_THE_TABLE"]
    dag.test()
'''


def echo(status: int, message: str) -> Fault:
    """Answer with the key in body and headers, as a server that echoes what it refuses."""
    return Fault.status(status, f"{message} {KEY}", headers={"x-pinecone-request-id": KEY, "X-Api-Key": KEY})


HTML = Fault.body(200, f"<html>{KEY}</html>".encode(), headers={"X-Api-Key": KEY})

# Task: the error, on which path the index misbehaves and how, what is special of the connection, and of the task.
CASES: dict[str, tuple[str, str, Fault | None, dict, dict]] = {
    "plain_http": ("SetupError", "", None, {"host": "http://index.example.com"}, {}),
    "no_index": ("SetupError", "", None, {"host": ""}, {}),
    "wrong_extra": (
        "SetupError",
        "",
        None,
        {"extra": {"timeout_s": "soon", "proxy": f"http://me:{OF_THE_PROXY}@x"}},
        {},
    ),
    "wrong_proxy": (
        "SetupError",
        "",
        None,
        {"host": "a.pinecone.io", "extra": {"proxy": f"ftp://me:{OF_THE_PROXY}@x"}},
        {},
    ),
    "wrong_option": ("SetupError", "", None, {}, {"batch_size": 0}),
    "redirect": ("SetupError", STATS, echo(307, "elsewhere"), {}, {}),
    "authentication": ("AuthenticationError", STATS, echo(401, "no such key:"), {}, {}),
    "not_found": ("NotFoundError", STATS, echo(404, "no index for"), {}, {}),
    "documents": ("UnsupportedIndexError", UPSERT, echo(400, "This index has a document schema"), {}, {}),
    "quota": ("QuotaExceededError", UPSERT, echo(429, MONTHLY), {}, {}),
    "source": ("SourceError", "", None, {}, {"vectors": None, "parquet_paths": "/nowhere/*.parquet"}),
    "storage": ("StorageError", "", None, {}, {"vectors": None, "parquet_paths": "s3://aws_silent@bucket/a.parquet"}),
    "record": ("RecordError", "", None, {}, {"vectors": [("a", [1.0])]}),
    "refused_record": ("RecordError", UPSERT, echo(400, "bad record of"), {}, {}),
    "refused": ("BadRequestError", STATS, echo(400, "bad request of"), {}, {}),
    "too_large": ("RequestTooLargeError", STATS, echo(413, "too large"), {}, {}),
    "throttled": ("RateLimitError", STATS, echo(429, "not so fast,"), {}, {}),
    "server": ("ServerError", STATS, echo(503, "no time for"), {}, {}),
    "closed_port": ("TransportError", "", None, {"host": "https://127.0.0.1:1"}, {}),
    "reset": ("TransportError", STATS, Fault.reset(), {}, {}),
    "not_pinecone": ("UnexpectedResponseError", STATS, HTML, {}, {}),
    "incomplete": ("IncompleteUpsertError", UPSERT, echo(503, "still no time for"), {}, {}),
    "short_count": ("IncompleteUpsertError", UPSERT, Fault.short_count(1), {}, {}),
}


@dataclass
class Left:
    """What the run left behind: by name, all the text."""

    printed: str
    collected: str
    files: dict[str, str]
    columns: dict[str, list[str]]


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Left:
    folder = tmp_path_factory.mktemp("secrets")
    home = folder / "home"
    (home / "dags").mkdir(parents=True)
    dag = home / "dags" / "secrets_dag.py"
    dag.write_text(DAG)
    values = [np.ones(8, np.float32)] * 4
    pq.write_table(pa.table({"id": list("abcd"), "values": values}), folder / "source.parquet")

    indexes: list[EmulatedIndex] = []

    def connection(path: str, fault: Fault | None, **more) -> dict:
        index = EmulatedIndex(8, api_key=KEY).start()
        indexes.append(index)
        if fault:
            index.faults.next(fault, times=1_000, path=path)
        return {"conn_type": "pinecone_upsert", "host": index.url, "password": KEY} | more

    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    tasks = {}
    for task_id, (_, path, fault, special, parameters) in CASES.items():
        environment[f"AIRFLOW_CONN_{task_id.upper()}"] = json.dumps(connection(path, fault, **special))
        tasks[task_id] = {"vectors": VECTORS} | parameters
    aside = echo(400, "set aside for")
    parquet = {"parquet_paths": str(folder / "source.parquet"), "batch_size": 1, "max_concurrency": 1}
    # A try that has sent something, then is refused, has a checkpoint; its connection is in the table.
    stopped = connection(UPSERT, None)
    indexes[-1].faults.next(Fault.stall(0.0), path=UPSERT)
    indexes[-1].faults.next(echo(401, "no longer a key:"), path=UPSERT)
    tasks["in_the_table"] = {"parquet_paths": str(folder / "source.parquet"), "batch_size": 1, "max_concurrency": 1}
    tasks["set_aside"] = {"max_rejects": None, "rejects_path": str(home / "rejects")} | parquet
    (folder / "connections.json").write_text(json.dumps({"set_aside": connection(UPSERT, aside)}))
    silent = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    environment |= {
        "AIRFLOW_CONN_AWS_SILENT": json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": silent}),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET": "1000",  # Airflow masks nothing: what is hidden, we hide
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(folder / "connections.json")}),
        "CASES": json.dumps(tasks),
        "COLLECTED": str(folder / "collected.txt"),
        "IN_THE_TABLE": json.dumps(stopped),
    }
    try:
        done = subprocess.run([sys.executable, dag], env=environment, capture_output=True, text=True, check=False)
    finally:
        for index in indexes:
            index.close()
    assert done.returncode == 0, done.stderr[-4_000:]
    files = {
        str(path.relative_to(home)): path.read_bytes().decode("utf-8", "replace")
        for path in home.rglob("*")
        if path.is_file() and path.suffix not in (".db", ".pyc")
    }
    for path in (home / "rejects").glob("*.parquet"):  # whose pages are compressed
        files[f"{path.name} as text"] = str(pq.read_table(path).to_pylist())
    return Left(
        done.stdout + done.stderr, (folder / "collected.txt").read_text(), files, every_column(home / "airflow.db")
    )


def every_column(database: Path) -> dict[str, list[str]]:
    with sqlite3.connect(database) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for table in tables:
            cursor = db.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - the database's own names
            names = [column[0] for column in cursor.description]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    found.setdefault(f"{table}.{name}", []).append(text)
    return found


def lines_with_the_key(text: str) -> list[str]:
    return [line for line in text.splitlines() if any(needle in line for needle in NEEDLES)]


def test_every_error_has_been_raised_by_a_run():
    """RecordError stands for its parent InputError; PineconeUpsertError is what a defect of ours would end as."""
    kinds = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds - {case[0] for case in CASES.values()} == {"PineconeUpsertError", "InputError", "TransientError"}


@pytest.mark.parametrize("task_id", CASES)
def test_each_run_ended_as_scripted(left, task_id):
    assert f"{task_id} ended with {CASES[task_id][0]}\n" in left.collected


def test_the_key_is_in_nothing_that_was_printed_or_logged(left):
    for said in (
        "no such key: ***",
        "receive_response_headers.complete",
        "HTTP Request: POST",
        "still no time for ***",
    ):
        assert said in left.printed  # the search would see it
    # In one process with its supervisor, Airflow logs the secrets that it tells itself to mask; masking hides those lines.
    of_airflow = ("msg=MaskSecret(", "msg=ConnectionResult(")
    assert [line for line in lines_with_the_key(left.printed) if not any(one in line for one in of_airflow)] == []


def test_the_key_is_in_no_error_no_variable_of_a_frame_and_no_representation(left):
    assert "IndexClient('http://127.0.0.1" in left.collected
    assert "PineconeUpsertOperator" in left.collected
    assert "self = <airflow_pinecone_upsert.api.client._Http" in left.collected
    assert lines_with_the_key(left.collected) == []


def test_the_key_is_in_no_file_of_rejects_or_logs(left):
    (rejects,) = [text for name, text in left.files.items() if name.endswith("as text")]
    assert "set aside for ***" in rejects
    assert [name for name, text in left.files.items() if lines_with_the_key(text)] == []


def test_the_key_is_in_no_column_of_the_metadata_database(left):
    """XComs, rendered fields, task state, logs, the serialized DAG; and the connection table, where it is encrypted."""
    assert any("upsertedCount" in text for text in left.columns["xcom.key"])
    assert any("source.parquet" in text for text in left.columns["rendered_task_instance_fields.rendered_fields"])
    assert any("in_the_table" in text for text in left.columns["connection.conn_id"])
    assert left.columns["connection.is_encrypted"] == ["1"]
    assert [name for name, texts in left.columns.items() if any(map(lines_with_the_key, texts))] == []


def test_the_key_is_not_in_the_task_state_store(left):
    if "task_state_store.value" not in left.columns:
        pytest.skip("This Airflow has no task state store.")
    assert any("source.parquet" in text for text in left.columns["task_state_store.value"])
    assert not any(map(lines_with_the_key, left.columns["task_state_store.value"]))


@pytest.mark.parametrize("name", ["verify", "ssl_verify", "insecure", "verify_ssl", "trust_env"])
def test_no_extra_of_the_connection_turns_the_check_of_certificates_off(monkeypatch, name, tls_server):  # noqa: F811
    """Unknown extras are left alone: those of the official provider are among them."""
    connection = {"conn_type": "pinecone_upsert", "host": tls_server.url, "password": KEY, "extra": {name: False}}
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
    with pytest.raises(exceptions.SetupError, match="no certificate that is trusted here"):
        PineconeHook().describe_index_stats()
    assert tls_server.seen == []


SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()


def test_every_promise_names_tests_and_they_exist():
    tests = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    promised = SECURITY.partition("## What is promised")[2].partition("\n## ")[0]
    promises = re.split(r"^- ", promised, flags=re.MULTILINE)[1:]
    assert len(promises) == 5
    for promise in promises:
        named = re.findall(r"`(test_\w+)`", promise)
        assert named, promise
        assert [name for name in named if f"\ndef {name}(" not in tests] == []
