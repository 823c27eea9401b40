"""The table in ``docs/troubleshooting.md``: each row is reproduced, and the task behaves and logs as the row says."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import (
    PineconeBulkImportOperator,
    PineconeDeleteOperator,
    PineconeHook,
    PineconeReindexOperator,
    PineconeSwapNamespaceOperator,
    PineconeUpsertOperator,
    exceptions,
)
from airflow_pinecone_upsert.api import backoff
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.hooks.reindexing import target_of
from airflow_pinecone_upsert.reindex.lease import Holder, Lease
from airflow_pinecone_upsert.reindex.manifest import Manifest, new_run_id
from airflow_pinecone_upsert.storage import manifest_folder
from tests.state_store import InMemoryStateStore

from .readme import page_text, table

ROWS = [
    [failure, behaviour.strip("*"), re.findall(r"`([^`]+)`", messages), remedy]
    for failure, behaviour, messages, remedy in table(page_text("troubleshooting.md"), "Problems")
]
STATS = "/describe_index_stats"
UPSERT = "/vectors/upsert"
GOOD = [("a", [1.0] * 8), ("b", [2.0] * 8)]
BAD = [("a", [1.0] * 8), ("b", [1.0] * 7), ("c", [3.0] * 8)]


@dataclass
class Environment:
    """
    What a scenario uses: an index, a connection to it, and one task.

    :param folder: Where files are written.
    """

    index: EmulatedIndex
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    def connect(self, **fields: Any) -> None:
        """Set fields of the connection."""
        connection = {"conn_type": "pinecone_upsert", "host": self.index.url, "password": self.index.api_key} | fields
        self.monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))

    def fault(self, fault: Fault, path: str = UPSERT, times: int = 1) -> None:
        self.index.faults.next(fault, path=path, times=times)

    def write(self, **columns: Any) -> str:
        columns = {"id": ["a", "b"], "values": [np.ones(8, np.float32)] * 2} | columns
        pq.write_table(pa.table(columns), self.folder / "records.parquet")
        return str(self.folder / "records.parquet")

    def task(self, **parameters: Any) -> PineconeUpsertOperator:
        if "parquet_paths" not in parameters:
            parameters.setdefault("vectors", GOOD)
        return PineconeUpsertOperator(task_id="upsert", **parameters)

    def run(self, context: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
        return self.task(**parameters).execute(context or {})


Scenario = Callable[[Environment], Any]
SCENARIOS: dict[str, list[Scenario]] = {}


def row(*cells: str) -> Callable[[Scenario], Scenario]:
    """
    Register the scenario of a row of the table.

    :param cells: First columns of the rows. If rows have the same first column, their scenarios are in the same order.
    """

    def register(scenario: Scenario) -> Scenario:
        for cell in cells:
            SCENARIOS.setdefault(cell, []).append(scenario)
        return scenario

    return register


# Set-up -----------------------------------------------------------------------------------------


@row("Both `parquet_paths` and `vectors` are set, or neither")
def _(env):
    env.task(vectors=[], parquet_paths="x")


@row("A parameter is out of range")
def _(env):
    env.run(batch_size=2_000)


CONNECTIONS: dict[str, dict[str, Any]] = {
    "The connection has no key": {"password": ""},
    "The connection names no index": {"host": ""},
    "An extra of the connection is invalid": {"extra": {"timeout_s": "soon"}},
    "The index host is invalid": {"host": "https://a.pinecone.io/vectors/upsert"},
    "The index host uses plain http and is not on this machine": {"host": "http://index.example.com"},
    "The proxy is not a URL": {"host": "a.pinecone.io", "extra": {"proxy": "nonsense"}},
    "The key is wrong": {"password": "another-key"},
}
"""The rows that need nothing but other fields of the connection."""


def _run_with(fields: dict[str, Any]) -> Scenario:
    def scenario(env: Environment) -> None:
        env.connect(**fields)
        env.run()

    return scenario


for cell, fields in CONNECTIONS.items():
    row(cell)(_run_with(fields))


@row("The connection does not exist")
def _(env):
    env.monkeypatch.delenv("AIRFLOW_CONN_PINECONE_DEFAULT")
    env.run()


@row("A template renders `index_host` to a host that is not Pinecone's")
def _(env):
    task = env.task(index_host="{{ params.host }}")
    task.render_template_fields({"params": {"host": "https://example.com"}})
    task.execute({})


@row("The host's certificate is not trusted")
def _(env):
    env.connect(host=env.request.getfixturevalue("tls_server").url)
    env.run()


@row("The CA bundle is missing")
def _(env):
    env.connect(host="a.pinecone.io", extra={"ca_bundle": str(env.folder / "nowhere.pem")})
    env.run()


@row("The server redirects")
def _(env):
    env.fault(Fault.status(307, "elsewhere", headers={"Location": env.index.url}), STATS)
    env.run()


@row("The key may write but not read")
def _(env):
    env.fault(Fault.status(403, "forbidden"), STATS)
    return env.run()


@row("The index does not exist")
def _(env):
    env.connect(host="", extra={"index_name": "nope", "control_plane_url": env.index.url})
    env.run()


@row("The index holds documents")
def _(env):
    env.fault(
        Fault.status(400, "This index has a document schema, so writes must go through the documents API"), UPSERT
    )
    env.run()


@row("The namespace is an alias")
def _(env):
    hook = PineconeHook()
    hook.upsert(GOOD, namespace="articles-1")
    hook.create_alias("articles", "articles-1")
    env.run(namespace="articles")


@row("A quota of the plan is used up")
def _(env):
    env.fault(Fault.status(429, "You've reached your write unit limit for the current month (2000000)."))
    env.run()


@row("No response: DNS, firewall, proxy, timeout")
def _(env):
    env.index.close()
    env.run()


@row("The response is not from Pinecone")
def _(env):
    env.fault(Fault.body(200, b"<html>Sign in</html>", "text/html"), STATS)
    env.run()


# Input ------------------------------------------------------------------------------------------


@row("The scheme of a path is unknown")
def _(env):
    env.run(parquet_paths="unknown-scheme://bucket/a.parquet")


@row("No file matches a path")
def _(env):
    env.run(parquet_paths=f"{env.folder}/*.parquet")


def silent_s3(env):
    """Add the connection `aws_silent`, to a storage that does not respond."""
    extra = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
    }
    connection = {"conn_type": "aws", "login": "k", "password": "s", "extra": extra}
    env.monkeypatch.setenv("AIRFLOW_CONN_AWS_SILENT", json.dumps(connection))


@row("The storage of a file does not respond")
def _(env):
    silent_s3(env)
    env.run(parquet_paths="s3://aws_silent@embeddings/a.parquet")


@row("A file is not Parquet")
def _(env):
    (env.folder / "a.parquet").write_text("id,values")
    env.run(parquet_paths=str(env.folder))


@row("A file is corrupt")
def _(env):
    path = env.folder / "a.parquet"
    table = pa.table({"id": ["a", "b"], "values": [np.arange(8, dtype=np.float32)] * 2})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(np.float32(5).tobytes(), np.float32(6).tobytes(), 1))
    env.run(parquet_paths=str(path))


@row("A file has no page checksums to verify")
def _(env):
    return env.run(parquet_paths=env.write())


@row("A page of a file is larger than 128 MB")
def _(env):
    count = 3_300
    metadata = ['{"text": "' + "x" * 40_000 + '"}'] * count
    columns = {"id": pa.array(range(count)), "values": [np.ones(8, np.float32)] * count, "metadata": metadata}
    options = {"compression": "zstd", "use_dictionary": False, "data_page_size": 2**31 - 1}
    pq.write_table(pa.table(columns), env.folder / "a.parquet", **options)
    env.run(parquet_paths=str(env.folder))


@row("A column is missing")
def _(env):
    env.run(parquet_paths=env.write(), id_column="sku")


@row("A column has an unsupported type")
def _(env):
    env.run(parquet_paths=env.write(values=["[1, 2]", "[1, 2]"]))


@row("There is no column of metadata, but other columns")
def _(env):
    return env.run(parquet_paths=env.write(title=["x", "y"]))


@row("The XCom does not contain records")
def _(env):
    env.run(vectors="a.parquet")


@row("A record is invalid")
def _(env):
    try:
        env.run(vectors=BAD)
    finally:
        assert env.index.vectors() == {}  # no record of its chunk was sent


@row("… and `max_rejects` allows it")
def _(env):
    output = env.run(vectors=BAD, max_rejects=1, rejects_path=str(env.folder))
    (path,) = output["rejectsPaths"]
    assert pq.read_table(path)["id"].to_pylist() == ["b"]
    return output


@row("… but there are more than `max_rejects`")
def _(env):
    env.run(vectors=[*BAD, ("d", [])], max_rejects=1)


@row("The server rejects a record")
def _(env):
    env.fault(Fault.status(400, "no such thing"), times=2)
    env.run(max_concurrency=1)


@row("… and `max_rejects` allows it")
def _(env):
    env.fault(Fault.status(400, "no such thing"), times=2)
    output = env.run(max_concurrency=1, max_rejects=1, rejects_path=str(env.folder))
    (path,) = output["rejectsPaths"]
    assert len(pq.read_table(path)) == 1
    return output


@row("… and rejects all the others, too")
def _(env):
    env.fault(Fault.status(400, "no such thing"), times=3)
    env.run(max_concurrency=1, max_rejects=None)


@row("`rejects_path` is inside of `parquet_paths`")
def _(env):
    env.write()
    env.run(parquet_paths=str(env.folder), rejects_path=str(env.folder))


@row("Rejected records cannot be written")
def _(env):
    (env.folder / "file").write_text("")
    env.run(vectors=BAD, max_rejects=1, rejects_path=str(env.folder / "file" / "folder"))


# The server -------------------------------------------------------------------------------------


@row("A request is too large for the server")
def _(env):
    env.fault(Fault.body(413, b""))
    return env.run()


@row("429: too many requests or bytes")
def _(env):
    env.fault(Fault.status(429, headers={"Retry-After": "0"}))
    return env.run()


@row("408, 5xx, timeout, connection reset")
def _(env):
    for fault in (Fault.status(408), Fault.status(503), Fault.reset(), Fault.lost_ack()):
        env.fault(fault)
    output = env.run()
    assert output["retryCount"] == 4
    return output


@row("… ten times")
def _(env):
    env.fault(Fault.status(503), times=10)
    try:
        env.run()
    finally:
        assert len([request for request in env.index.requests if request.path == UPSERT]) == 10


@row("The server confirms fewer records than were sent")
def _(env):
    env.fault(Fault.short_count(1))
    return env.run()


@row("… and keeps doing so")
def _(env):
    env.fault(Fault.short_count(1), times=10)
    env.run()


def bulk_import(env, ids=("a", "b"), vectors=((1.0,) * 8, (2.0,) * 8), **parameters):
    (env.folder / "n").mkdir(exist_ok=True)
    columns = {"id": list(ids), "values": [np.array(vector, np.float32) for vector in vectors]}
    pq.write_table(pa.table(columns), env.folder / "n" / "0.parquet")
    return PineconeBulkImportOperator(task_id="import", uri=str(env.folder), **parameters).execute({})


@row("Pinecone would reject the files of a bulk import")
def _(env):
    bulk_import(env, ids=(1, 2))


@row("The namespaces of a bulk import exist")
def _(env):
    bulk_import(env)
    bulk_import(env)


@row("A bulk import drops records")
def _(env):
    bulk_import(env, vectors=[(1.0,) * 8] * 2, error_mode="continue")


@row("The records are not searchable in time, with `wait_until_searchable`")
def _(env):
    env.index = env.request.getfixturevalue("pinecone_index_factory")(8, lag_s=math.inf)
    env.connect()
    env.run(wait_until_searchable=True, searchable_timeout_s=0.01)


# The run ----------------------------------------------------------------------------------------


@row("The task is stopped: marked, timed out, worker shut down")
def _(env):
    env.fault(Fault.stall(0.2))
    task = env.task(batch_size=1, max_concurrency=1)

    finished = threading.Event()

    def cancel_when_a_request_is_in_flight():
        while env.index.faults.pending and not finished.wait(0.01):
            pass
        task.on_kill()

    thread = threading.Thread(target=cancel_when_a_request_is_in_flight)
    thread.start()
    try:
        task.execute({})
    finally:
        finished.set()
        thread.join()


@row("Airflow retries a failed task")
def _(env):
    pytest.importorskip("airflow.models.task_state_store", reason="Before Airflow 3.3 a retry starts at the first row.")
    path = env.write()
    env.fault(Fault.stall(0.0))
    env.fault(Fault.short_count(0), times=10)
    run = env.request.getfixturevalue("run_dag")(
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


@row("`durable` is set, and Airflow is older than 3.3")
def _(env):
    return env.run(parquet_paths=env.write())


def fail_after_one_record(env):
    """Let a try fail that leaves a checkpoint; return the state store and the task's parameters."""
    store = InMemoryStateStore()
    parameters = {"parquet_paths": env.write(), "batch_size": 1, "max_concurrency": 1}
    env.fault(Fault.stall(0.0))
    env.fault(Fault.short_count(0), times=10)
    with pytest.raises(exceptions.IncompleteUpsertError):
        env.run({"task_state_store": store}, **parameters)
    assert "resume" in store
    return store, parameters


@row("The files changed since the failed try")
def _(env):
    store, parameters = fail_after_one_record(env)
    env.write(id=["another a", "b"])
    output = env.run({"task_state_store": store}, **parameters)
    assert output["upsertedCount"] == 2
    return output


@row("The namespace was emptied since the failed try")
def _(env):
    store, parameters = fail_after_one_record(env)
    PineconeHook().delete(delete_all=True)
    output = env.run({"task_state_store": store}, **parameters)
    assert output["upsertedCount"] == 2
    assert len(env.index.vectors()) == 2
    return output


@row("The storage of a file reports no version")
def _(env):
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem  # it has neither an ETag nor a modification time

    attach("memory", fs=MemoryFileSystem())
    with MemoryFileSystem().open("/no-version.parquet", "wb") as file:
        pq.write_table(pa.table({"id": ["a", "b"], "values": [np.ones(8, np.float32)] * 2}), file)
    return env.run({"task_state_store": InMemoryStateStore()}, parquet_paths="memory:///no-version.parquet")


@row("The checkpoint cannot be saved")
def _(env):
    class BrokenStore(InMemoryStateStore):
        def set(self, *_):
            raise OSError("the database is away")

    return env.run({"task_state_store": BrokenStore()}, parquet_paths=env.write())


@row("There are no records")
def _(env):
    return env.run(vectors=[])


# Deletions --------------------------------------------------------------------------------------


def fail_to_delete(**parameters):
    PineconeHook().upsert([("a", [1.0] * 8, {"n": 1}), ("b", [1.0] * 8, {"n": 1})])
    PineconeDeleteOperator(task_id="delete", max_deletes=1, **parameters).execute({})


@row("More would be deleted than `max_deletes` allows")
def _(env):
    fail_to_delete(ids=["a", "b"])


@row("… or the server does not count what a filter matches")
def _(env):
    env.fault(Fault.body(200, b"{}", "application/json"), "/vectors/update")
    fail_to_delete(filter={"n": 1})


# Reindexing --------------------------------------------------------------------------------------


def reindex(env, vectors=GOOD, **parameters):
    parameters = {"namespace": "n", "manifest_path": str(env.folder / "manifest"), "verify_timeout_s": 0} | parameters
    if "parquet_paths" not in parameters:
        parameters["vectors"] = vectors
    return PineconeReindexOperator(task_id="reindex", **parameters).execute({})


@row("Reindexing, and the package xxhash is missing")
def _(env):
    env.monkeypatch.setitem(sys.modules, "xxhash", None)
    reindex(env)


@row("`manifest_path` is inside of `parquet_paths`")
def _(env):
    env.write()
    reindex(env, parquet_paths=str(env.folder), manifest_path=str(env.folder))


@row("The manifest is of another index, namespace or columns")
def _(env):
    reindex(env)
    reindex(env, namespace="another")


@row("The manifest is damaged")
def _(env):
    reindex(env)
    (base,) = (env.folder / "manifest").glob("base-*")
    base.write_bytes(b"PAR1")
    reindex(env)


@row("The manifest's storage does not respond")
def _(env):
    silent_s3(env)
    reindex(env, manifest_path="s3://aws_silent@manifests/articles")


@row("The manifest's digests are of another version")
def _(env):
    options = PineconeHook().reindex_options("n")
    target = replace(target_of(env.index.url, options), digest_version=0)
    earlier = Manifest.open(manifest_folder(env.folder / "manifest"), target, new_run_id())
    earlier.append(["a", "b"], [b"of another form."] * 2, [33, 33])
    earlier.flush()
    output = reindex(env)
    assert output["upsertedCount"] == 2
    return output


@row("Another run writes to the manifest")
def _(env):
    holder = Holder("1", dag_run="manual__1", task="articles.reindex")
    Lease.acquire(manifest_folder(env.folder / "manifest"), holder, time.time())
    reindex(env)


@row("… and it was an earlier try of the same task")
def _(env):
    run = env.request.getfixturevalue("run_dag")(
        f"""
        import time
        from pathlib import Path

        from airflow.sdk import DAG, task
        from airflow_pinecone_upsert import PineconeReindexOperator

        with DAG(Path(__file__).stem, schedule=None) as dag:
            @task
            def be_killed(ti):
                from airflow_pinecone_upsert.reindex.lease import Holder, Lease
                from airflow_pinecone_upsert.storage import manifest_folder

                killed = Holder("1", dag_run=ti.run_id, task=f"{{ti.dag_id}}.reindex")
                Lease.acquire(manifest_folder("{env.folder}/manifest"), killed, time.time())

            be_killed() >> PineconeReindexOperator(
                task_id="reindex", vectors={GOOD}, manifest_path="{env.folder}/manifest"
            )
        """
    )
    return run.output("reindex")


@row("Too much vanished from the source")
def _(env):
    reindex(env, [(str(number), [1.0] * 8) for number in range(20)])
    try:
        reindex(env)
    finally:
        assert len(env.index.vectors("n")) == 22


@row("Reindexing, and the source has no records")
def _(env):
    reindex(env)
    try:
        reindex(env, [])
    finally:
        assert len(env.index.vectors("n")) == 2


@row("The namespace does not hold what Pinecone confirmed")
def _(env):
    reindex(env)
    PineconeHook().delete(ids=["a"], namespace="n")
    try:
        reindex(env)
    finally:
        assert reindex(env)["upsertedCount"] == 1


# Swaps ------------------------------------------------------------------------------------------


def swap_to(target, **parameters):
    PineconeHook().upsert(GOOD, namespace="articles-1")
    PineconeSwapNamespaceOperator(task_id="swap", alias="articles", target_namespace=target, **parameters).execute({})


@row("The namespace that an alias is to point to does not exist")
def _(env):
    swap_to("articles-2")


@row("… or holds too few records")
def _(env):
    swap_to("articles-1", min_records=3)


@row("… or is not searchable in time")
def _(env):
    swap_to("articles-1", lsn=1_000_000, searchable_timeout_s=0.1)


# The check --------------------------------------------------------------------------------------

NUMBERED = [(cells, [row[0] for row in ROWS[:number]].count(cells[0])) for number, cells in enumerate(ROWS)]


@pytest.fixture
def env(airflow_db, pinecone_index, tmp_path, monkeypatch, request) -> Environment:
    monkeypatch.setattr(backoff, "BACKOFF_BASE_S", 0.0)  # retries do not wait
    env = Environment(pinecone_index, tmp_path, monkeypatch, request)
    env.connect()
    return env


def test_every_row_has_a_scenario_and_every_scenario_a_row():
    assert [cells[0] for cells in ROWS if cells[0] not in SCENARIOS] == []
    assert {name: len(scenarios) for name, scenarios in SCENARIOS.items()} == {
        name: [cells[0] for cells in ROWS].count(name) for name in SCENARIOS
    }


@pytest.mark.parametrize(("cells", "occurrence"), NUMBERED, ids=[cells[0] for cells in ROWS])
def test_the_task_behaves_as_the_row_says(cells, occurrence, env, caplog, capsys):
    failure, behaviour, phrases, remedy = cells
    caplog.set_level(logging.INFO)
    output, error = None, None
    try:
        output = SCENARIOS[failure][occurrence](env)
    except Exception as exc:  # noqa: BLE001 - its class is checked below
        error = exc
    messages = caplog.text + capsys.readouterr().out + str(error)
    assert phrases
    assert [phrase for phrase in phrases if phrase not in messages] == []
    assert remedy.endswith(".")
    assert_it_does(behaviour, output, error)


def assert_it_does(does: str, output: dict[str, Any] | None, error: Exception | None) -> None:
    match does:
        case "does not load":
            assert isinstance(error, ValueError)
        case "fails now":
            assert isinstance(error, (exceptions.SetupError, exceptions.InputError))
        case "fails":
            assert isinstance(error, exceptions.PineconeUpsertError)
            assert not isinstance(error, (exceptions.SetupError, exceptions.InputError))
        case "retries":
            assert output["retryCount"] > 0
            assert output["upsertedCount"] == 2
        case "rejects":
            assert output["rejectedCount"] == 1
            assert output["upsertedCount"] > 0
        case "resumes":
            assert output["resumedCount"] == 1
            assert output["upsertedCount"] == 2
        case "continues":
            assert error is None
            assert output["retryCount"] == output["rejectedCount"] == output["resumedCount"] == 0
        case _:
            pytest.fail(f"{does!r} is not something that a task does.")
