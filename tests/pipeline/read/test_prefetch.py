"""Prefetching: the same items in the same order, and never more of them ready than the depth."""

from __future__ import annotations

import threading

import pytest

from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.read.prefetch import prefetch


@pytest.mark.parametrize("depth", [1, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_items_come_in_order(count, depth):
    assert list(prefetch(iter(range(count)), depth, CancellationToken())) == list(range(count))


def test_an_error_comes_where_the_failing_item_would_have_come():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    prefetched = prefetch(items(), 5, CancellationToken())
    assert [next(prefetched), next(prefetched)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(prefetched)


def test_no_more_items_than_the_depth_are_prefetched():
    read = threading.Semaphore(0)
    count = 0

    def items():
        nonlocal count
        for number in range(100):
            count += 1
            read.release()
            yield number

    prefetched = prefetch(items(), 3, CancellationToken())
    assert next(prefetched) == 0
    for _ in range(5):  # one was taken, three are ready, one waits for a free place
        assert read.acquire(timeout=10)
    assert count == 5
    prefetched.close()


def test_nothing_is_read_before_the_first_item_is_requested():
    def items():
        raise AssertionError("read")
        yield

    prefetch(items(), 3, CancellationToken())


def test_the_thread_ends_when_the_iterator_is_closed():
    prefetched = prefetch(iter(range(100)), 2, CancellationToken())
    next(prefetched)
    prefetched.close()
    for thread in threading.enumerate():
        if thread.name == "pinecone-upsert-read":
            thread.join(timeout=10)
            assert not thread.is_alive()
