"""Reindexing in real Airflow runs: a night after another, with a manifest in a folder or in a bucket."""

from __future__ import annotations

import json
import logging
import re
import signal
import time

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, exceptions, pinecone_asset
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.operators.retry_policy import ExceptionRetryPolicy
from airflow_pinecone_upsert.reindex.lease import Holder, Lease
from airflow_pinecone_upsert.storage import manifest_folder

from .dag_source import DAG_HEAD
from .supervised import wait_until
from .test_lineage import events_of

UPSERT = "/vectors/upsert"
NOT_BELIEVABLE = Fault.body(200, b'{"upsertedCount":999}', "application/json")
"""A count that is too high fails the try at once, and Airflow may retry it."""

TASK = """
    PineconeReindexOperator(
        task_id="reindex", parquet_paths="{source}", namespace="articles", manifest_path="{manifest}", {parameters}
    )
"""


def ids(count, start=0):
    return [f"r{number:03}" for number in range(start, start + count)]


class Nights:
    """
    One source, one namespace and one manifest, and a DAG that reindexes. Each call is a run of it.

    :param manifest: The folder of the manifest, as the DAG names it.
    """

    def __init__(self, run_dag, index, folder, manifest):
        self.index = index
        self.manifest = manifest
        self._run_dag = run_dag
        self._source = folder / "source.parquet"
        self._seen = 0

    def write(self, versions):
        """Write the source: by id, the version of its record."""
        values = [[float(version)] * 8 for version in versions.values()]
        pq.write_table(
            pa.table({"id": list(versions), "values": pa.array(values, pa.list_(pa.float32()))}), self._source
        )

    def __call__(self, versions, head=DAG_HEAD, tail="", **parameters):
        if isinstance(versions, list):
            versions = dict.fromkeys(versions, 1)
        self.write(versions)
        self._seen = len(self.index.requests)
        given = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
        task = TASK.format(source=self._source, manifest=self.manifest, parameters=given)
        return self._run_dag(head + task + tail)

    @property
    def stored(self):
        """By id, the versions in the namespace."""
        return {one.id: one.values[0] for one in self.index.vectors("articles").values()}

    def requests(self, path):
        """Return the requests of the last run."""
        return [request for request in self.index.requests[self._seen :] if request.path == path]

    @property
    def sent(self):
        """The ids that the last run has sent, repeated ones included."""
        return [one for request in self.requests(UPSERT) for one in request.ids]


@pytest.fixture
def nights(run_dag, pinecone_index, tmp_path):
    return Nights(run_dag, pinecone_index, tmp_path, tmp_path / "manifest")


def counts_of(run, *names):
    output = run.output("reindex")
    return tuple(output[f"{name}Count"] for name in names)


# Nights -----------------------------------------------------------------------------------------


def test_a_night_sends_what_changed_and_deletes_what_vanished(nights):
    run = nights(ids(100))
    assert run.state == "success"
    assert counts_of(run, "new", "changed", "unchanged", "deleted", "upserted") == (100, 0, 0, 0, 100)

    tonight = dict.fromkeys(ids(105, start=5), 1) | {"r007": 2, "r009": 2}
    run = nights(tonight)
    assert run.state == "success"
    assert counts_of(run, "new", "changed", "unchanged", "deleted", "upserted") == (10, 2, 93, 5, 12)
    assert sorted(nights.sent) == ["r007", "r009", *ids(10, start=100)]
    assert nights.stored == tonight
    output = run.output("reindex")
    assert output["deleteRequestCount"] == len(nights.requests("/vectors/delete")) == 1
    assert (output["manifestPath"], output["dryRun"]) == (str(nights.manifest), False)
    assert output["verifiedCount"] == 10 + 2 + 93 + 5
    assert 0 < output["writeUnits"] < output["writeUnitsSaved"] + 20
    assert run.output("reindex", "upsertedCount") == 12


def test_nothing_else_in_the_index_is_touched(nights):
    PineconeHook().upsert([("r000", [5.0] * 8), ("other", [5.0] * 8)], namespace="others")
    nights(ids(20))
    assert nights(ids(15)).state == "success"
    assert set(nights.index.vectors("others")) == {"r000", "other"}


def test_an_unchanged_night_writes_nothing_and_emits_an_event_with_its_counts(nights):
    nights(ids(30))
    run = nights(ids(30))
    assert counts_of(run, "unchanged", "new", "changed", "deleted", "upserted", "request") == (30, 0, 0, 0, 0, 0)
    assert nights.requests(UPSERT) == nights.requests("/vectors/delete") == []
    uri = pinecone_asset(nights.index.url, "articles").uri
    assert events_of(run) == [(uri, uri, "reindex", -1, run.output("reindex"))]


def test_a_rejected_record_is_present_and_its_old_version_stays(nights, tmp_path):
    nights(ids(30))
    run = nights(
        dict.fromkeys(ids(30), 1) | {"r003": float("nan")}, max_rejects=1, rejects_path=str(tmp_path / "rejects")
    )
    assert run.state == "success"
    assert counts_of(run, "rejected", "unchanged", "deleted") == (1, 29, 0)
    (path,) = run.output("reindex")["rejectsPaths"]
    assert pq.read_table(path)["id"].to_pylist() == ["r003"]
    assert nights.stored["r003"] == 1.0


def test_the_guard_keeps_what_vanished_until_it_is_allowed(nights, capsys):
    nights(ids(100))
    run = nights([*ids(50, start=40), "new"])
    assert run.state == "failed"
    printed = capsys.readouterr().out
    assert "50 of the 100 records of the manifest (50.0%) are missing from the source" in printed
    assert "set max_delete_fraction to at least 0.5000" in printed
    assert set(nights.stored) == {*ids(100), "new"}  # upserts are complete
    run = nights([*ids(50, start=40), "new"], max_delete_fraction=0.51)
    assert counts_of(run, "deleted", "unchanged") == (50, 51)
    assert set(nights.stored) == {*ids(50, start=40), "new"}


def test_without_delete_missing_vanished_records_stay_until_another_night(nights):
    nights(ids(30))
    assert counts_of(nights(ids(25), delete_missing=False), "deleted", "unchanged") == (0, 25)
    assert set(nights.stored) == set(ids(30))
    assert counts_of(nights(ids(25)), "deleted") == (5,)
    assert set(nights.stored) == set(ids(25))


def test_a_source_without_records_deletes_nothing(nights, capsys):
    nights(ids(5))
    assert nights([]).state == "failed"
    assert "The source has no records, and the manifest has 5" in capsys.readouterr().out
    assert set(nights.stored) == set(ids(5))


def test_full_sends_everything(nights):
    nights(ids(30))
    run = nights(ids(30), full=True)
    assert counts_of(run, "changed", "unchanged") == (30, 0)
    assert sorted(nights.sent) == ids(30)


def test_an_audit_repairs_what_differs_from_the_manifest(nights):
    nights(ids(30))
    hook = PineconeHook()
    hook.delete(ids=["r003"], namespace="articles")
    hook.upsert([("stray", [1.0] * 8)], namespace="articles")
    run = nights(ids(30), audit=True)
    assert run.state == "success"
    assert counts_of(run, "lost", "stray", "deleted", "upserted") == (1, 1, 1, 1)
    assert set(nights.stored) == set(ids(30))


def test_the_proof_finds_a_lost_record_and_the_next_run_repairs_it(nights, capsys):
    nights(ids(10))
    PineconeHook().delete(ids=["r003"], namespace="articles")
    assert nights(ids(10), verify_timeout_s=0.1).state == "failed"
    assert "'r003' (record)" in capsys.readouterr().out
    run = nights(ids(10))
    assert (run.state, nights.sent) == ("success", ["r003"])


# Dry run ----------------------------------------------------------------------------------------


def test_a_dry_run_reports_and_changes_nothing(nights, caplog, monkeypatch, tmp_path):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AIRFLOW__PINECONE_UPSERT__USD_PER_MILLION_WRITE_UNITS", "1000000")
    nights(ids(200))
    before = {path.name: path.read_bytes() for path in nights.manifest.iterdir()}
    run = nights(
        dict.fromkeys(ids(200, start=15), 1) | {"r020": 2}, dry_run=True, rejects_path=str(tmp_path / "rejects")
    )
    assert run.state == "success"
    assert counts_of(run, "new", "changed", "unchanged", "deleted", "upserted") == (15, 1, 184, 15, 0)
    output = run.output("reindex")
    assert output["dryRun"] is True
    assert {path.name: path.read_bytes() for path in nights.manifest.iterdir()} == before
    assert set(nights.stored) == set(ids(200))
    assert {request.path for request in nights.index.requests[nights._seen :]} == {"/describe_index_stats"}
    for line in (
        (
            f"The run would cost about {output['writeUnits']:,}.00 USD in write units, "
            f"and save {output['writeUnitsSaved']:,}.00 USD, at 1e+06 USD per million."
        ),
        "It would take about 0.0 minutes at the limits of its rates.",
        f"New, for example: {', '.join(map(repr, ids(10, start=200)))}.",
        "Changed, for example: 'r020'.",
        f"Deleted, for example: {', '.join(map(repr, ids(10)))}.",
    ):
        assert line in caplog.text
    assert events_of(run) == []


def test_a_dry_run_needs_no_lease(nights):
    nights(ids(5))
    Lease.acquire(manifest_folder(nights.manifest), Holder("other"), time.time())
    assert nights(ids(5), dry_run=True).state == "success"


def test_the_price_is_an_option_of_airflows_configuration(airflow_db):
    from airflow.providers.common.compat.sdk import conf

    assert conf.getfloat("pinecone_upsert", "usd_per_million_write_units", fallback=4.0) == 4.0


# The manifest -----------------------------------------------------------------------------------


def test_manifest_path_is_a_template(nights, tmp_path):
    nights.manifest = f"{tmp_path}/manifests/{{{{ dag.dag_id }}}}"
    run = nights(ids(5))
    folder = tmp_path / "manifests" / run.run.dag_id
    assert run.output("reindex")["manifestPath"] == run.rendered("reindex")["manifest_path"] == str(folder)
    assert (folder / "lease-000001.json").exists()


def test_a_manifest_of_another_target_is_refused(nights, capsys):
    nights(ids(5))
    PineconeHook().delete(delete_all=True, namespace="articles")
    run = nights(ids(5), id_column="id", metadata_column="more")
    assert run.state == "failed"
    assert "metadata_column is 'metadata' there and 'more' here" in capsys.readouterr().out
    assert nights.stored == {}


def test_a_second_run_fails_at_once_and_says_who_is_at_work(nights, capsys):
    holder = Holder("other", dag_run="manual__1", task="articles.reindex", host="worker-1", process_id=17)
    lease = Lease.acquire(manifest_folder(nights.manifest), holder, time.time())
    assert nights(ids(5)).state == "failed"
    assert "try 1 of articles.reindex in DAG run manual__1 (process 17 on worker-1)" in capsys.readouterr().out
    assert nights.stored == {}
    lease.release()
    assert nights(ids(5)).state == "success"


@pytest.mark.parametrize(("map_index", "state"), [(-1, "success"), (3, "failed")])
def test_a_try_takes_the_lease_of_the_same_task_instance_over(nights, map_index, state, caplog):
    """An upstream task leaves the lease of a first try that was killed, or that of another task instance."""
    tail = f"""
    @task
    def die(ti):
        import time
        from airflow_pinecone_upsert.reindex.lease import Holder, Lease
        from airflow_pinecone_upsert.storage import manifest_folder

        killed = Holder("1", dag_run=ti.run_id, task=f"{{ti.dag_id}}.reindex", map_index={map_index}, host="worker-1")
        Lease.acquire(manifest_folder("{nights.manifest}"), killed, time.time())

    die() >> dag.get_task("reindex")
    """
    assert nights(ids(5), tail=tail).state == state
    assert ("Taking over the lease" in caplog.text) is (state == "success")


@pytest.mark.parametrize("parameters", [{}, {"max_delete_fraction": 0.0}, {"id_column": "nope"}])
def test_the_lease_is_given_back_however_the_run_ends(nights, parameters):
    nights(ids(50))
    nights(ids(20), **parameters)
    Lease.acquire(manifest_folder(nights.manifest), Holder("other"), time.time())


def test_a_cancelled_task_gives_the_lease_back_and_the_next_try_sends_what_is_missing(
    task_processes, pinecone_index, tmp_path
):
    records = [(name, [1.0] * 8) for name in ids(100)]
    pinecone_index.faults.next(Fault.stall(0.0), times=3, path=UPSERT)
    pinecone_index.faults.next(Fault.stall(3_600), path=UPSERT)
    run = task_processes(
        f"PineconeReindexOperator(task_id='reindex', vectors={records}, manifest_path='{tmp_path}', batch_size=10, "
        "max_concurrency=1)",
        preamble="from airflow_pinecone_upsert import PineconeReindexOperator",
    )
    run.start()
    wait_until(lambda: not pinecone_index.faults.pending)
    run.signal(signal.SIGTERM)
    assert run.wait() == "up_for_retry"
    assert "The reindexing was cancelled" in run.log
    Lease.acquire(manifest_folder(tmp_path), Holder("other"), time.time()).release()
    sent_before = len(pinecone_index.requests)
    assert run.try_once() == "success"
    sent = [one for request in pinecone_index.requests[sent_before:] for one in request.ids if request.path == UPSERT]
    assert sorted(sent) == ids(70, start=30)
    assert set(pinecone_index.vectors()) == set(ids(100))


@pytest.mark.slow
def test_the_lease_is_renewed_although_nothing_is_sent(nights, tmp_path):
    """On a night without changes the sender waits for the next request all the time."""
    records = [(name, [1.0] * 8) for name in ids(900)]
    PineconeHook().reindex(records, manifest_path=tmp_path, verify_sample=0)

    def expires_s():
        (lease,) = tmp_path.glob("lease-*.json")
        return json.loads(lease.read_text())["expires_s"]

    def night():
        first, deadline_s = expires_s(), time.monotonic() + 60
        while expires_s() == first:
            assert time.monotonic() < deadline_s
            yield records
            time.sleep(0.05)

    report = PineconeHook().reindex(night(), manifest_path=tmp_path, verify_sample=0)
    assert (report.counts.requests, report.counts.deleted) == (0, 0)


def test_outside_of_a_run_the_lease_names_the_process(nights, pinecone_index):
    seen = []

    def records():
        folder = manifest_folder(nights.manifest)
        with pytest.raises(exceptions.ManifestInUseError) as caught:
            Lease.acquire(folder, Holder("other"), time.time())
        seen.append(str(caught.value))
        yield ("a", [1.0] * 8)

    report = PineconeHook().reindex(records(), manifest_path=nights.manifest, namespace="articles")
    assert report.counts.new == 1
    (message,) = seen
    assert re.search(r": process \d+ on ", message)


@pytest.mark.skipif(ExceptionRetryPolicy is None, reason="before Airflow 3.3, dag.test() does not retry")
def test_a_retry_sends_only_what_is_missing(nights):
    for fault in (Fault.stall(0.0), Fault.stall(0.0), NOT_BELIEVABLE):
        nights.index.faults.next(fault, path=UPSERT)
    run = nights(ids(50), batch_size=10, max_concurrency=1, retries=1, retry_delay=0.0)
    assert run.state == "success"
    assert nights.stored == dict.fromkeys(ids(50), 1)
    assert len(nights.sent) == 50 + 10  # those of the request whose response was not believable
    assert counts_of(run, "unchanged", "upserted") == (20, 30)


@pytest.fixture
def bucket(s3, monkeypatch):
    """Create a bucket, and the Airflow connection `aws_nights`: Airflow keeps a file system for each connection of a process."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_NIGHTS",
        f'{{"conn_type": "aws", "login": "k", "password": "s", "extra": {{"endpoint_url": "{s3}", "region_name": "us-east-1"}}}}',
    )
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket="manifests")
    yield client
    for item in client.list_objects_v2(Bucket="manifests").get("Contents", []):
        client.delete_object(Bucket="manifests", Key=item["Key"])
    client.delete_bucket(Bucket="manifests")


def test_a_manifest_in_object_storage(nights, bucket):
    nights.manifest = "s3://aws_nights@manifests/articles"
    nights(ids(20))
    run = nights(ids(20, start=3))
    assert counts_of(run, "new", "unchanged", "deleted") == (3, 17, 3)
    assert run.output("reindex")["manifestPath"] == "s3://manifests/articles"
    names = [item["Key"] for item in bucket.list_objects_v2(Bucket="manifests")["Contents"]]
    assert any(name.startswith("articles/gen-") for name in names)


@pytest.mark.parametrize("pattern", ["{0}", "{0}/*.parquet", "{1}/*/*.parquet"])
def test_a_manifest_inside_of_the_source_is_refused(tmp_path, pinecone_index, monkeypatch, pattern):
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    pq.write_table(pa.table({"id": ["a"], "values": [np.ones(8, np.float32)]}), tmp_path / "a.parquet")
    task = PineconeReindexOperator(
        task_id="reindex", parquet_paths=pattern.format(tmp_path, tmp_path.parent), manifest_path=str(tmp_path)
    )
    with pytest.raises(exceptions.SetupError, match=r"manifest_path .* is inside of parquet_paths"):
        task.execute({})


# Other ways to say it ---------------------------------------------------------------------------


def test_the_decorator_reindexes_what_a_function_yields(run_dag, pinecone_index, tmp_path):
    source = """
    @task.pinecone_reindex(namespace="articles", manifest_path="{manifest}", max_delete_fraction=1.0)
    def embed():
        for number in range({count}):
            yield {{"id": f"r{{number}}", "values": [1.0] * 8}}

    embed()
"""
    for count, deleted in ((30, 0), (10, 20)):
        run = run_dag(DAG_HEAD + source.format(manifest=f"{tmp_path}/{{{{ dag.dag_id }}}}", count=count))
        assert run.state == "success"
        assert run.output("embed")["deletedCount"] == deleted
        assert len(pinecone_index.vectors("articles")) == count
    assert run.output("embed")["manifestPath"] == f"{tmp_path}/{run.run.dag_id}"


def test_the_decorator_takes_no_other_source():
    from airflow.sdk import task

    with pytest.raises(ValueError, match=r"@task.pinecone_reindex takes neither vectors nor parquet_paths"):
        task.pinecone_reindex(vectors=[], manifest_path="x")(lambda: None)()


def test_the_hook_reindexes(run_dag, pinecone_index, tmp_path):
    task = f"""
    @task
    def reindex():
        from airflow_pinecone_upsert import PineconeHook

        hook = PineconeHook()
        hook.reindex([("a", [1.0] * 8), ("b", [1.0] * 8)], namespace="n", manifest_path="{tmp_path}/manifest")
        report = hook.reindex([("b", [1.0] * 8)], namespace="n", manifest_path="{tmp_path}/manifest")
        return report.as_output()

    reindex()
"""
    run = run_dag(DAG_HEAD + task)
    assert run.state == "success"
    assert counts_of(run, "deleted", "unchanged") == (1, 1)
    assert set(pinecone_index.vectors("n")) == {"b"}


def test_each_mapped_task_has_its_own_manifest(run_dag, pinecone_index, tmp_path):
    task = f"""
    PineconeReindexOperator.partial(task_id="reindex").expand_kwargs(
        [{{"vectors": [(name, [1.0] * 8)], "namespace": name, "manifest_path": "{tmp_path}/" + name}} for name in "ab"]
    )
"""
    for count in (1, 0):
        run = run_dag(DAG_HEAD + task)
        assert run.state == "success"
        assert [run.output("reindex", map_index=number)["newCount"] for number in (0, 1)] == [count, count]
    assert [set(pinecone_index.vectors(name)) for name in "ab"] == [{"a"}, {"b"}]


def test_upstream_vectors_are_reindexed(run_dag, pinecone_index, tmp_path):
    task = f"""
    @task
    def embed():
        return [["a", [1.0] * 8]]

    PineconeReindexOperator(task_id="reindex", vectors=embed(), namespace="n", manifest_path="{tmp_path}/manifest")
"""
    run = run_dag(DAG_HEAD + task)
    assert run.state == "success"
    assert run.rendered("reindex")["vectors"] == "<1 vectors>"


def test_the_progress_is_shown_in_the_tasks_state(nights):
    store = pytest.importorskip("airflow.models.task_state_store", reason="the task state store needs Airflow 3.3")
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = nights(ids(30))
    with create_session() as session:
        model = store.TaskStateStoreModel
        keys = session.scalars(select(model.key).where(model.dag_id == run.run.dag_id)).all()
    assert keys == ["progress"]  # the manifest is the checkpoint


def test_a_missing_package_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(exceptions.SetupError, match=r"pip install 'airflow-pinecone-upsert\[reindex\]'"):
        PineconeHook().reindex_options("n")


def test_invalid_options_are_named(pinecone_index, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    with pytest.raises(exceptions.SetupError, match=r"max_delete_fraction: .* \(found 3\); verify_sample"):
        PineconeHook().reindex_options("n", max_delete_fraction=3, verify_sample=-1)
