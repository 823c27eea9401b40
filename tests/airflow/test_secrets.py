"""
The API key is never shown: one DAG fails in every way, with DEBUG logging for everything and Airflow's masking off.

The DAG runs in its own process with a new AIRFLOW_HOME, so that everything it leaves behind can be searched: its output,
every file, every column of the metadata database, and what an error-reporting tool would collect.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert import PineconeHook, exceptions
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.reindex.lease import Holder, Lease
from airflow_pinecone_upsert.reindex.manifest import ManifestFolder

KEY = "pcsk_7Zq4Xw_kN3vB8tR2mHs6YdLf9Jc5Ga"
BASE64 = base64.b64encode(KEY.encode()).decode()
PROXY_PASSWORD = "xT5_proxy-password"
SECRETS = (KEY, KEY[:12], BASE64, BASE64[:12], PROXY_PASSWORD)
STATS = "/describe_index_stats"
UPSERT = "/vectors/upsert"
QUERY = "/query"
MONTHLY_QUOTA = "You've reached your write unit limit for the current month (2000000)."
VECTORS = [("a", [1.0] * 8), ("b", [2.0] * 8)]

DAG = '''
import json, logging, os, traceback

from airflow_pinecone_upsert.api import limits

limits.BACKOFF_BASE_S = 0.0  # retries do not wait

from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, PineconeUpsertOperator

for name in ("httpx", "httpcore", "urllib3", "airflow", "airflow_pinecone_upsert", ""):
    logging.getLogger(name).setLevel("DEBUG")


def collect(task, error):
    """Collect what an error-reporting tool would: the chain of errors, the variables of every frame, nearby objects."""
    hook = PineconeHook(task.pinecone_conn_id, index_host=task.index_host)
    lines = [repr(task), str(vars(task)), repr(hook), task.task_id + " ended with " + type(error).__name__]
    try:
        lines.append(repr(hook.get_conn()))
    except Exception as exc:
        lines.append(repr(exc))
    while error is not None:
        lines += [repr(error), str(vars(error))]
        lines += traceback.TracebackException.from_exception(error, capture_locals=True).format()
        error = error.__cause__ or error.__context__
    with open(os.environ["COLLECTED"], "a") as file:
        file.write("\\n".join(lines))


class Collects:
    """Collects what is visible when an operator fails."""

    def execute(self, context):
        try:
            return super().execute(context)
        except Exception as error:
            collect(self, error)
            raise


class Collecting(Collects, PineconeUpsertOperator):
    pass


class CollectingReindex(Collects, PineconeReindexOperator):
    pass


with DAG("secrets", schedule=None) as dag:
    for task_id, parameters in json.loads(os.environ["CASES"]).items():
        kind = CollectingReindex if "manifest_path" in parameters else Collecting
        kind(task_id=task_id, **{"pinecone_conn_id": task_id} | parameters)

if __name__ == "__main__":
    from airflow.models import Connection
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    initdb()
    with create_session() as session:
        session.add(Connection(conn_id="connection_in_database", **json.loads(os.environ["STORED_CONNECTION"])))
    del os.environ["STORED_CONNECTION"]
    dag.test()
'''


def echo(status: int, message: str) -> Fault:
    """Return a response with the key in body and headers, like a server that echoes the request that it rejects."""
    return Fault.status(status, f"{message} {KEY}", headers={"x-pinecone-request-id": KEY, "X-Api-Key": KEY})


HTML = Fault.body(200, f"<html>{KEY}</html>".encode(), headers={"X-Api-Key": KEY})

NOT_STORED = Fault.body(200, b'{"upsertedCount":2}', "application/json", headers={"X-Api-Key": KEY})
MANIFEST = {"manifest_path": "FOLDER/home/manifests/{{ task.task_id }}"}

# Task id: the error, the path of the faulty requests and the fault, fields of the connection, parameters of the task.
CASES: dict[str, tuple[str, str, Fault | None, dict, dict]] = {
    "plain_http": ("SetupError", "", None, {"host": "http://index.example.com"}, {}),
    "no_index": ("SetupError", "", None, {"host": ""}, {}),
    "wrong_extra": (
        "SetupError",
        "",
        None,
        {"extra": {"timeout_s": "soon", "proxy": f"http://me:{PROXY_PASSWORD}@x"}},
        {},
    ),
    "wrong_proxy": (
        "SetupError",
        "",
        None,
        {"host": "a.pinecone.io", "extra": {"proxy": f"ftp://me:{PROXY_PASSWORD}@x"}},
        {},
    ),
    "wrong_option": ("SetupError", "", None, {}, {"batch_size": 0}),
    "redirect": ("SetupError", STATS, echo(307, "elsewhere"), {}, {}),
    "authentication": ("AuthenticationError", STATS, echo(401, "no such key:"), {}, {}),
    "not_found": ("NotFoundError", STATS, echo(404, "no index for"), {}, {}),
    "documents": ("UnsupportedIndexError", UPSERT, echo(400, "This index has a document schema"), {}, {}),
    "quota": ("QuotaExceededError", UPSERT, echo(429, MONTHLY_QUOTA), {}, {}),
    "source": ("SourceError", "", None, {}, {"vectors": None, "parquet_paths": "/nowhere/*.parquet"}),
    "storage": ("StorageError", "", None, {}, {"vectors": None, "parquet_paths": "s3://aws_silent@bucket/a.parquet"}),
    "record": ("RecordError", "", None, {}, {"vectors": [("a", [1.0])]}),
    "rejected_record": ("RecordError", UPSERT, echo(400, "bad record of"), {}, {}),
    "bad_request": ("BadRequestError", STATS, echo(400, "bad request of"), {}, {}),
    "too_large": ("RequestTooLargeError", STATS, echo(413, "too large"), {}, {}),
    "throttled": ("RateLimitError", STATS, echo(429, "not so fast,"), {}, {}),
    "server": ("ServerError", STATS, echo(503, "no time for"), {}, {}),
    "closed_port": ("TransportError", "", None, {"host": "https://127.0.0.1:1"}, {}),
    "reset": ("TransportError", STATS, Fault.reset(), {}, {}),
    "not_pinecone": ("UnexpectedResponseError", STATS, HTML, {}, {}),
    "not_searchable": (
        "NotSearchableError",
        QUERY,
        echo(503, "no answer for"),
        {},
        {"wait_until_searchable": True, "searchable_timeout_s": 0.01},
    ),
    "incomplete": ("IncompleteUpsertError", UPSERT, echo(503, "still no time for"), {}, {}),
    "short_count": ("IncompleteUpsertError", UPSERT, Fault.short_count(1), {}, {}),
    "manifest": ("ManifestError", "", None, {}, {"manifest_path": "/dev/null/manifest"}),
    "lease": ("ManifestInUseError", "", None, {}, {"manifest_path": "FOLDER/in-use"}),
    "audit": ("AuthenticationError", "/vectors/list", echo(401, "no list for"), {}, {"audit": True, **MANIFEST}),
    "fetch": ("ServerError", "/vectors/fetch", echo(503, "no proof for"), {}, MANIFEST),
    "not_stored": ("VerificationError", UPSERT, NOT_STORED, {}, {"verify_timeout_s": 0, **MANIFEST}),
}


@dataclass
class Artifacts:
    """
    What the run left behind, as text.

    :param printed: The output of the process.
    :param collected: What an error-reporting tool would collect.
    :param files: The content of every file, by path.
    :param columns: The values of every column of the metadata database, by ``table.column``.
    """

    printed: str
    collected: str
    files: dict[str, str]
    columns: dict[str, list[str]]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Artifacts:
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
    for task_id, (_, path, fault, fields, parameters) in CASES.items():
        environment[f"AIRFLOW_CONN_{task_id.upper()}"] = json.dumps(connection(path, fault, **fields))
        tasks[task_id] = {"vectors": VECTORS} | parameters
    rejection = echo(400, "rejected for")
    parquet = {"parquet_paths": str(folder / "source.parquet"), "batch_size": 1, "max_concurrency": 1}
    # This task has a checkpoint, because it fails after its first request. Its connection is in the metadata database.
    stored_connection = connection(UPSERT, None)
    indexes[-1].faults.next(Fault.stall(0.0), path=UPSERT)
    indexes[-1].faults.next(echo(401, "no longer a key:"), path=UPSERT)
    tasks["connection_in_database"] = parquet
    tasks["with_rejects"] = {"max_rejects": None, "rejects_path": str(home / "rejects")} | parquet
    with_rejects = connection(UPSERT, None)  # the server takes the last of its four records
    indexes[-1].faults.next(rejection, times=3, path=UPSERT)
    (folder / "connections.json").write_text(json.dumps({"with_rejects": with_rejects}))
    # A server that echoes the key where the proof asks it for the namespace's position.
    tasks["reindexed"] = {"vectors": VECTORS} | MANIFEST
    environment["AIRFLOW_CONN_REINDEXED"] = json.dumps(connection("/query", echo(429, "not so fast,")))
    in_an_hour = time.time() + 3_600  # a slow machine runs all tasks in more time than a lease lasts
    Lease.acquire(ManifestFolder(LocalFileSystem(), str(folder / "in-use")), Holder("other"), in_an_hour)
    silent = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    environment |= {
        "AIRFLOW_CONN_AWS_SILENT": json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": silent}),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET": "1000",  # Airflow masks nothing, so the package must
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(folder / "connections.json")}),
        "CASES": json.dumps(tasks).replace("FOLDER", str(folder)),
        "COLLECTED": str(folder / "collected.txt"),
        "STORED_CONNECTION": json.dumps(stored_connection),
    }
    try:
        result = subprocess.run([sys.executable, dag], env=environment, capture_output=True, text=True, check=False)
    finally:
        for index in indexes:
            index.close()
    assert result.returncode == 0, result.stderr[-4_000:]
    files = {
        str(path.relative_to(home)): path.read_bytes().decode("utf-8", "replace")
        for path in home.rglob("*")
        if path.is_file() and path.suffix not in (".db", ".pyc")
    }
    for path in (home / "rejects").glob("*.parquet"):  # their pages are compressed
        files[f"{path.name} as text"] = str(pq.read_table(path).to_pylist())
    for path in (home / "manifests").rglob("*.parquet"):
        files[f"{path.parent.name}/{path.name} as rows"] = str(pq.read_table(path).to_pylist())
    return Artifacts(
        result.stdout + result.stderr, (folder / "collected.txt").read_text(), files, read_columns(home / "airflow.db")
    )


def read_columns(database: Path) -> dict[str, list[str]]:
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
    return [line for line in text.splitlines() if any(secret in line for secret in SECRETS)]


def test_every_error_class_is_covered():
    """The others are base classes, an error after which a run ends with IncompleteUpsertError, and those of an import."""
    names = {name for name, value in vars(exceptions).items() if isclass(value) and issubclass(value, Exception)}
    assert names - {case[0] for case in CASES.values()} == {
        "PineconeUpsertError",
        "BulkImportError",
        "InputError",
        "TransientError",
        "ShortCountError",
    }


@pytest.mark.parametrize("task_id", CASES)
def test_each_task_ended_with_the_expected_error(artifacts, task_id):
    assert f"{task_id} ended with {CASES[task_id][0]}\n" in artifacts.collected


def test_the_key_is_not_printed_or_logged(artifacts):
    for message in (
        "no such key: ***",
        "receive_response_headers.complete",
        "HTTP Request: POST",
        "still no time for ***",
    ):
        assert message in artifacts.printed  # the search covers the log
    # Airflow logs the secrets that task and supervisor exchange; its masking, which is off here, would hide them.
    by_airflow = ("msg=MaskSecret(", "msg=ConnectionResult(")
    lines = lines_with_the_key(artifacts.printed)
    assert [line for line in lines if not any(prefix in line for prefix in by_airflow)] == []


def test_the_key_is_not_in_errors_frames_or_reprs(artifacts):
    assert "IndexClient('http://127.0.0.1" in artifacts.collected
    assert "<Task(Collecting): " in artifacts.collected
    assert "self = <airflow_pinecone_upsert.api.http.HttpClient" in artifacts.collected
    assert lines_with_the_key(artifacts.collected) == []


def test_the_key_is_not_in_rejects_or_log_files(artifacts):
    (rejects,) = [text for name, text in artifacts.files.items() if name.endswith("as text")]
    assert "rejected for ***" in rejects
    assert [name for name, text in artifacts.files.items() if lines_with_the_key(text)] == []


def test_the_key_is_not_in_a_manifest(artifacts):
    assert any(name.startswith("manifests/reindexed/gen-") for name in artifacts.files)
    assert [text for name, text in artifacts.files.items() if name.endswith("as rows") and "'a'" in text]
    assert not any(lines_with_the_key(text) for name, text in artifacts.files.items() if "manifests/" in name)


def test_the_key_is_not_in_the_metadata_database(artifacts):
    """XComs, rendered fields, task state, logs, the serialized DAG, and the connection table, where the key is encrypted."""
    assert any("upsertedCount" in text for text in artifacts.columns["xcom.key"])
    assert any("source.parquet" in text for text in artifacts.columns["rendered_task_instance_fields.rendered_fields"])
    assert any("connection_in_database" in text for text in artifacts.columns["connection.conn_id"])
    assert artifacts.columns["connection.is_encrypted"] == ["1"]
    assert [name for name, texts in artifacts.columns.items() if any(map(lines_with_the_key, texts))] == []


def test_the_key_is_not_in_the_task_state_store(artifacts):
    if "task_state_store.value" not in artifacts.columns:
        pytest.skip("This Airflow has no task state store.")
    assert any("source.parquet" in text for text in artifacts.columns["task_state_store.value"])
    assert not any(map(lines_with_the_key, artifacts.columns["task_state_store.value"]))


@pytest.mark.parametrize("name", ["verify", "ssl_verify", "insecure", "verify_ssl", "trust_env"])
def test_no_connection_extra_disables_certificate_verification(monkeypatch, name, tls_server):
    """Unknown extras are ignored, because connections of the official provider have some."""
    connection = {"conn_type": "pinecone_upsert", "host": tls_server.url, "password": KEY, "extra": {name: False}}
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
    with pytest.raises(exceptions.SetupError, match="no certificate that is trusted here"):
        PineconeHook().describe_index_stats()
    assert tls_server.seen == []


SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()


TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))


def test_every_hostile_party_has_tests_that_exist():
    section = SECURITY.partition("## What a hostile party can and cannot do")[2].partition("\n## ")[0]
    _, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 7
    for row in rows:
        _, _, _, cannot, tests, _ = row.split("|")
        named = re.findall(r"`(test_\w+)`", tests)
        assert bool(cannot.strip()) is bool(named), row
        assert [name for name in named if f"\ndef {name}(" not in TESTS] == []


def test_every_guarantee_names_tests_that_exist():
    section = SECURITY.partition("## Guarantees")[2].partition("\n## ")[0]
    guarantees = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(guarantees) == 5
    for guarantee in guarantees:
        named = re.findall(r"`(test_\w+)`", guarantee)
        assert named, guarantee
        assert [name for name in named if f"\ndef {name}(" not in TESTS] == []
