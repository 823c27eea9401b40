"""A reindexing run over real HTTP, with a manifest in a real folder."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import InlineTransport
from airflow_pinecone_upsert.reindex.audit import list_namespaces
from airflow_pinecone_upsert.reindex.digest import DIGEST_NAME, DIGEST_VERSION
from airflow_pinecone_upsert.reindex.journal import FLUSH_INTERVAL_S
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, Target, new_run_id
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport
from airflow_pinecone_upsert.reindex.run import reindex
from tests.reindex.world import claims_of

NAMESPACE = "articles"


@pytest.fixture
def index(pinecone_index_factory) -> EmulatedIndex:
    return pinecone_index_factory(dimension=2, metric="dotproduct")


def rows(count: int, *, start: int = 0, version: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "values": [version, float(n)], **more} for n in range(start, start + count)]


class Runner:
    """``run(records, **options)``: one night. Waiting takes no time."""

    def __init__(self, index: EmulatedIndex, folder: ManifestFolder, sleep: Any = lambda _: None) -> None:
        self.index = index
        self.folder = folder
        self.sleep = sleep
        self.report: ReindexReport | None = None

    def open_manifest(self, run_id: str | None = None) -> Manifest:
        target = Target(self.index.url, NAMESPACE, {}, DIGEST_NAME, DIGEST_VERSION)
        return Manifest.open(self.folder, target, run_id)

    def __call__(
        self,
        records: Any,
        *,
        cancellation: Any = None,
        on_turn: Any = lambda: None,
        transport: Any = None,
        **options: Any,
    ) -> ReindexReport:
        checked = ReindexOptions(**{"namespace": NAMESPACE, "verify_timeout_s": 0.0, **options})
        client = IndexClient(self.index.url, ClientSettings(api_key=self.index.api_key), sleep=lambda _: None)
        with client:
            return reindex(
                InMemorySource(records, checked),
                client,
                checked,
                self.open_manifest(None if checked.dry_run else new_run_id()),
                manifest_path=self.folder.url,
                observers=[self],
                cancellation=cancellation,
                on_turn=on_turn,
                random=lambda: 0.0,
                sleep=self.sleep,
                transport=transport,
            )

    def attempted(self, attempt: Any) -> None:
        pass

    def ended(self, report: ReindexReport) -> None:
        self.report = report

    @property
    def stored(self) -> dict[str, list[float]]:
        return {record.id: record.values.tolist() for record in self.index.vectors(NAMESPACE).values()}

    @property
    def known(self) -> set[str]:
        """The ids of the manifest whose digests are known."""
        return {one for one, digest in claims_of(self.open_manifest()).items() if any(digest)}

    def requests(self, path: str = "/vectors/upsert") -> list[Any]:
        return [request for request in self.index.requests if request.path == path]


@pytest.fixture
def run(index, local) -> Runner:
    return Runner(index, local)


@pytest.fixture
def elsewhere(index):
    """Write to the namespace as something else does."""
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        yield client


def values_of(records: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {record["id"]: record["values"] for record in records}


# What is sent -----------------------------------------------------------------------------------


def test_a_second_night_sends_what_changed_and_deletes_what_vanished(run):
    first = run(rows(100))
    assert (first.counts.new, first.counts.changed, first.counts.unchanged) == (100, 0, 0)
    before = len(run.requests())
    night = [*rows(95, start=3), *rows(2, start=3, version=2.0), *rows(5, start=200)]
    report = run(night)
    assert run.stored == values_of(night)
    output = report.as_output()
    sent = [one for request in run.requests()[before:] for one in request.ids]
    assert sorted(sent) == sorted(["r3", "r4", "r3", "r4", *(f"r{n}" for n in range(200, 205))]) or len(sent) < 10
    assert output["deletedCount"] == 5
    assert output["deleteRequestCount"] == 1
    assert output["newCount"] == 5
    assert output["verifiedCount"] > 0
    assert output["manifestPath"] == run.folder.url
    assert run.known == set(run.stored)


def test_an_unchanged_night_sends_nothing_and_commits(run):
    run(rows(50))
    generation = run.open_manifest().generation
    before = len(run.requests())
    report = run(rows(50))
    assert len(run.requests()) == before
    assert report.counts.unchanged == 50
    assert report.counts.write_units == 0
    assert report.counts.write_units_saved == 2  # 540 bytes, twice
    assert run.open_manifest().generation > generation
    assert run.open_manifest().last_run["unchangedCount"] == 50


def test_full_sends_everything(run):
    run(rows(5))
    report = run(rows(5), full=True)
    assert (report.counts.changed, report.counts.unchanged, report.upserted_count) == (5, 0, 5)


@pytest.mark.parametrize("versions", [[1.0, 2.0], [2.0, 1.0], [2.0, 1.0, 2.0, 1.0]])
@pytest.mark.parametrize("apart", [0, 3_000])
def test_of_an_id_that_occurs_twice_the_last_record_wins(run, versions, apart):
    """In one chunk and in two; also if one of them is what the manifest has."""
    run([*rows(1), *rows(apart, start=10)])
    between = rows(apart, start=10)
    records = [record for version in versions for record in (*rows(1, version=version), *between)]
    run(records)
    assert run.stored["r0"] == [versions[-1], 0.0]
    assert run.known == set(run.stored)
    assert run(records[-1 - apart :]).counts.unchanged == 1 + apart


def test_a_key_of_other_order_and_another_type_of_number_is_unchanged(run):
    run(rows(1, metadata={"year": 2024, "title": "x"}))
    assert run(rows(1, metadata={"title": "x", "year": 2024.0, "gone": None})).counts.unchanged == 1


# What is confirmed ------------------------------------------------------------------------------


def test_a_request_that_fails_leaves_its_ids_unknown_and_the_next_run_sends_them(run, index):
    run(rows(30))
    index.faults.next(Fault.lost_ack(), path="/vectors/upsert", times=100)
    with pytest.raises(exceptions.IncompleteUpsertError):
        run(rows(30, version=2.0), batch_size=10, max_concurrency=1)
    assert run.stored["r0"] == [2.0, 0.0]  # the server applied it, and the client does not know
    assert not run.known & {f"r{n}" for n in range(10)}
    index.faults.clear()
    run(rows(30))  # the source is what the manifest said before
    assert run.stored == values_of(rows(30))
    assert run.known == set(run.stored)


def test_an_id_stays_unknown_while_a_later_record_of_it_is_unconfirmed(run, index):
    """The first of two records is confirmed, and the second is applied, but its confirmation is lost."""
    run(rows(1))
    index.faults.next(Fault.stall(0.0), path="/vectors/upsert")
    index.faults.next(Fault.lost_ack(), path="/vectors/upsert", times=100)
    with pytest.raises(exceptions.IncompleteUpsertError):
        run([*rows(1, version=2.0), *rows(1, version=3.0)], max_concurrency=2)
    assert run.stored["r0"] == [3.0, 0.0]
    assert run.known == set()
    index.faults.clear()
    run(rows(1, version=2.0))
    assert run.stored["r0"] == [2.0, 0.0]


def test_a_new_record_of_a_failed_request_is_deleted_if_the_source_no_longer_has_it(run, index):
    run(rows(30))
    index.faults.next(Fault.lost_ack(), path="/vectors/upsert", times=100)
    with pytest.raises(exceptions.IncompleteUpsertError):
        run([*rows(30), *rows(1, start=99)])
    assert "r99" in run.stored
    index.faults.clear()
    assert run(rows(30)).counts.deleted == 1
    assert run.stored == values_of(rows(30))


@pytest.mark.parametrize("invalid", [{"values": [0.0, 0.0]}, {"metadata": {"a": [1]}}])
def test_a_rejected_record_is_present_and_its_old_version_stays(run, invalid):
    run(rows(30))
    night = [*rows(29, start=1), {**rows(1)[0], **invalid}]
    report = run(night, max_rejects=1)
    assert (report.rejected_count, report.counts.deleted, report.counts.unchanged) == (1, 0, 29)
    assert run.stored == values_of(rows(30))
    assert run(rows(30)).counts.unchanged == 30  # the manifest still knows the old version


def test_a_record_that_only_the_server_rejects_is_present_too(run, index):
    run(rows(30))
    index.faults.next(Fault.status(400, "no"), path="/vectors/upsert", times=1)
    report = run([*rows(29, start=1), *rows(1, version=2.0)], max_rejects=1)
    assert (report.rejected_count, report.counts.deleted) == (1, 0)
    assert run.stored == values_of(rows(30))
    run(rows(30))
    assert run.known == set(run.stored)


def test_a_record_that_comes_again_before_the_server_rejects_it_is_not_verified(run, index):
    run(rows(2_500))
    index.faults.next(Fault.status(400, "no"), path="/vectors/upsert", times=1)
    poison = rows(1, version=2.0)
    report = run([*poison, *rows(2_499, start=1), *poison], max_rejects=1, verify_sample=5_000)
    assert (report.rejected_count, report.counts.verified) == (1, 2_499)


# Deletions --------------------------------------------------------------------------------------


def test_more_deletions_than_allowed_fail_after_the_upserts(run):
    run(rows(100))
    with pytest.raises(exceptions.SetupError) as caught:
        run(rows(80, version=2.0))
    message = str(caught.value)
    assert message.startswith("20 of the 100 records of the manifest (20.0%) are missing from the source")
    assert "max_delete_fraction" in message
    assert message.count("'r") == 10
    assert len(run.stored) == 100
    assert run.stored["r0"] == [2.0, 0.0]
    assert run.known == set(run.stored)  # the manifest keeps what vanished
    assert run(rows(80, version=2.0), max_delete_fraction=0.2).counts.deleted == 20


def test_ten_records_may_always_be_deleted(run):
    run(rows(12))
    assert run(rows(2)).counts.deleted == 10


def test_delete_missing_false_keeps_what_vanished(run):
    run(rows(30))
    assert run(rows(1), delete_missing=False).counts.deleted == 0
    assert len(run.stored) == 30
    assert run(rows(25)).counts.deleted == 5


@pytest.mark.parametrize("records", [[], [rows(0)]])
def test_a_source_without_records_deletes_nothing(run, records):
    run(rows(5))
    with pytest.raises(exceptions.SourceError, match="The source has no records, and the manifest has 5"):
        run(records, max_delete_fraction=1.0)
    assert len(run.stored) == 5


def test_a_source_that_breaks_deletes_nothing(run):
    def broken():
        yield from rows(2_500)
        raise exceptions.SourceError("broken")

    run(rows(2_600))
    with pytest.raises(exceptions.SourceError):
        run(broken(), max_delete_fraction=1.0)
    assert len(run.stored) == 2_600


class SlowTransport(InlineTransport):
    """A request takes longer than the interval at which the manifest is flushed, on the clock of this transport."""

    started = 0

    def start(self, request):
        super().start(request)
        self.started += 1

    def now(self):
        return super().now() + self.started * (FLUSH_INTERVAL_S + 1)


def test_a_manifest_is_not_compacted_while_it_is_read_for_the_deletions(index):
    run = Runner(index, ManifestFolder(MemoryFileSystem(), f"/{new_run_id()}"))
    run(rows(3_000))
    manifest = run.open_manifest(new_run_id())
    for number in range(1_000):
        manifest.mark_unknown([f"r{number}"])
        manifest.flush()
    assert manifest.compaction_is_due
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        transport = SlowTransport(client.send, lambda _: None)
        report = run(rows(1, start=2_999), transport=lambda: transport, max_delete_fraction=1.0, max_concurrency=1)
    assert report.counts.deleted == 2_999
    assert run.known == set(run.stored) == {"r2999"}


def test_a_deletion_that_fails_leaves_its_ids_unknown(run, index):
    run(rows(30))
    index.faults.next(Fault.lost_ack(), path="/vectors/delete", times=100)
    with pytest.raises(exceptions.PineconeUpsertError):
        run(rows(25))
    assert run.known == {f"r{n}" for n in range(25)}
    index.faults.clear()
    run(rows(30))  # what vanished is back, with the digest that the manifest had
    assert run.stored == values_of(rows(30))


def test_nothing_outside_the_namespace_changes(run, index):
    run(rows(20))
    run(rows(15))
    assert {request.namespace for request in index.requests if request.path.startswith("/vectors/")} == {NAMESPACE}


# Dry run ----------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_writes_nothing(run, index):
    run(rows(100))
    before, files = len(index.requests), run.folder.sizes()
    report = run([*rows(85), *rows(10, start=85, version=2.0), *rows(3, start=200)], dry_run=True)
    output = report.as_output()
    assert {name: output[name] for name in ("newCount", "changedCount", "unchangedCount", "deletedCount")} == {
        "newCount": 3,
        "changedCount": 10,
        "unchangedCount": 85,
        "deletedCount": 5,
    }
    assert output["dryRun"] is True
    assert output["requestBytes"] > 0
    assert output["writeUnits"] == 10
    assert report.examples["new"] == ("r200", "r201", "r202")
    assert len(report.examples["changed"]) == 10
    assert report.examples["deleted"] == ("r95", "r96", "r97", "r98", "r99")
    assert [request.path for request in index.requests[before:]] == ["/describe_index_stats"]
    assert run.folder.sizes() == files


# Proof ------------------------------------------------------------------------------------------


def test_what_something_else_deleted_fails_the_task_and_is_repaired_by_the_next_run(run, elsewhere):
    run(rows(20))
    elsewhere.delete(ids=["r3"], namespace=NAMESPACE)
    with pytest.raises(exceptions.VerificationError) as caught:
        run(rows(20))
    assert caught.value.ids == ("r3",)
    assert "'r3' (record)" in str(caught.value)
    assert run(rows(20)).counts.changed == 1
    assert run.stored == values_of(rows(20))


def test_a_sample_of_each_kind_is_verified(run):
    run(rows(40))
    report = run([*rows(20), *rows(10, start=20, version=2.0)], verify_sample=3)
    assert report.counts.verified == 9


class Clock:
    """The server's; it advances while the client waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s = round(self.now_s + seconds, 6)  # ten tenths of a second are one


@pytest.fixture
def lagging(pinecone_index_factory, local) -> Runner:
    """Run on an index that shows a write after 5 s."""
    clock = Clock()
    index = pinecone_index_factory(dimension=2, metric="dotproduct", lag_s=5.0, clock=clock)
    return Runner(index, local, clock.sleep)


def test_verification_waits_until_the_namespace_shows_the_last_write(lagging):
    assert lagging(rows(30), verify_timeout_s=60).counts.verified == 30
    assert len(lagging.requests("/query")) == 6  # one at once, and one after each second
    assert len(lagging.requests("/vectors/fetch")) == 1
    assert lagging(rows(25), verify_timeout_s=60).counts.verified == 30


def test_a_namespace_that_lags_for_too_long_fails_and_is_repaired(lagging):
    with pytest.raises(exceptions.VerificationError, match="30 of 30 records that were verified"):
        lagging(rows(30), verify_timeout_s=0)
    assert lagging.known == set()
    assert lagging(rows(30), verify_timeout_s=60).counts.changed == 30
    assert lagging.known == set(lagging.stored)


def test_no_sample_is_fetched_if_none_is_asked_for(run):
    assert run(rows(5), verify_sample=0).counts.verified == 0
    assert run.requests("/vectors/fetch") == []


def test_a_run_ends_once_what_it_wrote_is_searchable(pinecone_index_factory, local):
    index = pinecone_index_factory(dimension=2, metric="dotproduct", lag_s=0.2)
    run = Runner(index, local)
    assert run(rows(20), wait_until_searchable=True, verify_sample=0).lsn == index.store.visible_lsn
    report = run(rows(18), wait_until_searchable=True, verify_sample=0)
    assert (report.counts.deleted, report.as_output()["lsn"]) == (2, index.store.visible_lsn)
    assert run(rows(18), wait_until_searchable=True).lsn is None


# Audit ------------------------------------------------------------------------------------------


def upsert_elsewhere(client, records, namespace=NAMESPACE):
    ids, bodies = [record["id"] for record in records], [orjson.dumps(record) for record in records]
    count = len(records)
    encoded = EncodedRecords(["XCom"] * count, list(range(count)), ids, bodies, [b""] * count, [""] * count)
    client.upsert(UpsertRequest(encoded, Envelope(namespace)))


@pytest.mark.parametrize("has_manifest", [True, False])
def test_an_audit_sends_what_the_namespace_lost_and_deletes_what_the_manifest_does_not_have(
    run, elsewhere, has_manifest
):
    if has_manifest:
        run(rows(30))
        elsewhere.delete(ids=["r1", "r2"], namespace=NAMESPACE)
    upsert_elsewhere(elsewhere, rows(1, start=30) if has_manifest else rows(4, start=27, version=9.0))
    report = run(rows(30), audit=True)
    assert (report.counts.lost, report.counts.stray) == ((2, 1) if has_manifest else (0, 4))
    assert report.counts.deleted == 1
    assert run.stored.keys() == values_of(rows(30)).keys()
    assert run.stored["r1"] == [1.0, 1.0]
    assert run.known == set(run.stored)
    assert run(rows(30)).counts.unchanged == 30


def test_an_audit_deletes_within_the_same_guard_and_reports_without_delete_missing(run, elsewhere):
    run(rows(10))
    upsert_elsewhere(elsewhere, rows(20, start=100))
    with pytest.raises(exceptions.SetupError, match=r"20 of the 30 records"):
        run(rows(10), audit=True)
    assert run(rows(10), audit=True, delete_missing=False).counts.deleted == 0
    assert len(run.stored) == 30


def test_the_dry_run_of_an_audit_writes_nothing(run, index, elsewhere):
    run(rows(20))
    upsert_elsewhere(elsewhere, rows(3, start=100))
    elsewhere.delete(ids=["r1"], namespace=NAMESPACE)
    files = run.folder.sizes()
    report = run(rows(20), audit=True, dry_run=True)
    counts = report.counts
    assert (counts.lost, counts.stray, counts.changed, counts.deleted) == (1, 3, 1, 3)
    assert report.examples["deleted"] == ("r100", "r101", "r102")
    assert run.folder.sizes() == files


@pytest.mark.parametrize("max_ids", [100, 200, 20_000])
def test_every_id_is_listed_in_parallel(index, elsewhere, max_ids):
    ids = ["a", "a" * 512, "\x01", "\x7f", *(f"a{n}" for n in range(250)), *(f"a1{n:03}" for n in range(130))]
    upsert_elsewhere(elsewhere, [{"id": one, "values": [1.0, 2.0]} for one in ids])
    pages = list_namespaces(elsewhere, ["other", NAMESPACE], CancellationToken(), max_ids=max_ids)
    assert {(page.namespace, one) for page in pages for one in page.ids} == {(NAMESPACE, one) for one in ids}


# A lease ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_run_that_loses_its_lease_ends_and_deletes_nothing(run, calls):
    run(rows(30))
    left = iter(range(calls))

    def renew() -> None:
        if next(left, None) is None:
            raise exceptions.ManifestInUseError("another run")

    with pytest.raises(exceptions.ManifestInUseError):
        run(rows(25, version=2.0), on_turn=renew)
    assert len(run.stored) == 30
    run(rows(25))
    assert run.stored == values_of(rows(25))
    assert run.known == set(run.stored)


def test_a_cancelled_run_deletes_nothing(run):
    run(rows(30))
    cancellation = CancellationToken("reindexing")
    cancellation.cancel()
    with pytest.raises(exceptions.IncompleteUpsertError, match="The reindexing was cancelled"):
        run(rows(25), cancellation=cancellation)
    assert len(run.stored) == 30
