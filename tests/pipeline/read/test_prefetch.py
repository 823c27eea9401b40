"""Reading ahead: the same items, in the same order, never more of them than were asked for."""

from __future__ import annotations

import threading

import pytest

from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.read.prefetch import prefetch


@pytest.mark.parametrize("depth", [1, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_the_items_come_in_order(count, depth):
    assert list(prefetch(iter(range(count)), depth, CancellationToken())) == list(range(count))


def test_an_error_comes_where_the_item_would_have_come():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    ahead = prefetch(items(), 5, CancellationToken())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_it_reads_ahead_and_no_further_than_its_depth():
    read = threading.Semaphore(0)
    count = 0

    def items():
        nonlocal count
        for number in range(100):
            count += 1
            read.release()
            yield number

    ahead = prefetch(items(), 3, CancellationToken())
    assert next(ahead) == 0
    for _ in range(5):  # one was taken, three are ready, one is waiting for its place
        assert read.acquire(timeout=10)
    assert count == 5
    ahead.close()


def test_nothing_is_read_before_the_first_item_is_asked_for():
    def items():
        raise AssertionError("read")
        yield

    prefetch(items(), 3, CancellationToken())


def test_the_thread_ends_when_nobody_wants_more():
    ahead = prefetch(iter(range(100)), 2, CancellationToken())
    next(ahead)
    ahead.close()
    for thread in threading.enumerate():
        if thread.name == "pinecone-upsert-read":
            thread.join(timeout=10)
            assert not thread.is_alive()
