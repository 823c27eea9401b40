"""What a try leaves to the next one, with the whole pipeline."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.content import ContentDigests
from airflow_pinecone_upsert.pipeline.read.files import FileRef
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from tests.pipeline.held import Held
from tests.state_store import InMemoryStateStore, checkpoint_of

UPSERT = "/vectors/upsert"


class BrokenStore:
    """A store whose database is down."""

    def get(self, *_):
        raise ConnectionError("the database is down")

    set = delete = get


@pytest.fixture
def numbered(write):
    """Write a file with a number of records."""

    def numbered(count):
        return write({"id": [f"r{row}" for row in range(count)], "values": [[1.0, float(row)] for row in range(count)]})

    return numbered


@pytest.fixture
def fail_after(index, run):
    """Let a try fail once a number of records is confirmed."""

    def fail_after(confirmed, source, store, **parameters):
        fault = Fault.status(401, "Invalid API Key")
        index.faults.next(Held(fault, until=lambda: len(index.vectors()) >= confirmed), path=UPSERT)
        with pytest.raises(exceptions.AuthenticationError):
            run(index, source, state=store, **parameters)

    return fail_after


def test_records_confirmed_after_a_failed_request_are_not_sent_again(index, run, upserts, numbered, fail_after):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10, max_concurrency=4)
    confirmed = set(index.vectors())
    assert len(confirmed) >= 20
    before = len(upserts(index))
    report = run(index, path, state=store, batch_size=10, max_concurrency=4)
    again = {record_id for request in upserts(index)[before:] for record_id in request.ids}
    assert not again & confirmed
    assert (report.upserted_count, report.resumed_count) == (40, len(confirmed))
    assert len(index.vectors()) == 40


def test_records_rejected_after_a_failed_request_are_not_rejected_again(index, run, write, fail_after):
    ids = [f"r{row}" for row in range(40)]
    path = write({"id": ids, "values": [[1.0, float(row)] if row % 10 != 5 else [0.0, 0.0] for row in range(40)]})
    store = InMemoryStateStore()
    parameters = {"batch_size": 9, "max_concurrency": 4, "max_rejects": 4}
    fail_after(20, path, store, **parameters)
    assert checkpoint_of(store)["counts"]["rejectedCount"] == 4
    report = run(index, path, state=store, **parameters)
    assert (report.upserted_count, report.rejected_count) == (36, 4)


def test_the_state_shows_that_a_run_is_done(index, run, numbered):
    store = InMemoryStateStore()
    run(index, numbered(40), state=store)
    assert set(store) == {"progress"}
    assert (store["progress"]["records"], store["progress"]["percent"]) == (40, 100.0)


def test_a_checkpoint_of_another_format_is_not_used(index, run, numbered, fail_after, caplog):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    store["resume"] = json.dumps(checkpoint_of(store) | {"format": 99})
    report = run(index, path, state=store)
    assert (report.upserted_count, report.resumed_count) == (40, 0)
    assert (
        "The checkpoint of an earlier try is not used. It has format 99, this version reads format 2. "
        "Starting at the first row."
    ) in caplog.messages


@pytest.mark.parametrize("damage", [{"position": None}, {"counts": {}}, {"settledAfter": [[1]]}, {"identity": None}])
def test_a_checkpoint_that_cannot_be_read_is_not_used(*, index, run, numbered, fail_after, caplog, damage):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    store["resume"] = json.dumps(checkpoint_of(store) | damage)
    assert run(index, path, state=store).resumed_count == 0
    assert (
        "The checkpoint of an earlier try is not used. It cannot be read. Starting at the first row." in caplog.messages
    )


def test_a_file_without_a_version_is_not_resumed(index, run, numbered, fail_after, caplog):
    """A storage that reports neither an ETag nor a time: the size alone does not show that a file was replaced."""
    store, path = InMemoryStateStore(), numbered(40)
    file = FileRef(LocalFileSystem(), str(path), str(path), path.stat().st_size, version="")
    fail_after(20, ParquetSource([file], UpsertOptions()), store, batch_size=10)
    assert store == {}
    reason = f"the storage reports neither an ETag nor a modification time of {path}"
    assert f"A retry of this task will start at the first row: {reason}." in caplog.messages


def test_a_store_that_fails_costs_nothing_but_the_checkpoint(index, run, numbered, caplog):
    assert run(index, numbered(40), state=BrokenStore()).upserted_count == 40
    assert len(index.vectors()) == 40
    for message in (
        "The checkpoint could not be loaded: the database is down. Starting at the first row.",
        "The checkpoint could not be saved: the database is down",
        "The progress could not be saved: the database is down",
        "The checkpoint could not be deleted; delete it before you clear this task: the database is down",
    ):
        assert message in caplog.messages


def rewrite(path, *, keep_times=False):
    """Replace a file by one of the same size with other values."""
    before = path.stat()
    table = pq.read_table(path)
    other = [[2.0, values[1]] for values in table["values"].to_pylist()]
    pq.write_table(table.set_column(1, "values", pa.array(other)), path)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("way", ["link", "times are kept"])
def test_a_replaced_file_that_looks_the_same_is_not_resumed(*, index, run, numbered, fail_after, tmp_path, way):
    store, path = InMemoryStateStore(), numbered(40)
    source = path
    if way == "link":
        source = tmp_path / "link.parquet"
        source.symlink_to(path)
    fail_after(20, source, store, batch_size=10)
    rewrite(path, keep_times=way == "times are kept")
    report = run(index, source, state=store)
    assert (report.upserted_count, report.resumed_count) == (40, 0)
    assert {record.values[0] for record in index.vectors().values()} == {2.0}


def wipe(index):
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        client.delete(delete_all=True)


def test_a_checkpoint_is_not_used_once_the_namespace_was_emptied(index, run, numbered, fail_after, caplog):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    confirmed = len(index.vectors())
    wipe(index)
    report = run(index, path, state=store)
    assert (report.upserted_count, report.resumed_count) == (40, 0)
    assert len(index.vectors()) == 40
    assert (
        f"The checkpoint of an earlier try is not used. It says that {confirmed} records are confirmed, and the "
        "namespace '' contains 0. Starting at the first row."
    ) in caplog.messages


def test_records_of_another_namespace_do_not_count(index, run, numbered, fail_after):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    wipe(index)
    run(index, numbered(100), namespace="another")
    assert run(index, path, state=store).resumed_count == 0


def test_a_checkpoint_is_not_used_by_a_key_that_may_not_read(index, run, numbered, fail_after, caplog):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    index.faults.next(Fault.status(403, "forbidden"), path="/describe_index_stats")
    assert run(index, path, state=store).resumed_count == 0
    assert "the namespace '' contains an unknown number" in caplog.text


class KeepingStore(InMemoryStateStore):
    """A store that does not delete."""

    def delete(self, *_):
        raise ConnectionError("the database is down")


def test_nothing_is_sent_while_an_outdated_checkpoint_cannot_be_deleted(index, run, numbered, fail_after, upserts):
    """The next try would resume from it, once the namespace holds enough records again."""
    store, path = KeepingStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    wipe(index)
    before = len(upserts(index))
    with pytest.raises(exceptions.TransientError, match="The outdated checkpoint could not be deleted"):
        run(index, path, state=store)
    assert len(upserts(index)) == before


def test_the_progress_is_the_first_key_of_the_state_and_the_checkpoint_is_one_line(index, run, numbered, fail_after):
    store = InMemoryStateStore()
    fail_after(20, numbered(40), store, batch_size=10)
    assert sorted(store) == ["progress", "resume"]  # Airflow's UI sorts them so
    assert isinstance(store["resume"], str)
    assert len(store["resume"]) < 1_000


def test_there_is_no_count_once_earlier_tries_have_sent_some(index, run, numbered, fail_after):
    store, path = InMemoryStateStore(), numbered(40)
    fail_after(20, path, store, batch_size=10)
    assert run(index, path, state=store).distinct_count is None
    assert run(index, path, state=store).distinct_count == 40


class NoFault(Fault):
    """A request that is served."""

    async def play(self, app, scope, receive, send):
        await app(scope, receive, send)


@pytest.fixture
def fail_at(index, run):
    """Let a try fail at a request, after those before it were confirmed one by one."""

    def fail_at(row, source, store):
        index.faults.next(NoFault(), times=row // 10, path=UPSERT)
        index.faults.next(Fault.status(401, "Invalid API Key"), path=UPSERT)
        with pytest.raises(exceptions.AuthenticationError):
            run(index, source, state=store, batch_size=10, max_concurrency=1)

    return fail_at


class OpenedFiles(LocalFileSystem):
    """Records the names of the files that are opened."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.names = []

    def open(self, path, *args, **options):
        self.names.append(path.rpartition("/")[2])
        return super().open(path, *args, **options)


@pytest.fixture
def two_files(write):
    """
    Write two files of 20 records each.

    Their storage reports the same version for ever: as a source, they look the same when one is replaced.
    """
    for name, first in (("a", 0), ("b", 20)):
        rows = range(first, first + 20)
        path = write(
            {"id": [f"r{row}" for row in rows], "values": [[1.0, float(row)] for row in rows]}, f"{name}.parquet"
        )

    def two_files(*, has_content_version=False):
        fs = OpenedFiles()
        paths = [str(path.with_name(f"{name}.parquet")) for name in "ab"]
        files = [FileRef(fs, path, path, 1, "same", has_content_version=has_content_version) for path in paths]
        return fs, ParquetSource(files, UpsertOptions())

    return two_files


@pytest.mark.parametrize(
    ("name", "confirmed", "changed"),
    [
        ("a", 10, "the content of {folder}/a.parquet"),
        ("a", 30, "the content of a file that was finished"),
        ("b", 30, "the content of {folder}/b.parquet"),
    ],
)
def test_content_that_changed_under_the_same_version_is_not_resumed(
    *, index, run, two_files, fail_at, tmp_path, caplog, name, confirmed, changed
):
    store = InMemoryStateStore()
    fail_at(confirmed, two_files()[1], store)
    rewrite(tmp_path / f"{name}.parquet")
    report = run(index, two_files()[1], state=store)
    assert (report.upserted_count, report.resumed_count) == (40, 0)
    assert f"Changed since then: {changed.format(folder=tmp_path)}. Starting at the first row." in caplog.text


def test_a_file_that_is_no_longer_parquet_is_not_resumed(*, index, run, two_files, fail_at, tmp_path, caplog):
    store = InMemoryStateStore()
    fail_at(10, two_files()[1], store)
    (tmp_path / "a.parquet").write_text("id,values")
    with pytest.raises(exceptions.SourceError, match="cannot be read as Parquet"):
        run(index, two_files()[1], state=store)
    assert f"Changed since then: the content of {tmp_path}/a.parquet" in caplog.text


@pytest.mark.parametrize(
    ("has_content_version", "opened"), [(True, ["b.parquet"] * 2), (False, ["b.parquet", "a.parquet", "b.parquet"])]
)
def test_a_finished_file_is_opened_again_only_if_its_version_is_a_time(
    *, index, run, two_files, fail_at, has_content_version, opened
):
    store = InMemoryStateStore()
    _, source = two_files(has_content_version=has_content_version)
    fail_at(30, source, store)
    fs, source = two_files(has_content_version=has_content_version)
    assert run(index, source, state=store).resumed_count == 30
    assert fs.names == opened


def test_digests_survive_a_second_resume(index, run, two_files, fail_at, tmp_path):
    """The second try opens only the second file, and leaves the digest of the first one to the third try."""
    store = InMemoryStateStore()
    fail_at(30, two_files()[1], store)
    first = json.loads(store["resume"])["content"]
    index.faults.next(Fault.status(401, "Invalid API Key"), path=UPSERT)
    with pytest.raises(exceptions.AuthenticationError):
        run(index, two_files()[1], state=store, batch_size=10, max_concurrency=1)
    assert json.loads(store["resume"])["content"] == first
    rewrite(tmp_path / "a.parquet")
    assert run(index, two_files()[1], state=store).resumed_count == 0


def test_the_digests_of_ten_thousand_files_fit_into_a_few_bytes():
    files = [FileRef(LocalFileSystem(), f"{n}.parquet", f"{n}.parquet", 1, "same") for n in range(10_000)]
    digests = ContentDigests(files)
    for number, file in enumerate(files):
        digests.add(file, f"{number:016}")
    assert len(json.dumps(digests.as_json(9_990, range(9_990, 10_000), None))) < 400
