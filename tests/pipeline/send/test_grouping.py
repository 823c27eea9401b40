"""Records of many namespaces: each once, in the order of its namespace, and no more of them wait than the window has."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.exceptions import RequestTooLargeError
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.grouping import NamespaceBatcher
from airflow_pinecone_upsert.pipeline.send.learned_limits import RequestSize
from airflow_pinecone_upsert.pipeline.send.requests import Envelope

COUNTED_BYTES = 500
"""What a record counts besides its body."""


def encoded(records):
    """Make records of ``(row, namespace, padding)``."""
    rows, namespaces, padding = map(list, zip(*records, strict=True)) if records else ([], [], [])
    bodies = [orjson.dumps({"row": row, "text": "x" * size}) for row, size in zip(rows, padding, strict=True)]
    count = len(rows)
    return EncodedRecords(["f"] * count, rows, [f"r{row}" for row in rows], bodies, [b""] * count, namespaces)


def batched(chunks, *, max_records=1_000, max_bytes=2_000_000, window_bytes=32_000_000):
    size = RequestSize(max_bytes)

    def create(namespace):
        return Batcher((), Envelope(namespace), max_records=max_records, size=size)

    return NamespaceBatcher(chunks, create, window_bytes=window_bytes)


@st.composite
def chunked_records(draw):
    found = draw(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 300)), max_size=80))
    records = [(row, namespace, padding) for row, (namespace, padding) in enumerate(found)]
    cuts = sorted(draw(st.lists(st.integers(0, len(records)), max_size=10)))
    return [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]


@given(chunked_records(), st.integers(1, 20), st.integers(600, 3_000), st.integers(0, 20_000))
def test_each_record_is_in_one_request_of_its_namespace_in_order(chunks, max_records, max_bytes, window_bytes):
    source = [one for chunk in chunks for one in chunk]
    came, sent = [], []

    def read():
        for chunk in chunks:
            came.extend(chunk)
            yield encoded(chunk)

    largest_chunk = max(len(chunk) for chunk in chunks) * (COUNTED_BYTES + 350)
    for request in batched(read(), max_records=max_records, max_bytes=max_bytes, window_bytes=window_bytes):
        assert set(request.records.namespaces) == {request.namespace}
        assert len(request) <= max_records
        assert len(request.body) <= max_bytes
        sent += zip(request.records.namespaces, request.records.rows, strict=True)
        waiting = (len(came) - len(sent)) * COUNTED_BYTES
        assert waiting <= window_bytes + largest_chunk
    for namespace in "abcde":
        rows = [row for name, row in sent if name == namespace]
        assert rows == [row for row, name, _ in source if name == namespace]


@pytest.mark.parametrize("namespaces", [["a"], ["a", "b", "c"]])
def test_sorted_records_fill_requests_as_those_of_one_namespace_do(namespaces):
    records = [(row, name, 100) for row, name in enumerate(name for name in namespaces for _ in range(250))]
    chunks = [encoded(records[start : start + 70]) for start in range(0, len(records), 70)]
    requests = list(batched(chunks, max_records=100))
    assert sorted(map(len, requests)) == sorted([100, 100, 50] * len(namespaces))


def test_records_that_alternate_share_requests():
    """Ten namespaces: each request gets about a fifth of the window, twice a tenth."""
    records = [(row, f"n{row % 10}", 480) for row in range(3_000)]
    chunks = [encoded(records[start : start + 50]) for start in range(0, len(records), 50)]
    requests = list(batched(chunks, window_bytes=500 * 1_000))
    assert len(requests) < 50


def test_a_record_waits_for_at_most_two_windows():
    records = [(0, "rare", 500), *((row, "frequent", 500) for row in range(1, 1_000))]
    chunks = [encoded(records[start : start + 10]) for start in range(0, len(records), 10)]
    requests = list(batched(chunks, max_records=10, window_bytes=100_000))
    rare = next(number for number, request in enumerate(requests) if request.namespace == "rare")
    assert 10 < rare < 25


def test_a_record_that_a_lowered_size_leaves_behind_waits_no_longer():
    """Of the five records that wait in ``a``, four fit into a request while ``b`` tries out a larger one."""
    size = RequestSize(2_000, 4_000)
    names = ["a"] * 5 + ["b"] * 7 + ["c"] * 28 + ["a"] + ["c"] * 60
    came = []

    def read():
        for row, name in enumerate(names):
            came.append(row)
            yield encoded([(row, name, 380)])

    def create(namespace):
        return Batcher((), Envelope(namespace), max_records=1_000, size=size)

    left = {}
    for request in NamespaceBatcher(read(), create, window_bytes=20_000):
        left.update(dict.fromkeys(request.records.rows, len(came)))
    assert left[3] == 41
    assert 41 < left[4] <= 2 * 20_000 / (COUNTED_BYTES + 380) + 2


def test_a_size_that_one_namespace_was_refused_counts_for_all():
    size = RequestSize(4_000)
    batcher = NamespaceBatcher(
        [encoded([(row, "ab"[row % 2], 80) for row in range(200)])],
        lambda name: Batcher((), Envelope(name), max_records=1_000, size=size),
    )
    requests = iter(batcher)
    first = next(requests)
    size.settled(first, RequestTooLargeError("too large"))
    assert max(len(request.body) for request in requests) <= len(first.body) // 2
