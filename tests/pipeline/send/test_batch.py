"""As many records in a request as fit, in order, every one of them once."""

from itertools import zip_longest

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import fill_batches
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

DEFAULT = Envelope()


def fragment(row, record_id, padding=0, origin="XCom"):
    """Return one record: origin, row, id and JSON."""
    return origin, row, record_id, orjson.dumps({"id": record_id, "row": row, "text": "x" * padding})


def fragments_of(records):
    return EncodedRecords(*map(list, zip(*records, strict=True))) if records else EncodedRecords([], [], [], [])


def batch_of(records, envelope=DEFAULT):
    return UpsertRequest(fragments_of(records), envelope)


def records_of(batch):
    return list(zip(*batch.fragments, strict=True))


@st.composite
def chunked_fragments(draw):
    """Draw fragments of many lengths, in chunks of any length, ids repeated now and then."""
    ids = draw(st.sampled_from([st.uuids().map(str), st.integers(0, 20).map(str)]))
    found = draw(st.lists(st.tuples(ids, st.integers(0, 300)), max_size=80))
    fragments = [fragment(row, record_id, padding) for row, (record_id, padding) in enumerate(found)]
    cuts = sorted(draw(st.lists(st.integers(0, len(fragments)), max_size=10)))
    return [fragments[start:end] for start, end in zip([0, *cuts], [*cuts, len(fragments)], strict=True)]


NAMESPACES = st.text(st.characters(max_codepoint=127), max_size=20)


@given(
    chunks=chunked_fragments(),
    namespace=NAMESPACES,
    max_records=st.integers(1, 20),
    max_bytes=st.integers(600, 3_000),
)
def test_batches_are_full_in_order_and_complete(chunks, namespace, max_records, max_bytes):
    source = map(fragments_of, chunks)
    batches = list(fill_batches(source, Envelope(namespace), max_records=max_records, max_bytes=max_bytes))

    assert [one for batch in batches for one in records_of(batch)] == [one for chunk in chunks for one in chunk]
    for batch, following in zip_longest(batches, batches[1:]):
        assert 1 <= len(batch) <= max_records
        assert len(batch.body) <= max_bytes
        assert len(set(batch.ids)) == len(batch)
        if following is not None:
            first = records_of(following)[0]
            one_more = batch_of([*records_of(batch), first], batch.envelope)
            assert len(one_more) > max_records or len(one_more.body) > max_bytes or first[2] in batch.ids


@given(chunks=chunked_fragments(), namespace=NAMESPACES)
def test_a_body_is_json_of_the_records_and_the_namespace(chunks, namespace):
    for batch in fill_batches(map(fragments_of, chunks), Envelope(namespace), max_records=7, max_bytes=5_000):
        body = orjson.loads(b"".join(batch.body))
        assert body.pop("vectors") == [orjson.loads(one) for one in batch.fragments.bodies]
        assert body == ({"namespace": namespace} if namespace else {})
        assert len(batch.envelope.head + batch.envelope.tail) == batch.envelope.size


@pytest.mark.parametrize("padding", [0, 1_000, 200_000])
def test_a_body_is_made_in_pieces_as_often_as_it_is_sent(padding):
    batch = batch_of([fragment(row, f"record {row}", padding) for row in range(500)], Envelope("ns"))
    first, second = list(batch.body), list(batch.body)
    whole = b"".join(first)
    assert first == second
    assert len(whole) == len(batch.body)
    assert whole == b'{"vectors":[%b],"namespace":"ns"}' % b",".join(batch.fragments.bodies)
    longest_record = max(map(len, batch.fragments.bodies))
    assert max(map(len, first)) <= max(150_000, longest_record + 100)
    assert len(first) <= 2 + len(whole) // 100_000


@given(st.integers(2, 50))
def test_halves_are_the_whole_in_order(count):
    batch = batch_of([fragment(row, str(row)) for row in range(count)], Envelope("ns"))
    first, second = batch.halves()
    assert records_of(first) + records_of(second) == records_of(batch)
    assert second.first == first.first + len(first)
    assert abs(len(first) - len(second)) <= 1
    assert first.envelope == second.envelope == batch.envelope


def test_a_batch_that_is_full_to_the_byte():
    two = [fragment(row, f"same length {row}") for row in range(2)]
    both = batch_of(two)
    for max_bytes, counts in [(len(both.body), [2]), (len(both.body) - 1, [1, 1])]:
        batches = fill_batches([fragments_of(two)], Envelope(), max_records=9, max_bytes=max_bytes)
        assert [len(batch) for batch in batches] == counts


def test_a_batch_is_pulled_from_no_more_chunks_than_it_needs():
    pulled = []

    def chunks():
        for row in range(100):
            pulled.append(row)
            yield fragments_of([fragment(row, str(row))])

    batches = fill_batches(chunks(), Envelope(), max_records=3, max_bytes=10_000)
    next(batches)
    assert pulled == [0, 1, 2]


@pytest.mark.parametrize(
    ("origins", "place"),
    [
        (["a"], "a, rows 0 to 0"),
        (["a", "a", "a"], "a, rows 0 to 2"),
        (["a", "b", "b"], "a, rows 0 to 0; b, rows 1 to 2"),
        (["a", "b", "c"], "a, rows 0 to 0; …; c, rows 2 to 2"),
    ],
)
def test_a_batch_knows_the_place_of_its_records(origins, place):
    assert batch_of([fragment(row, str(row), origin=origin) for row, origin in enumerate(origins)]).place == place
