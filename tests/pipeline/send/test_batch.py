"""As many records in a request as fit, in order, each of them once."""

from itertools import zip_longest

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.exceptions import RequestTooLargeError
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.protobuf_format import PROTOBUF
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.learned_limits import RequestSize
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from tests.pipeline.sent import message_of

DEFAULT = Envelope()
TOO_LARGE = RequestTooLargeError("too large")


def record(row, record_id, padding=0, origin="XCom"):
    """Return one record: origin, row, id, JSON, entry and namespace."""
    body = orjson.dumps({"id": record_id, "row": row, "text": "x" * padding})
    return origin, row, record_id, body, b"entry %d" % row, ""


def encoded(records):
    return EncodedRecords(*map(list, zip(*records, strict=True))) if records else EncodedRecords.none()


def request_of(records, envelope=DEFAULT):
    return UpsertRequest(encoded(records), envelope)


def records_of(request):
    return list(zip(*request.records, strict=True))


@st.composite
def chunked_records(draw):
    """Draw records of many lengths, in chunks of any length, with some repeated ids."""
    ids = draw(st.sampled_from([st.uuids().map(str), st.integers(0, 20).map(str)]))
    found = draw(st.lists(st.tuples(ids, st.integers(0, 300)), max_size=80))
    records = [record(row, record_id, padding) for row, (record_id, padding) in enumerate(found)]
    cuts = sorted(draw(st.lists(st.integers(0, len(records)), max_size=10)))
    return [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]


NAMESPACES = st.text(st.characters(max_codepoint=127), max_size=20)


@given(
    chunks=chunked_records(),
    namespace=NAMESPACES,
    max_records=st.integers(1, 20),
    max_bytes=st.integers(600, 3_000),
    wire_format=st.sampled_from([JSON, PROTOBUF]),
)
def test_batches_are_full_in_order_and_complete(chunks, namespace, max_records, max_bytes, wire_format):
    source = map(encoded, chunks)
    envelope = Envelope(namespace, wire_format)
    batches = list(Batcher(source, envelope, max_records=max_records, size=RequestSize(max_bytes)))

    assert [one for batch in batches for one in records_of(batch)] == [one for chunk in chunks for one in chunk]
    for batch, following in zip_longest(batches, batches[1:]):
        assert 1 <= len(batch) <= max_records
        assert len(batch.body) <= max_bytes
        assert len(set(batch.ids)) == len(batch)
        if following is not None:
            first = records_of(following)[0]
            one_more = request_of([*records_of(batch), first], batch.envelope)
            assert len(one_more) > max_records or len(one_more.body) > max_bytes or first[2] in batch.ids


@given(chunks=chunked_records(), namespace=NAMESPACES)
def test_a_body_is_json_of_the_records_and_the_namespace(chunks, namespace):
    for batch in Batcher(map(encoded, chunks), Envelope(namespace), max_records=7, size=RequestSize(5_000)):
        body = orjson.loads(b"".join(batch.body))
        assert body.pop("vectors") == [orjson.loads(one) for one in batch.records.bodies]
        assert body == ({"namespace": namespace} if namespace else {})
        assert len(batch.envelope.head + batch.envelope.tail) == batch.envelope.size


def test_a_body_of_protobuf_is_the_records_and_the_namespace():
    bodies = [PROTOBUF.encode(f"r{row}", np.float32([row, 1]), None, {"n": row}) for row in range(300)]
    records = EncodedRecords(
        ["XCom"] * 300, list(range(300)), [f"r{row}" for row in range(300)], bodies, [b""] * 300, ["n" * 300] * 300
    )
    message = message_of(UpsertRequest(records, Envelope("n" * 300, PROTOBUF)))
    assert [(one["id"], one["values"].tolist(), one["metadata"]) for one in message["vectors"]] == [
        (f"r{row}", [row, 1], {"n": row}) for row in range(300)
    ]
    assert message["namespace"] == "n" * 300


@pytest.mark.parametrize("padding", [0, 1_000, 200_000])
def test_a_body_is_joined_in_pieces_each_time_it_is_sent(padding):
    batch = request_of([record(row, f"record {row}", padding) for row in range(500)], Envelope("ns"))
    first, second = list(batch.body), list(batch.body)
    whole = b"".join(first)
    assert first == second
    assert len(whole) == len(batch.body)
    assert bytes(batch.body) == whole
    assert whole == b'{"vectors":[%b],"namespace":"ns"}' % b",".join(batch.records.bodies)
    longest_record = max(map(len, batch.records.bodies))
    assert max(map(len, first)) <= max(150_000, longest_record + 100)
    assert len(first) <= 2 + len(whole) // 100_000


@given(st.integers(2, 50))
def test_halves_are_the_whole_in_order(count):
    batch = request_of([record(row, str(row)) for row in range(count)], Envelope("ns"))
    first, second = batch.halves()
    assert records_of(first) + records_of(second) == records_of(batch)
    assert abs(len(first) - len(second)) <= 1
    assert first.envelope == second.envelope == batch.envelope


@pytest.mark.parametrize("wire_format", [JSON, PROTOBUF])
def test_a_batch_that_is_full_to_the_byte(wire_format):
    two = [record(row, f"same length {row}") for row in range(2)]
    envelope = Envelope("ns", wire_format)
    both = request_of(two, envelope)
    for max_bytes, counts in [(len(both.body), [2]), (len(both.body) - 1, [1, 1])]:
        batches = Batcher([encoded(two)], envelope, max_records=9, size=RequestSize(max_bytes))
        assert [len(batch) for batch in batches] == counts


THREE_BYTES = len(request_of([record(row, str(row)) for row in range(3)]).body)


@pytest.mark.parametrize(
    ("max_records", "max_bytes", "repeats_after", "chunks_read"),
    [(3, 10_000, 100, 3), (9, THREE_BYTES, 100, 4), (9, 10_000, 3, 4)],
    ids=["count", "bytes", "repeated id"],
)
def test_no_more_chunks_are_read_than_a_request_needs(max_records, max_bytes, repeats_after, chunks_read):
    pulled = []

    def chunks():
        for row in range(10):
            pulled.append(row)
            yield encoded([record(row, str(row % repeats_after))])

    batches = iter(Batcher(chunks(), DEFAULT, max_records=max_records, size=RequestSize(max_bytes)))
    for number in range(3):
        assert len(next(batches)) == 3
        assert len(pulled) == chunks_read + 3 * number


@pytest.mark.parametrize(
    ("origins", "location"),
    [
        (["a"], "a, rows 0 to 0"),
        (["a", "a", "a"], "a, rows 0 to 2"),
        (["a", "b", "b"], "a, rows 0 to 0; b, rows 1 to 2"),
        (["a", "b", "c"], "a, rows 0 to 0; …; c, rows 2 to 2"),
    ],
)
def test_a_request_knows_the_location_of_its_records(origins, location):
    assert request_of([record(row, str(row), origin=origin) for row, origin in enumerate(origins)]).location == location


def test_half_the_size_that_the_server_rejected_is_the_limit_from_then_on():
    chunks = [
        encoded([record(row, f"record {row:03}", 80) for row in range(start, start + 50)]) for start in (0, 50, 100)
    ]
    size = RequestSize(4_000)
    batcher = Batcher(chunks, DEFAULT, max_records=1_000, size=size)
    requests = iter(batcher)
    first = next(requests)
    assert len(first) > 20
    size.settled(first, TOO_LARGE)
    others = list(requests)
    assert [one for request in [first, *others] for one in records_of(request)] == [
        one for chunk in chunks for one in zip(*chunk, strict=True)
    ]
    assert max(len(request.body) for request in others) <= len(first.body) // 2
    assert min(len(request) for request in others[:-1]) >= len(first) // 2 - 1


def test_a_record_beyond_a_lowered_limit_is_sent_alone():
    size = RequestSize(900)
    batcher = Batcher([encoded([record(row, str(row), 400) for row in range(6)])], DEFAULT, max_records=2, size=size)
    requests = iter(batcher)
    first = next(requests)
    size.settled(first, TOO_LARGE)
    second = next(requests)
    size.settled(second, TOO_LARGE)  # one record cannot be split, so it lowers nothing
    assert [len(request) for request in [first, second, *requests]] == [2, 1, 1, 1, 1]


def test_exact_row_ranges():
    rows = [("a", 0), ("a", 1), ("a", 3), ("a", 4), ("b", 0), ("b", 7)]
    request = request_of([record(row, str(number), origin=origin) for number, (origin, row) in enumerate(rows)])
    assert [tuple(found) for found in request.row_ranges] == [("a", 0, 2), ("a", 3, 5), ("b", 0, 1), ("b", 7, 8)]
    assert request.location == "a, rows 0 to 4; b, rows 0 to 7"
