"""Deletions over real HTTP: what is selected, the guard, what is gone already, faults, and memory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_DELETED_IDS_PER_SECOND, MAX_IDS_PER_DELETE
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.delete.run import delete
from airflow_pinecone_upsert.pipeline.delete.selection import AllRecords, IdsInFiles, IdsInMemory, MatchingRecords
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from tests.pipeline.send.simulated_transport import SimulatedTransport

ROOT = Path(__file__).parents[3]
DELETE = "/vectors/delete"


@pytest.fixture
def client(index, open_client, run, rows):
    """Open a client of an index with ten records, ``r0`` to ``r9``, and as many in another namespace."""
    for namespace in ("", "other"):
        run(index, [{**record, "metadata": {"n": n}} for n, record in enumerate(rows(10))], namespace=namespace)
    return open_client(index.url)


def ids_in(path, column="id"):
    files = find_parquet_files(LocalFileSystem(), str(path))
    return IdsInFiles(ParquetSource(files, Columns(id_column=column), ids_only=True))


def deletes(index):
    return [request for request in index.requests if request.path == DELETE]


def remaining(index, namespace=""):
    return sorted(index.vectors(namespace))


# What is selected -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.binary()], ids=str
)
def test_ids_in_a_column_of_files_are_deleted(index, client, write, kind):
    ids = ["r1", "r3", "unknown"]
    path = write(
        {
            "withdrawn": pa.array([one.encode() for one in ids] if kind == pa.binary() else ids, kind),
            "values": ["x"] * 3,
        }
    )
    report = delete(ids_in(path.parent, "withdrawn"), client)
    assert remaining(index) == [f"r{n}" for n in range(10) if n not in (1, 3)]
    assert remaining(index, "other") == [f"r{n}" for n in range(10)]
    assert report.as_output() | {"durationSeconds": 0, "requestBytes": 0} == {
        "deletedCount": 3,
        "requestCount": 1,
        "requestBytes": 0,
        "retryCount": 0,
        "throttledCount": 0,
        "durationSeconds": 0,
        "lsn": index.store.lsn,
        "dryRun": False,
        "namespace": "",
        "indexHost": index.url,
    }


@pytest.mark.parametrize(
    "ids",
    [["r1", "r3"], ("r1", "r3"), [["r1"], ["r3"]], [[["r1"], "r3"]], np.array(["r1", "r3"]), {"r1": 0, "r3": 0}.keys()],
    ids=repr,
)
def test_ids_in_memory_are_deleted(index, client, ids):
    assert delete(IdsInMemory(ids), client, "other").deleted_count == 2
    assert remaining(index, "other") == [f"r{n}" for n in range(10) if n not in (1, 3)]


def test_ids_of_every_type_are_sent_as_text(index, client):
    uuid = UUID(int=7)
    delete(IdsInMemory([12, 7.0, uuid, b"bytes", np.int64(3)]), client)
    assert list(deletes(index)[0].ids) == ["12", "7", str(uuid), "bytes", "3"]


def test_a_thousand_ids_are_in_a_request(index, client):
    report = delete(IdsInMemory([f"u{n}" for n in range(2_001)]), client)
    assert sorted(request.record_count for request in deletes(index)) == [1, 1_000, 1_000]
    assert (report.deleted_count, report.counts.requests) == (2_001, 3)


@given(lengths=st.lists(st.integers(0, 2_500), max_size=4))
def test_requests_contain_every_id_once_in_order(lengths):
    lists = [[f"{number}-{row}" for row in range(length)] for number, length in enumerate(lengths)]
    requests = list(IdsInMemory(lists).requests("n"))
    assert [one for request in requests for one in orjson.loads(request.body)["ids"]] == [
        one for part in lists for one in part
    ]
    assert all(len(request) == MAX_IDS_PER_DELETE for request in requests[:-1])


def test_a_filter_is_one_request_and_counted_first(index, client):
    report = delete(MatchingRecords({"n": {"$gte": 4}}), client, "other")
    assert (report.deleted_count, report.counts.requests) == (6, 1)
    assert remaining(index, "other") == ["r0", "r1", "r2", "r3"]
    count = next(request for request in index.requests if request.path == "/vectors/update")
    assert count.headers["x-pinecone-api-version"] == "2025-10"


def test_all_records_of_a_namespace_are_deleted(index, client):
    assert delete(AllRecords(), client, "other").deleted_count == 10
    assert (remaining(index, "other"), len(remaining(index))) == ([], 10)


def test_nothing_is_deleted_where_there_are_no_ids(index, client, write):
    assert delete(ids_in(write({"id": pa.array([], pa.string())})), client).deleted_count == 0
    assert delete(IdsInMemory([]), client).deleted_count == 0
    assert deletes(index) == []


@pytest.mark.parametrize("ids", ["r1", b"r1", None, 7, {"r1": 1}])
def test_what_is_not_a_list_is_not_taken_for_ids(ids):
    with pytest.raises(exceptions.SourceError, match="not a list of ids"):
        IdsInMemory(ids)


@pytest.mark.parametrize("expression", [{}, None, "n > 3", []])
def test_an_empty_filter_does_not_delete_everything(expression):
    with pytest.raises(exceptions.SetupError, match="to delete all records, set delete_all"):
        MatchingRecords(expression)


@pytest.mark.parametrize(
    "value", [None, "", "ü", "a\0", "x" * 513, 1.5, True, object(), {"id": "a"}], ids=lambda value: repr(value)[:20]
)
def test_an_id_that_cannot_be_one_is_named_with_its_row(index, client, value):
    with pytest.raises(exceptions.RecordError, match=r"XCom, row 1001 \(counted from 0\)") as caught:
        delete(IdsInMemory([*(f"u{n}" for n in range(1_001)), value]), client)
    assert caught.value.field == "id"
    assert sum(request.record_count for request in deletes(index)) <= MAX_IDS_PER_DELETE


def test_an_id_of_a_file_that_cannot_be_one_is_named_with_its_row(index, client, write):
    path = write({"id": ["r0", None]})
    with pytest.raises(exceptions.RecordError, match="the id is missing") as caught:
        delete(ids_in(path), client)
    assert (caught.value.origin, caught.value.row) == (str(path), 1)
    assert len(remaining(index)) == 10


@pytest.mark.parametrize("read", [delete, lambda ids, client: delete(ids, client, max_deletes=9)])
def test_a_file_without_the_column_or_that_is_not_parquet_is_named(client, write, tmp_path, read):
    with pytest.raises(exceptions.SourceError, match=r"has no column 'id'\. Set id_column"):
        delete(ids_in(write({"sku": ["a"]})), client)
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(exceptions.SourceError, match=r"bad\.parquet cannot be read as Parquet"):
        read(ids_in(tmp_path / "bad.parquet"), client)


# The guard --------------------------------------------------------------------------------------


def six_ids_in_files(write):
    """Write three files, one of them empty, with repeated ids."""
    for name, ids in {"a": ["r0"] * 3, "b": ["r1", "r2", "r3"], "c": []}.items():
        path = write({"id": pa.array(ids, pa.string())}, f"{name}.parquet")
    return ids_in(path.parent)


SELECTIONS = {
    "ids": lambda _: IdsInMemory([f"r{n}" for n in range(6)]),
    "files": six_ids_in_files,
    "filter": lambda _: MatchingRecords({"n": {"$lt": 6}}),
    "all": lambda _: AllRecords(),
}


@pytest.mark.parametrize("kind", SELECTIONS)
def test_nothing_is_deleted_beyond_max_deletes(index, client, write, kind):
    count = 10 if kind == "all" else 6
    selected = SELECTIONS[kind](write)
    with pytest.raises(
        exceptions.SetupError,
        match=f"{count} records of namespace '' would be deleted .*set max_deletes to at least {count}",
    ):
        delete(selected, client, max_deletes=count - 1)
    assert deletes(index) == []
    assert delete(selected, client, max_deletes=count).deleted_count == count


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_dry_run_counts_and_deletes_nothing(index, client, write, kind):
    report = delete(SELECTIONS[kind](write), client, dry_run=True)
    assert (report.deleted_count, report.is_dry_run, report.counts.requests) == (10 if kind == "all" else 6, True, 0)
    assert deletes(index) == []
    assert "would delete" in str(report)


def test_a_dry_run_finds_an_id_that_cannot_be_one(client, write):
    with pytest.raises(exceptions.RecordError, match="the id is missing"):
        delete(ids_in(write({"id": ["a", None]})), client, dry_run=True)


CANNOT_COUNT = [Fault.body(200, b"{}", "application/json"), Fault.status(400, "Vector ID must not be empty")]


@pytest.mark.parametrize("fault", CANNOT_COUNT, ids=repr)
def test_a_filter_that_the_server_does_not_count_is_deleted_only_without_a_guard(index, client, caplog, fault):
    caplog.set_level(logging.INFO)
    index.faults.next(fault, path="/vectors/update", times=2)
    with pytest.raises(exceptions.SetupError, match=r"the server does not count .*Nothing was deleted"):
        delete(MatchingRecords({"n": 3}), client, max_deletes=5)
    assert deletes(index) == []
    assert delete(MatchingRecords({"n": 3}), client).deleted_count is None
    assert "deletedCount will be null" in caplog.text
    assert "r3" not in index.vectors()


def test_counting_changes_nothing_on_a_server_that_ignores_dry_run(index, client):
    """The request has no metadata to set: SDK 9 and some servers update although a dry run was asked for."""
    before = {key: value.metadata for key, value in index.vectors().items()}
    assert client.count_matching({"n": {"$gte": 0}}) == 10
    body = next(request for request in index.requests if request.path == "/vectors/update")
    assert body.body_bytes < 80
    assert {key: value.metadata for key, value in index.vectors().items()} == before


def test_a_filter_that_the_server_rejects_fails_with_its_message(client):
    with pytest.raises(exceptions.BadRequestError, match=r"\$near"):
        delete(MatchingRecords({"n": {"$near": 3}}), client)


# What is gone already, and faults ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ids", "filter", "all"])
def test_a_namespace_that_does_not_exist_is_success(client, kind):
    report = delete(SELECTIONS[kind](None), client, "nowhere")
    assert report.deleted_count == (6 if kind == "ids" else 0)
    assert delete(SELECTIONS[kind](None), client, "nowhere", dry_run=True).is_dry_run


@pytest.mark.parametrize("kind", ["ids", "filter", "all"])
def test_a_404_of_another_host_is_an_error(index, client, kind):
    for path in (DELETE, "/vectors/update", "/describe_index_stats"):
        index.faults.next(Fault.status(404, "no such host"), path=path, times=9)
    with pytest.raises(exceptions.NotFoundError, match="Check the index host"):
        delete(SELECTIONS[kind](None), client)


@pytest.mark.parametrize("kind", SELECTIONS)
@pytest.mark.parametrize(
    "fault", [Fault.status(503), Fault.lost_ack(), Fault.status(429, headers={"Retry-After": "0"})], ids=repr
)
def test_a_transient_failure_is_retried_and_a_second_run_changes_nothing(index, client, write, kind, fault):
    index.faults.next(fault, path=DELETE)
    report = delete(SELECTIONS[kind](write), client, random=lambda: 0.0)
    assert report.counts.retries == 1
    kept = remaining(index)
    delete(SELECTIONS[kind](write), client)
    assert remaining(index) == kept


def test_a_run_that_failed_half_way_converges_when_it_is_repeated(index, client):
    ids = IdsInMemory([*(f"r{n}" for n in range(5)), *(f"u{n}" for n in range(3_000)), *(f"r{n}" for n in range(5, 9))])
    index.faults.next(Fault.status(401, "Invalid API Key"), path=DELETE)
    with pytest.raises(exceptions.AuthenticationError):
        delete(ids, client)
    assert remaining(index)
    assert delete(ids, client).deleted_count == 3_009
    assert remaining(index) == ["r9"]


def test_ids_of_an_alias_are_not_deleted(index, client):
    client.create_alias("live", "other")
    with pytest.raises(exceptions.SetupError, match="A namespace alias only serves reads"):
        delete(IdsInMemory(["r1"]), client, "live")
    assert len(remaining(index, "other")) == 10


def test_a_cancelled_deletion_says_so(index, client):
    cancellation = CancellationToken("deletion")
    cancellation.cancel()
    with pytest.raises(exceptions.IncompleteUpsertError, match="The deletion was cancelled"):
        delete(IdsInMemory(["r1"]), client, cancellation=cancellation)
    assert deletes(index) == []


# Rate and memory --------------------------------------------------------------------------------


def test_ids_are_paced_on_a_virtual_clock(client, caplog):
    caplog.set_level(logging.INFO)
    count = 50_000
    transport = SimulatedTransport()
    report = delete(IdsInMemory([f"u{n}" for n in range(count)]), client, transport=transport, random=lambda: 0.5)
    assert report.deleted_count == count
    assert transport.max_in_flight > 1
    assert report.counts.duration_s >= (count - 2 * MAX_IDS_PER_DELETE) / MAX_DELETED_IDS_PER_SECOND
    assert " ids so far." in caplog.text


def peak(index, path):
    command = [sys.executable, "-m", "tests.pipeline.delete.peak_memory", index.url, index.api_key, str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_memory_does_not_grow_with_the_number_of_ids(index, write):
    """A list of a million such ids takes 85 MB, and the ten million that a task may have, 850 MB."""
    peaks = []
    for count in (50_000, 1_000_000):
        ids = pa.array([f"{n:032}" for n in range(count)])
        result = peak(index, write({"id": ids}, f"{count}.parquet", row_group_size=count))
        assert result["deleted"] == count
        peaks.append(result["mb"])
    assert peaks[1] <= peaks[0] + 15
    assert peaks[1] <= 80
