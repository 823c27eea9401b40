"""Limits grow up to their ceilings, never after a refusal, and a later try starts with what was learned."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.learned import Learned, LearnedLimit
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.learned_limits import ByteRate, ByteRates, LearnedLimits, RequestSize
from airflow_pinecone_upsert.pipeline.send.policy import Retry, Split, decide
from airflow_pinecone_upsert.pipeline.send.requests import Envelope

TOO_LARGE = exceptions.RequestTooLargeError("too large")
LOST = exceptions.TransportError("connection reset")
CEILING, SAFE = 4_000, 2_000


def records(count: int, *, metadata_bytes: int = 0) -> EncodedRecords:
    bodies = [
        orjson.dumps({"id": f"r{row}", "values": [0.123456789] * 8, "metadata": {"x": "x" * metadata_bytes}})
        for row in range(count)
    ]
    ids = [f"r{row}" for row in range(count)]
    return EncodedRecords(["f"] * count, list(range(count)), ids, bodies, [b""] * count, [""] * count)


@given(limit=st.integers(300, 5_000), window=st.integers(1, 8), error=st.sampled_from([TOO_LARGE, LOST]))
def test_a_request_grows_to_what_the_server_takes_at_the_price_of_one(limit, window, error):
    size = RequestSize(SAFE, CEILING, SAFE)
    in_flight, refused, largest = [], [], 0
    for request in Batcher([records(200)], Envelope(), max_records=1_000, size=size):
        assert len(request.body) <= CEILING
        assert request.binary_units() <= SAFE
        if size.is_final:
            assert len(request.body) <= max(largest, SAFE), "it grows after a refusal"
        in_flight.append(request)
        assert sum(map(size.is_probe, in_flight)) <= 1
        if len(in_flight) == window:
            one = in_flight.pop(0)
            is_refused = len(one.body) > max(limit, SAFE)
            refused += [one] * is_refused
            largest = largest if is_refused else max(largest, len(one.body))
            size.settled(one, error if is_refused else None)
    assert len(refused) <= 1
    assert size.accepted <= max(limit, SAFE)


def test_a_size_below_the_safe_reading_is_halved_as_before():
    size = RequestSize(SAFE, CEILING, SAFE)
    first, second, *_ = Batcher([records(200)], Envelope(), max_records=12, size=size)
    size.settled(first, TOO_LARGE)
    assert (size.accepted, size.max_bytes, size.is_final) == (len(first.body) // 2, len(first.body) // 2, True)
    size.settled(second, None)
    assert size.accepted == len(first.body) // 2


@pytest.mark.parametrize(("is_probe", "decision"), [(True, Split), (False, Retry)])
def test_a_probe_whose_connection_breaks_is_split(is_probe, decision):
    found = decide(LOST, attempt=1, max_attempts=10, items=2, random=lambda: 0.5, is_probe=is_probe)
    assert isinstance(found, decision)


@given(
    ids=st.lists(st.text(st.characters(max_codepoint=127, exclude_characters="\0"), min_size=1), min_size=1),
    dense=st.integers(0, 5),
    sparse=st.integers(0, 5),
    metadata=st.dictionaries(st.text(), st.one_of(st.text(), st.lists(st.text()), st.booleans())),
)
@example(ids=[",", 'x",', '","values":[', "\\"], dense=2, sparse=1, metadata={})
def test_the_binary_size_is_not_underestimated(ids, dense, sparse, metadata):
    vectors = {"values": [0.25] * dense} if dense else {}
    if sparse:
        vectors["sparseValues"] = {"indices": list(range(sparse)), "values": [0.5] * sparse}
    extra = {"metadata": metadata} if metadata else {}
    bodies = [orjson.dumps({"id": one, **vectors, **extra}) for one in ids]
    least = 4 * dense + 8 * sparse + (len(orjson.dumps(metadata)) if metadata else 0)
    for record_id, size in zip(ids, JSON.binary_sizes(bodies), strict=True):
        assert least + len(record_id) <= size <= least + len(orjson.dumps(record_id)) + 30


def used(rate: ByteRate, seconds: float, start: float = 0.0, *, share: float = 1.0) -> float:
    """Start units at a share of the rate; return the time at the end."""
    now = start
    while now < start + seconds:
        rate.started(0.1 * rate.per_second * share, now)
        now += 0.1
    return now


def test_a_rate_that_is_used_grows_and_one_that_is_not_used_does_not():
    rates = ByteRates(50e6, 50e6)
    rate, idle = rates.create(), rates.create()
    used(rate, 30)
    used(idle, 30, share=0.8)
    assert rate.per_second > 150e6
    assert (idle.per_second, rates.learned) == (50e6, LearnedLimit(50e6))


def test_the_smallest_rate_of_the_namespaces_is_what_was_learned():
    rates = ByteRates(50e6, 50e6)
    assert rates.learned.value == 50e6
    first, second = rates.create(), rates.create()
    used(first, 30)
    assert rates.learned.value == 50e6
    used(second, 10)
    assert 50e6 < rates.learned.value < second.per_second < first.per_second


@given(first_s=st.floats(1, 60), second_s=st.floats(1, 60), more=st.floats(1, 60))
def test_a_refusal_in_one_namespace_ends_the_growth_in_all(first_s, second_s, more):
    rates = ByteRates(50e6, 50e6)
    first, second = rates.create(), rates.create()
    end_first, end_second = used(first, first_s), used(second, second_s)
    first.throttled(end_first, end_first)
    before = second.per_second
    used(second, 0.1, end_second)
    found = second.per_second
    assert found <= before
    used(second, more, end_second)
    assert second.per_second == found
    third = rates.create()
    used(third, more)
    assert third.per_second == 50e6
    assert rates.learned == LearnedLimit(50e6, is_final=True)


@given(seconds=st.floats(1, 60), more=st.floats(1, 60))
def test_a_rate_does_not_grow_after_a_refusal(seconds, more):
    rates = ByteRates(50e6, 50e6)
    rate = rates.create()
    now = used(rate, seconds)
    before = rate.per_second
    is_step_taken_back = rate.throttled(now, now)
    assert is_step_taken_back == (rate.per_second < before)
    found = rate.per_second
    used(rate, more, now)
    assert rate.per_second == found == rates.learned.value


def ceiling_of(options: UpsertOptions) -> int:
    in_memory = options.max_concurrency + (options.max_concurrency if options.namespace_column else 1)
    return max(2_000_000, min(4_194_304, 40_000_000 // in_memory))


LIMITS = st.builds(LearnedLimit, st.integers(1_000, 200_000_000).map(float), st.booleans())


@given(
    learned=st.builds(Learned, LIMITS, st.one_of(st.none(), LIMITS)),
    window=st.integers(1, 64),
    transport=st.sampled_from(["rest", "grpc"]),
    max_bytes=st.one_of(st.none(), st.integers(1_000, 4_194_304)),
    rate=st.one_of(st.none(), st.floats(1, 1e12)),
    namespace_column=st.sampled_from([None, "tenant"]),
)
def test_a_resumed_run_starts_with_what_was_learned_below_its_ceilings(
    *, learned, window, transport, max_bytes, rate, namespace_column
):
    stored = Learned.from_json(orjson.loads(orjson.dumps(learned.as_json())))
    options = UpsertOptions(
        max_concurrency=window,
        transport=transport,
        max_request_bytes=max_bytes,
        max_bytes_per_second=rate,
        namespace_column=namespace_column,
    )
    limits = LearnedLimits(options, stored)
    ceiling = max_bytes or (2_000_000 if transport == "grpc" else ceiling_of(options))
    assert limits.size.max_bytes <= ceiling
    if learned.request_bytes.is_final:
        assert limits.size.max_bytes == limits.size.accepted == min(ceiling, learned.request_bytes.value)
    if rate is not None:
        assert limits.new_rate().per_second == rate
    elif transport == "rest" and learned.bytes_per_second:
        assert limits.new_rate().per_second == max(50_000_000, learned.bytes_per_second.value)


def test_without_a_number_nothing_is_learned_over_grpc():
    limits = LearnedLimits(UpsertOptions(transport="grpc"))
    rate = limits.new_rate()
    used(rate, 30)
    assert (limits.size.max_bytes, rate.per_second) == (2_000_000, 50_000_000)
