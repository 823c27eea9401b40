"""Waiting until what was written is searchable: over real HTTP to an index that lags, in a time that the test moves."""

from __future__ import annotations

import json

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.freshness import SETTLE_S, Freshness, Goal, Polling, wait_until_searchable
from tests.state_store import InMemoryStateStore

LAG_S = 20.0


class Clock:
    """A clock that only moves while something sleeps."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lagging(pinecone_index_factory, clock):
    return pinecone_index_factory(dimension=2, lag_s=LAG_S, clock=clock)


@pytest.fixture
def wait(lagging, clock, open_client):
    """Wait for a goal in the namespace ``n`` of the index that lags; return how long it took, in seconds."""

    def wait(timeout_s=600.0, **goal):
        started_s = clock.now
        freshness = Freshness(open_client(lagging.url, attempts=1), Goal("n", **goal), clock)
        wait_until_searchable(freshness, Polling(timeout_s, clock, clock.sleep, CancellationToken()))
        return clock.now - started_s

    return wait


@pytest.fixture
def write(lagging, run, rows):
    """Upsert records into the namespace ``n``; return the report."""
    return lambda count, **more: run(lagging, rows(count, **more), namespace="n")


def without_positions(index, count=1_000):
    """Let queries answer without a position, as a server that does not report any."""
    index.faults.next(Fault.body(200, b'{"matches":[]}', "application/json"), path="/query", times=count)


def test_a_write_is_waited_for_until_a_query_reports_its_position(wait, write, lagging):
    report = write(3)
    assert report.lsn == report.as_output()["lsn"] == lagging.store.lsn
    assert LAG_S <= wait(lsn=report.lsn) <= LAG_S + 1
    assert wait(lsn=report.lsn) == 0


def test_a_number_of_records_is_waited_for_in_addition(wait, write, clock):
    first = write(3)
    clock.sleep(LAG_S)
    write(2, start=3)
    assert LAG_S <= wait(lsn=first.lsn, min_records=5) <= LAG_S + 1


@pytest.mark.parametrize("lsn", [None, 1], ids=["the write reports no position", "the query reports no position"])
def test_without_positions_the_count_must_settle(*, wait, write, lagging, clock, caplog, lsn):
    caplog.set_level("INFO")
    write(3)
    clock.sleep(5)
    write(2, start=3)
    without_positions(lagging)
    # Three records after 15 s, five after 20 s, and then the same for some time.
    assert LAG_S + SETTLE_S <= wait(lsn=lsn) <= LAG_S + SETTLE_S + 2
    assert caplog.text.count("reports no position of its writes") == 1


@pytest.mark.parametrize(("goal", "ends"), [({}, False), ({"min_records": 0}, True), ({"fallback_records": 0}, True)])
def test_an_empty_namespace_is_settled_only_where_that_is_expected(wait, goal, ends):
    if ends:
        assert wait(**goal) >= SETTLE_S
    else:
        with pytest.raises(exceptions.NotSearchableError, match="it holds 0 records"):
            wait(timeout_s=60, **goal)


def test_the_error_says_what_was_seen(wait, write):
    lsn = write(3).lsn
    with pytest.raises(exceptions.NotSearchableError) as caught:
        wait(timeout_s=5, lsn=lsn)
    assert str(caught.value).endswith(
        f"is not searchable as expected after 5 s: a query sees the writes up to LSN 0, the last one has {lsn}. "
        "Run the task again to wait longer, or raise searchable_timeout_s."
    )
    assert isinstance(caught.value, exceptions.TransientError)
    assert wait(lsn=lsn) > 0
    with pytest.raises(exceptions.NotSearchableError, match="it holds 3 records; min_records is 9"):
        wait(timeout_s=5, lsn=lsn, min_records=9)


def test_a_server_that_does_not_answer_at_the_moment_is_asked_again(wait, write, lagging, caplog):
    lsn = write(3).lsn
    lagging.faults.next(Fault.status(503), path="/query", times=3)
    assert LAG_S <= wait(lsn=lsn) <= LAG_S + 1
    assert caplog.text.count("answered 503") >= 3
    lagging.faults.next(Fault.status(503, "away"), path="/query", times=99)
    with pytest.raises(exceptions.NotSearchableError, match=r"the last poll failed: .*away"):
        wait(timeout_s=5, lsn=lsn)


def test_an_error_that_a_retry_cannot_fix_ends_the_wait(wait, lagging):
    lagging.faults.next(Fault.status(401, "Invalid API Key"), path="/query")
    with pytest.raises(exceptions.AuthenticationError):
        wait(lsn=1)


def test_a_cancelled_wait_ends(lagging, clock, open_client):
    token = CancellationToken()

    def sleep(seconds):
        clock.sleep(seconds)
        token.cancel()

    freshness = Freshness(open_client(lagging.url), Goal("n", lsn=7), clock)
    with pytest.raises(exceptions.IncompleteUpsertError, match="was cancelled"):
        wait_until_searchable(freshness, Polling(600, clock, sleep, token))


# In a run ---------------------------------------------------------------------------------------


def test_an_upsert_ends_once_its_records_are_searchable(pinecone_index_factory, run, rows):
    index = pinecone_index_factory(dimension=2, lag_s=0.2)
    report = run(index, rows(5), wait_until_searchable=True)
    assert index.store.visible_lsn >= report.lsn
    without = run(index, rows(5))
    assert [one.path for one in index.requests][-1] == "/vectors/upsert"
    assert without.lsn > report.lsn


def test_an_upsert_of_nothing_does_not_wait(index, run):
    assert run(index, [], wait_until_searchable=True).lsn is None
    assert [one.path for one in index.requests] == ["/describe_index_stats"]


def test_a_retry_only_waits_and_knows_the_position_from_the_checkpoint(pinecone_index_factory, run, rows, write_file):
    clock, store, path = Clock(), InMemoryStateStore(), write_file(rows(5))
    index = pinecone_index_factory(dimension=2, lag_s=LAG_S, clock=clock)
    options = {"wait_until_searchable": True, "searchable_timeout_s": 0.01, "state": store}
    with pytest.raises(exceptions.NotSearchableError, match=r"after 0\.01 s"):
        run(index, path, **options)
    lsn, sent = run.report.lsn, len([one for one in index.requests if one.path == "/vectors/upsert"])
    assert run.report.upserted_count == 5
    clock.sleep(LAG_S)
    report = run(index, path, **options)
    assert (report.lsn, report.resumed_count) == (lsn, 5)
    assert len([one for one in index.requests if one.path == "/vectors/upsert"]) == sent
    assert "resume" not in store


def test_a_checkpoint_without_a_position_is_usable(index, run, rows, write_file):
    store, path = InMemoryStateStore(), write_file(rows(5))
    index.faults.next(Fault.status(401, "Invalid API Key"), path="/query")
    with pytest.raises(exceptions.AuthenticationError):
        run(index, path, wait_until_searchable=True, state=store)
    stored = json.loads(store["resume"])
    assert stored.pop("lsn") > 0
    store["resume"] = json.dumps(stored)
    assert (run(index, path, state=store).lsn, run.report.resumed_count) == (None, 5)


@pytest.fixture
def write_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(records):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "records.parquet")
        return tmp_path / "records.parquet"

    return write
