"""Swaps over real HTTP: the alias, the guard, freshness, what is deleted, and a fault at every request."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.reindex.swap import swap
from airflow_pinecone_upsert.reindex.swap_options import SwapOptions
from tests.state_store import InMemoryStateStore
from tests.test_client import numbered, upsert_request

NO_FAULT = Fault.stall(0.0)


@dataclass
class Clock:
    """Virtual time, which only a wait moves."""

    seconds: float = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def index(pinecone_index_factory, clock):
    """An index whose writes are visible after two seconds."""
    return pinecone_index_factory(dimension=2, metric="dotproduct", lag_s=2.0, clock=clock.now)


@pytest.fixture
def client(index, open_client):
    return open_client(index.url, attempts=1)


@pytest.fixture
def fill(client):
    """Fill namespaces: ``fill(v1=10, v2=12)``; return the LSN of the last write."""

    def fill(**counts):
        for name, count in counts.items():
            lsn = client.upsert(request(count, name)).lsn
        return lsn

    return fill


def request(count, namespace):
    return upsert_request(*numbered(count), namespace=namespace.replace("_", "-"))


@pytest.fixture
def run(client, clock):
    def run(target, **parameters):
        seams = {key: parameters.pop(key) for key in ("state", "cancellation") if key in parameters}
        options = SwapOptions.checked(alias="live", target_namespace=target, **parameters)
        return swap(client, options, now=clock.now, sleep=clock.sleep, **seams)

    return run


def names(client):
    return sorted(namespace.name for namespace in client.list_namespaces())


def target_of(client):
    return client.describe_alias("live").target_namespace


# The alias --------------------------------------------------------------------------------------


def test_an_alias_is_created_then_repointed_and_serves_queries(index, client, run, fill):
    lsn = fill(v1=10, v2=12)
    assert run("v1", lsn=lsn).as_output() == {
        "alias": "live",
        "targetNamespace": "v1",
        "previousNamespace": None,
        "recordCount": 10,
        "previousRecordCount": None,
        "deletedNamespaces": [],
        "namespace": "live",
        "indexHost": index.url,
    }
    report = run("v2", lsn=lsn)
    assert (report.previous_namespace, report.previous_record_count, report.record_count) == ("v1", 10, 12)
    assert (target_of(client), client.serving_namespace("live")) == ("v2", "v2")
    assert names(client) == ["v1", "v2"]


def test_the_previous_namespace_as_the_target_is_the_rollback(client, run, fill):
    lsn = fill(a_1=10, a_2=10, a_3=10)
    for target in ("a-1", "a-2", "a-3"):
        run(target, lsn=lsn, namespace_prefix="a-", keep=2)
    report = run("a-2", namespace_prefix="a-", keep=2)
    assert (target_of(client), report.previous_namespace) == ("a-2", "a-3")
    assert names(client) == ["a-1", "a-2", "a-3"]


def test_the_default_namespace_is_a_target(client, run, fill):
    lsn = client.upsert(request(5, "")).lsn
    assert run("", lsn=lsn).target_namespace == "__default__"
    assert target_of(client) == "__default__"


def test_a_target_that_does_not_exist_is_named(client, run, fill):
    run("v1", lsn=fill(v1=10))
    with pytest.raises(exceptions.NotFoundError, match=r"'v9' does not exist .*The alias 'live' still points to 'v1'"):
        run("v9")
    assert target_of(client) == "v1"


def test_a_404_of_another_host_is_no_missing_namespace(index, run):
    index.faults.next(Fault.status(404, "no such host"), times=9)
    with pytest.raises(exceptions.NotFoundError, match="Check the index host"):
        run("v1")


def test_a_name_that_a_namespace_has_is_no_alias(client, fill, clock):
    lsn = fill(v1=10, live=10)
    with pytest.raises(exceptions.SetupError, match="Choose another name for the alias"):
        swap(
            client, SwapOptions.checked(alias="live", target_namespace="v1", lsn=lsn), now=clock.now, sleep=clock.sleep
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alias": "v1"}, "alias and target_namespace are equal"),
        ({"alias": ""}, "alias: "),
        ({"namespace_prefix": ""}, "namespace_prefix: "),
        ({"namespace_prefix": "w"}, "does not begin with namespace_prefix 'w'"),
        ({"keep": -1}, "keep: "),
        ({"max_shrink_fraction": 1.5}, "max_shrink_fraction: "),
        ({"lsn": "soon"}, "lsn: "),
        ({"target_namespace": "ü"}, "target_namespace: "),
    ],
)
def test_options_are_validated_and_named(wrong, message):
    with pytest.raises(exceptions.SetupError, match=f"Invalid parameters: .*{re.escape(message)}"):
        SwapOptions.checked(**{"alias": "live", "target_namespace": "v1", **wrong})


def test_an_alias_that_something_else_serves_fails_and_deletes_nothing(index, client, run, fill, clock):
    lsn = fill(a_1=10, a_2=10, a_3=10)
    answer = Fault.body(200, b'{"matches":[],"namespace":"a-2"}', "application/json")
    index.faults.next(answer, path="/query", times=99)
    with pytest.raises(exceptions.VerificationError, match="queries are served by 'a-2'"):
        run("a-3", namespace_prefix="a-", keep=0)
    assert names(client) == ["a-1", "a-2", "a-3"]
    index.faults.clear()
    assert run("a-3", lsn=lsn, namespace_prefix="a-", keep=0).deleted_namespaces == ["a-1", "a-2"]


# Freshness and the guard ------------------------------------------------------------------------


def test_it_waits_until_the_last_write_is_searchable(client, run, fill, clock):
    assert run("v1", lsn=fill(v1=10)).record_count == 10
    assert clock.seconds >= 2.0


@pytest.mark.parametrize("reports_position", [True, False])
def test_without_a_position_it_waits_until_the_count_is_settled(index, run, fill, clock, reports_position):
    lsn = fill(v1=10)
    if not reports_position:
        answer = Fault.body(200, b'{"matches":[],"namespace":"v1"}', "application/json")
        index.faults.next(answer, path="/query", times=99)
    assert run("v1", lsn=None if reports_position else lsn, min_records=10).record_count == 10
    assert clock.seconds >= 10.0


def test_a_target_that_never_becomes_searchable_fails_and_changes_nothing(client, run, fill):
    lsn = fill(v1=10)
    with pytest.raises(exceptions.NotSearchableError, match="raise searchable_timeout_s"):
        run("v1", lsn=lsn + 10, searchable_timeout_s=5.0)
    assert list(client.list_aliases()) == []


@pytest.mark.parametrize(
    ("parameters", "least"),
    [
        ({"min_records": 81}, 81),
        ({"min_records": 1, "max_shrink_fraction": 0.1}, 90),
        ({"min_records": 95, "max_shrink_fraction": 0.1}, 95),
        ({}, None),
        ({"max_shrink_fraction": 1.0}, None),
        ({"min_records": 80}, None),
    ],
)
def test_a_target_with_too_few_records_is_not_swapped_in(client, run, fill, parameters, least):
    lsn = fill(v1=100, v2=80)
    run("v1", lsn=lsn)
    if least is None:
        run("v2", lsn=lsn, **parameters)
        assert target_of(client) == "v2"
        return
    with pytest.raises(
        exceptions.SetupError, match=rf"'v2' holds 80 records, and at least {least} are required"
    ) as caught:
        run("v2", lsn=lsn, **parameters)
    assert "The alias 'live' still points to 'v1'." in str(caught.value)
    assert target_of(client) == "v1"


def test_an_empty_namespace_is_not_swapped_in(client, run, fill):
    lsn = fill(v1=1)
    client.create_alias("other", "v1")  # otherwise the namespace would end with its last record
    client.delete(ids=["r0000"], namespace="v1")
    with pytest.raises(
        exceptions.SetupError, match=r"holds 0 records.*min_records is 1.*The alias 'live' was not created"
    ):
        run("v1", lsn=lsn + 1)


# Old namespaces ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "deleted"),
    [(0, ["a-1", "a-2", "a-3"]), (1, ["a-1", "a-3"]), (2, ["a-1"]), (3, []), (9, [])],
)
def test_old_namespaces_are_deleted_and_the_previous_one_is_kept_first(client, run, fill, keep, deleted):
    """``a-3`` was filled in a run that failed, so that ``a-2`` is what a rollback needs."""
    lsn = fill(a_1=10, a_2=10, a_3=10, a_4=10, a_5=10, b_1=10)
    run("a-2", lsn=lsn)
    report = run("a-4", lsn=lsn, namespace_prefix="a-", keep=keep)
    assert report.deleted_namespaces == deleted
    assert names(client) == sorted({"a-1", "a-2", "a-3", "a-4", "a-5", "b-1"} - set(deleted))


def test_without_a_prefix_nothing_is_deleted(client, run, fill):
    lsn = fill(a_1=10, a_2=10)
    run("a-1", lsn=lsn)
    assert run("a-2", lsn=lsn, keep=0).deleted_namespaces == []
    assert names(client) == ["a-1", "a-2"]


def test_a_namespace_that_an_alias_points_to_is_kept(index, client, run, fill):
    lsn = fill(a_1=10, a_2=10, a_3=10)
    client.create_alias("pinned", "a-1")
    assert run("a-3", lsn=lsn, namespace_prefix="a-", keep=0).deleted_namespaces == ["a-2"]
    assert "/namespaces/a-1" not in {request.path for request in index.requests if request.method == "DELETE"}


def test_a_namespace_that_an_alias_points_to_meanwhile_is_kept(index, client, run, fill, caplog):
    lsn = fill(a_1=10, a_2=10, a_3=10)
    client.create_alias("pinned", "a-1")
    none_yet = Fault.body(200, b'{"namespace_aliases":[]}', "application/json")  # as it was before
    client.create_alias("live", "a-3")
    index.faults.next(none_yet, path="/namespace-aliases")
    assert run("a-3", lsn=lsn, namespace_prefix="a-", keep=0).deleted_namespaces == ["a-2"]
    assert "'a-1' is not deleted" in caplog.text
    assert names(client) == ["a-1", "a-3"]


# A fault at every request -----------------------------------------------------------------------

FAULTS = {
    "nothing is done": Fault.status(503),
    "the response is lost": Fault.lost_ack(),
    "the key is revoked": Fault.status(401, "Invalid API Key"),
}


@pytest.fixture
def world(client, run, fill):
    """Five namespaces, of which the alias serves the second; a further one belongs to another alias."""
    lsn = fill(a_0=10, a_1=10, a_2=10, a_3=10, a_4=10, b_1=10)
    client.create_alias("pinned", "a-0")
    run("a-2", lsn=lsn)
    return lsn


def outcome(client):
    return names(client), {alias.name: alias.target_namespace for alias in client.list_aliases()}


SWAPPED = (["a-0", "a-2", "a-4", "b-1"], {"live": "a-4", "pinned": "a-0"})


REQUESTS = 12
"""Of the swap below; a test counts them."""


@pytest.fixture(params=FAULTS)
def until_success(index, request):
    """Try until it succeeds, as Airflow does, with a fault at one request of the first try."""

    def until_success(attempt, number):
        if number:
            index.faults.next(NO_FAULT, times=number)
        index.faults.next(FAULTS[request.param])
        try:
            return attempt()
        except exceptions.PineconeUpsertError:
            # Whatever failed, what the alias served before and what it is to serve are there.
            assert {"a-2", "a-4"} <= set(index.store.namespaces())
            index.faults.clear()
            return attempt()
        finally:
            index.faults.clear()

    return until_success


@pytest.mark.parametrize("number", range(REQUESTS))
def test_a_swap_converges_when_any_of_its_requests_fails(client, run, world, until_success, number):
    state = InMemoryStateStore()
    report = until_success(lambda: run("a-4", lsn=world, namespace_prefix="a-", keep=1, state=state), number)
    assert outcome(client) == SWAPPED
    assert (report.previous_namespace, report.previous_record_count) == ("a-2", 10)
    assert set(report.deleted_namespaces) <= {"a-1", "a-3"}
    assert state == {}


@pytest.mark.parametrize("number", range(REQUESTS))
def test_without_a_state_store_a_swap_keeps_by_name(client, run, fill, until_success, number):
    lsn = fill(a_1=10, a_2=10, a_4=10)
    run("a-2", lsn=lsn)
    until_success(lambda: run("a-4", lsn=lsn, namespace_prefix="a-", keep=1), number)
    assert (names(client), target_of(client)) == (["a-2", "a-4"], "a-4")


def test_the_number_of_requests_is_what_the_test_above_goes_through(index, client, run, world):
    before = len(index.requests)
    run("a-4", lsn=world, namespace_prefix="a-", keep=1)
    assert len(index.requests) - before == REQUESTS


def test_the_state_of_another_swap_is_not_used(client, run, world):
    state = InMemoryStateStore(swap={"alias": "live", "target": "other", "previous": "a-9", "deleted": ["x"]})
    report = run("a-4", lsn=world, state=state)
    assert (report.previous_namespace, report.deleted_namespaces) == ("a-2", [])


def test_a_state_store_that_fails_does_not_fail_the_swap(client, run, world, caplog):
    class BrokenStore(InMemoryStateStore):
        def _fail(self, *_):
            raise OSError("the database is away")

        get = set = delete = _fail

    assert run("a-4", lsn=world, namespace_prefix="a-", state=BrokenStore()).previous_namespace == "a-2"
    assert "The state of the swap could not be saved: the database is away." in caplog.text


def test_a_cancelled_swap_changes_nothing(client, run, world):
    cancellation = CancellationToken("swap")
    cancellation.cancel()
    with pytest.raises(exceptions.IncompleteUpsertError, match="The swap was cancelled"):
        run("a-4", lsn=world + 100, cancellation=cancellation)
    assert target_of(client) == "a-2"
