"""Each fault: what the client sees and what is stored."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault

UPSERT = "/vectors/upsert"
BODY = {"vectors": [{"id": name, "values": [1] * 8} for name in "abc"]}


@pytest.fixture
def index(pinecone_index):
    return pinecone_index


@pytest.fixture
def http(index, connect):
    return connect(index)


def test_status(index, http):
    index.faults.next(Fault.status(429, message="slow down", headers={"Retry-After": "0"}))
    response = http.post(UPSERT, json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (429, "0")
    assert response.json() == {"code": 8, "message": "slow down", "details": []}
    assert response.headers["x-pinecone-request-id"]
    assert index.vectors() == {}
    assert http.post(UPSERT, json=BODY).status_code == 200


def test_body(index, http):
    index.faults.next(Fault.body(502, b"<html>", "text/html", headers={"Server": "proxy"}))
    response = http.post(UPSERT, json=BODY)
    assert (response.status_code, response.content, response.headers["content-type"]) == (
        502,
        b"<html>",
        "text/html; charset=utf-8",
    )
    assert response.headers["server"] == "proxy"


def test_reset_writes_nothing(index, http):
    index.faults.next(Fault.reset())
    with pytest.raises(httpx.ReadError):
        http.post(UPSERT, json=BODY)
    assert index.vectors() == {}
    assert http.post(UPSERT, json=BODY).status_code == 200


def test_lost_ack_writes_the_records(index, http):
    index.faults.next(Fault.lost_ack())
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        http.post(UPSERT, json=BODY)
    assert set(index.vectors()) == {"a", "b", "c"}


@pytest.mark.parametrize("confirmed", [0, 2, 5])
def test_short_count(index, http, confirmed):
    index.faults.next(Fault.short_count(confirmed))
    assert http.get("/vectors/list").status_code == 200  # The fault applies only to an upsert.
    assert http.post(UPSERT, json=BODY).json() == {"upsertedCount": min(confirmed, 3)}
    assert "".join(index.vectors()) == "abc"[:confirmed]


def test_a_stall_exceeds_the_timeout_and_does_not_block_others(index, http, connect):
    index.faults.next(Fault.stall(60))
    with pytest.raises(httpx.ReadTimeout):
        http.post(UPSERT, json=BODY, timeout=0.05)
    assert http.post(UPSERT, json=BODY).status_code == 200


def test_a_stalled_request_is_processed(index, http):
    index.faults.next(Fault.stall(0.01))
    assert http.post(UPSERT, json=BODY).json() == {"upsertedCount": 3}


def test_a_large_body_is_read_before_the_connection_is_dropped(index, http):
    body = {"vectors": [{"id": "a", "values": [1] * 8, "metadata": {"x": "y" * 3_000_000}}]}
    for fault, error in ((Fault.reset(), httpx.ReadError), (Fault.lost_ack(), httpx.RemoteProtocolError)):
        index.faults.next(fault)
        with pytest.raises(error):
            http.post(UPSERT, json=body)


def test_scripted_faults_apply_in_order_and_by_path(index, http):
    index.faults.next(Fault.status(503), times=2, path=UPSERT)
    index.faults.next(Fault.status(500), path="/vectors/list")
    index.faults.next(Fault.status(429))
    assert index.faults.pending == 4
    assert http.get("/vectors/list").status_code == 500
    assert [http.post(UPSERT, json=BODY).status_code for _ in range(4)] == [503, 503, 429, 200]
    assert index.faults.pending == 0


def test_clear_removes_scripted_faults(index, http):
    index.faults.next(Fault.status(503), times=9)
    index.faults.clear()
    assert http.post(UPSERT, json=BODY).status_code == 200


def test_times_must_be_at_least_1(index):
    with pytest.raises(ValueError, match="at least 1"):
        index.faults.next(Fault.reset(), times=0)


def test_concurrent_clients_share_the_script(index, http):
    index.faults.next(Fault.status(503), times=10)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: http.post(UPSERT, json=BODY).status_code, range(40)))
    assert sorted(statuses) == [200] * 30 + [503] * 10


def upsert_statuses(index, http, count):
    """Send upserts, and return their statuses from the request log."""
    before = len(index.requests)
    for _ in range(count):
        with suppress(httpx.TransportError):
            http.post(UPSERT, json=BODY, timeout=0.5)
    return [request.status for request in index.requests[before:]]


def test_random_faults_have_the_given_rates_and_depend_on_the_seed(index, http):
    index.faults.at_random("429:0.2, 503:0.1,reset:0.1,lost_ack:0.1", seed=7)
    first = upsert_statuses(index, http, 300)
    counts = Counter(first)
    # Within 5 standard deviations of the binomial distribution. With this seed the counts are always the same.
    assert 25 <= counts[429] <= 95
    assert 5 <= counts[503] <= 55
    assert 25 <= counts[None] <= 95  # reset
    index.faults.at_random("429:0.2, 503:0.1,reset:0.1,lost_ack:0.1", seed=7)
    assert upsert_statuses(index, http, 300) == first
    index.faults.at_random("429:0.2, 503:0.1,reset:0.1,lost_ack:0.1", seed=8)
    assert upsert_statuses(index, http, 300) != first


@pytest.mark.parametrize(
    ("spec", "written"), [("reset:1", False), ("lost_ack:1", True), ("stall:1", False), ("404:1", False)]
)
def test_each_kind_of_random_fault(index, http, spec, written):
    index.faults.at_random(spec)
    upsert_statuses(index, http, 1)
    assert bool(index.vectors()) is written
    assert [request.path for request in index.requests] == [UPSERT] * len(index.requests)


def test_random_faults_apply_to_upserts_after_scripted_faults(index, http):
    index.faults.at_random("503:1")
    index.faults.next(Fault.status(429))
    assert index.faults.pending == 1
    assert [http.post(UPSERT, json=BODY).status_code for _ in range(2)] == [429, 503]
    assert http.get("/vectors/list").status_code == 200
    index.faults.clear()
    assert http.post(UPSERT, json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is not a fault with a rate; write it as in 429:0.05."),
        ("429", "'429' is not a fault with a rate"),
        ("429:much", "'429:much' is not a fault with a rate"),
        ("429:0.1,", "'' is not a fault with a rate"),
        ("429:1.5", "The rate of '429:1.5' must be between 0 and 1."),
        ("429:nan", "must be between 0 and 1"),
        ("reset:-0.1", "must be between 0 and 1"),
        ("200:0.1", "'200' is not a kind of fault; choose a status from 400 to 599, reset, lost_ack, stall."),
        ("rset:0.1", "'rset' is not a kind of fault"),
        ("429:0.1,429:0.2", "names a kind of fault twice"),
        ("429:0.6,503:0.6", "add up to 1.2; the maximum is 1, which is every request"),
    ],
)
def test_an_invalid_spec_is_rejected(index, spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        index.faults.at_random(spec)


@pytest.mark.parametrize("fault", [None, Fault.status(503)])
@pytest.mark.parametrize("record_requests", [True, False])
def test_a_client_that_disconnects_mid_request_is_not_an_error(caplog, fault, record_requests):
    with EmulatedIndex(8, record_requests=record_requests) as index:
        if fault is not None:
            index.faults.next(fault)
        host, port = index.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /vectors/upsert HTTP/1.1\r\nHost: x\r\nApi-Key: k\r\nContent-Length: 100\r\n\r\n{")
        index.faults.clear()
        assert httpx.post(index.url + UPSERT, json=BODY, headers={"Api-Key": "k"}).status_code == 200
        assert len(index.requests) == int(record_requests)
    assert caplog.text == ""


def test_close_lets_requests_finish_within_the_grace_period(caplog):
    with EmulatedIndex(8, grace_s=30) as index, ThreadPoolExecutor(1) as pool:
        index.faults.next(Fault.stall(0.2))
        response = pool.submit(httpx.post, index.url + UPSERT, json=BODY, headers={"Api-Key": "k"})
        while index.faults.pending:
            time.sleep(0.001)
        index.close()
        assert response.result().json() == {"upsertedCount": 3}
    assert caplog.text == ""


def test_close_does_not_wait_for_a_stalled_request(caplog):
    with EmulatedIndex(8, record_requests=True) as index:
        index.faults.next(Fault.stall(3600))
        failures = []

        def call():
            try:
                httpx.post(index.url + UPSERT, json=BODY, headers={"Api-Key": "k"}, timeout=30)
            except httpx.TransportError as exc:
                failures.append(exc)

        caller = threading.Thread(target=call)
        caller.start()
        while index.faults.pending:
            time.sleep(0.001)
    caller.join()
    assert len(failures) == 1
    assert caplog.text == ""
