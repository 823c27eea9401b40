"""The lease: who may write, for how long, and who may take over."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_pinecone_upsert.exceptions import ManifestInUseError, StorageError
from airflow_pinecone_upsert.reindex.lease import LIFETIME_S, RENEWAL_INTERVAL_S, Holder, Lease
from airflow_pinecone_upsert.reindex.manifest import ManifestFolder, new_run_id

NOW = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""

FIRST = Holder("a1", "scheduled__2027-01-15", "articles.reindex", host="worker-1", process_id=17)
RETRY = replace(FIRST, run_id="a2", try_number=2, host="worker-2")
OTHER = replace(FIRST, run_id="b1", dag_run="manual__1", host="worker-2")


def files(folder):
    return sorted(folder.sizes())


def test_a_second_run_fails_at_once_and_says_who_holds_the_lease(folder):
    Lease.acquire(folder, FIRST, NOW)
    with pytest.raises(ManifestInUseError) as caught:
        Lease.acquire(folder, OTHER, NOW + 59)
    assert str(caught.value) == (
        f"Another run writes to the manifest in {folder.url}: try 1 of articles.reindex in DAG run scheduled__2027-01-15 "
        "(process 17 on worker-1). Wait until it has ended. If it was killed, its lease expires at 2027-01-15 08:01:00 UTC."
    )
    assert files(folder) == ["lease-000001.json"]


def test_a_lease_that_was_given_back_is_free(folder):
    Lease.acquire(folder, FIRST, NOW).release()
    Lease.acquire(folder, OTHER, NOW)
    assert files(folder) == ["lease-000002.json"]


def test_a_lease_that_has_expired_is_taken_over_and_its_holder_notices(folder, caplog):
    lost = Lease.acquire(folder, FIRST, NOW)
    Lease.acquire(folder, OTHER, NOW + LIFETIME_S)
    assert f"Taking over the lease on the manifest in {folder.url} from try 1 of articles.reindex" in caplog.text
    with pytest.raises(
        ManifestInUseError, match=r"try 1 of articles.reindex in DAG run manual__1 \(process 17 on worker-2"
    ):
        lost.renew_if_due(NOW + LIFETIME_S + 1)
    lost.release()
    with pytest.raises(ManifestInUseError):
        Lease.acquire(folder, FIRST, NOW + LIFETIME_S + 2)


@pytest.mark.parametrize("holder", [RETRY, replace(FIRST, run_id="a2")])
def test_a_try_of_the_same_task_instance_takes_its_lease_over(folder, holder):
    lost = Lease.acquire(folder, FIRST, NOW)
    held = Lease.acquire(folder, holder, NOW + 1)
    with pytest.raises(ManifestInUseError, match="Wait until it has ended"):
        lost.renew_if_due(NOW + RENEWAL_INTERVAL_S)
    held.renew_if_due(NOW + 20)


@pytest.mark.parametrize(
    "holder",
    [
        replace(RETRY, map_index=1),
        replace(RETRY, task="articles.other"),
        replace(RETRY, dag_run="another"),
        replace(RETRY, try_number=1),  # an earlier try than the one that holds it
        Holder("x"),  # outside of Airflow
    ],
)
def test_others_do_not_take_it_over(local, holder):
    Lease.acquire(local, replace(FIRST, try_number=2), NOW)
    with pytest.raises(ManifestInUseError):
        Lease.acquire(local, holder, NOW + 1)


def test_two_runs_outside_of_airflow_are_not_the_same_one(local):
    Lease.acquire(local, Holder("x", host="laptop", process_id=1), NOW)
    with pytest.raises(ManifestInUseError, match=r": process 1 on laptop\. Wait"):
        Lease.acquire(local, Holder("y", host="laptop", process_id=2), NOW)


def test_a_mapped_task_is_named_with_its_index():
    assert str(replace(FIRST, map_index=3)).startswith("try 1 of articles.reindex[3] in DAG run ")


def test_a_lease_is_renewed_every_ten_seconds(folder):
    lease = Lease.acquire(folder, FIRST, NOW)
    before = folder.read("lease-000001.json")
    lease.renew_if_due(NOW + RENEWAL_INTERVAL_S - 0.1)
    assert folder.read("lease-000001.json") == before
    for second in range(0, 300, 10):
        lease.renew_if_due(NOW + second)
    with pytest.raises(ManifestInUseError):
        Lease.acquire(folder, OTHER, NOW + 290 + LIFETIME_S - 1)
    Lease.acquire(folder, OTHER, NOW + 290 + LIFETIME_S)


def test_a_holder_that_slept_keeps_a_lease_that_no_one_took(folder):
    lease = Lease.acquire(folder, FIRST, NOW)
    lease.renew_if_due(NOW + 1_000)
    with pytest.raises(ManifestInUseError):
        Lease.acquire(folder, OTHER, NOW + 1_000 + LIFETIME_S - 1)


def test_a_holder_that_slept_through_others_does_not_overwrite_their_leases(folder):
    slept = Lease.acquire(folder, FIRST, NOW)
    Lease.acquire(folder, OTHER, NOW + 100).release()
    third = replace(OTHER, run_id="c1", dag_run="manual__2")
    held = Lease.acquire(folder, third, NOW + 101)
    slept.release()
    with pytest.raises(ManifestInUseError, match="manual__2"):
        slept.renew_if_due(NOW + 102)
    held.renew_if_due(NOW + 120)
    assert files(folder) == ["lease-000003.json"]


def test_a_holder_whose_clock_is_set_back_renews(local):
    lease = Lease.acquire(local, FIRST, NOW)
    before = local.read("lease-000001.json")
    lease.renew_if_due(NOW - 3_600)
    assert local.read("lease-000001.json") != before


@dataclass(frozen=True)
class SlowFolder(ManifestFolder):
    """Other runs are faster between its listing and its first file."""

    others: Callable[[], None] = lambda: None

    def create(self, name, content):
        self.others()
        return super().create(name, content)


def test_a_run_that_was_slow_does_not_take_a_number_that_is_used_up(folder):
    Lease.acquire(folder, FIRST, NOW).release()

    def others():
        Lease.acquire(folder, OTHER, NOW).release()
        Lease.acquire(folder, replace(OTHER, dag_run="manual__2"), NOW)

    with pytest.raises(ManifestInUseError, match="manual__2"):
        Lease.acquire(SlowFolder(folder.fs, folder.path, others), RETRY, NOW)


def test_a_lease_that_is_not_complete_is_free(folder):
    folder.write("lease-000001.json", b'{"holder": {"run_')
    Lease.acquire(folder, FIRST, NOW)


class AwayFileSystem(MemoryFileSystem):
    """Cannot be reached while ``is_away``."""

    cachable = False
    store = {}  # noqa: RUF012 - of this class, not of all of memory
    is_away = False

    def ls(self, path, **options):
        if self.is_away:
            raise OSError("no route")
        return super().ls(path, **options)


def test_a_storage_that_is_away_matters_only_when_the_lease_expires(caplog):
    folder = ManifestFolder(AwayFileSystem(), f"/{new_run_id()}")
    lease = Lease.acquire(folder, FIRST, NOW)
    folder.fs.is_away = True
    for second in range(10, 60, 10):
        lease.renew_if_due(NOW + second)
    assert caplog.text.count("could not be renewed: The manifest in") == 5
    with pytest.raises(StorageError, match="no route"):
        lease.renew_if_due(NOW + LIFETIME_S)
    folder.fs.is_away = False
    lease.renew_if_due(NOW + LIFETIME_S + 1)


def test_of_eight_runs_that_start_at_once_one_gets_the_lease(folder):
    barrier = threading.Barrier(8)
    outcomes = []

    def acquire(number):
        holder = replace(OTHER, run_id=f"r{number}", dag_run=f"manual__{number}")
        barrier.wait()
        try:
            outcomes.append(Lease.acquire(folder, holder, NOW))
        except ManifestInUseError:
            outcomes.append(None)

    threads = [threading.Thread(target=acquire, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert len([lease for lease in outcomes if lease]) == 1
