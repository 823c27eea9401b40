"""
The sender against simulated servers that allow less than the user's rate, in simulated time.

The server has a token bucket each for bytes and for requests, as Pinecone's documentation describes its limits without
the size of the buckets; here they hold 0.25 to 2 s worth. Sizes are a thousandth of the real ones.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from itertools import count
from statistics import median
from types import SimpleNamespace

import pytest

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import UpsertResponse
from airflow_pinecone_upsert.exceptions import ErrorResponse, RateLimitError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.events import Failure
from airflow_pinecone_upsert.pipeline.send.learned_limits import ByteRates
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import Completion

BYTES_PER_SECOND = 50_000
REQUESTS_PER_SECOND = 100
BODY_BYTES = 2_000

LATENCIES = {
    "steady": lambda random: random.uniform(0.145, 0.155),
    "uniform": lambda random: random.uniform(0.05, 0.3),
    "long tail": lambda random: random.lognormvariate(-2, 0.6),
}


class World:
    """Simulated time. One thing happens at a time: an event, or one client until it waits."""

    def __init__(self):
        self.now = 0.0
        self._events = []
        self._number = count()

    def at(self, moment, event):
        heapq.heappush(self._events, (moment, next(self._number), event))

    def run(self):
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


class Server:
    """Two token buckets whose rates follow a schedule of ``(from second, share of the full rate)``."""

    def __init__(self, capacity_s, schedule=((0.0, 1.0),), binary_share=1.0):
        self._binary_share = binary_share  # of a body, where the server counts binary
        self._capacity_s = capacity_s
        self._schedule = schedule
        self._levels = [rate * capacity_s for rate in (BYTES_PER_SECOND, REQUESTS_PER_SECOND)]
        self._filled_s = 0.0
        self.accepted = []
        self.throttled = []

    def share(self, now):
        return next(share for since, share in reversed(self._schedule) if now >= since)

    def takes(self, now, body_bytes):
        body_bytes *= self._binary_share
        rates = [rate * self.share(now) for rate in (BYTES_PER_SECOND, REQUESTS_PER_SECOND)]
        for which, (rate, cost) in enumerate(zip(rates, (body_bytes, 1), strict=True)):
            filled = self._levels[which] + rate * (now - self._filled_s)
            self._levels[which] = min(filled, max(rate * self._capacity_s, cost))
        self._filled_s = now
        taken = self._levels[0] >= body_bytes and self._levels[1] >= 1
        if taken:
            self._levels = [self._levels[0] - body_bytes, self._levels[1] - 1]
        (self.accepted if taken else self.throttled).append((now, body_bytes))
        return taken

    def accepted_bytes(self, start=0.0, end=float("inf")):
        return sum(size for at, size in self.accepted if start <= at < end)

    @property
    def throttled_share(self):
        return len(self.throttled) / (len(self.throttled) + len(self.accepted))


def _body(number: int) -> bytes:
    """Return a record that fills a request, of which a third is binary: 165 components of 12 bytes each."""
    head, digits = b'{"id":"%d","values":[' % number, b"-0.123456789"
    dense = b",".join([digits[: -len(str(number))], *[digits[:-1]] * 164])
    return head + dense.ljust(BODY_BYTES - Envelope().size - len(head) - 2, b" ") + b"]}"


class Client:
    """One sender, which is its own transport. It runs in a thread of its own, but only while the world waits for it."""

    def __init__(self, world, server, latency, seed, *, requests, window=8, rate_limiter=None, start_s=0.0):
        self._world, self._server, self._latency = world, server, latency
        self._random = random.Random(seed)  # noqa: S311
        self._completions: list[Completion] = []
        self._turn, self._world_turn = threading.Semaphore(0), threading.Semaphore(0)
        self._wakes = 0
        self._waits = False
        self.events = []
        if rate_limiter is None:
            rate_limiter = RateLimiter(REQUESTS_PER_SECOND, BYTES_PER_SECOND, self._random.random)
        elif rate_limiter is learning:
            rate_limiter = learning(self._random.random)
        source = (
            UpsertRequest(
                EncodedRecords(["f"], [number], [str(number)], [_body(number)], [b""], [""]),
                Envelope(),
            )
            for number in range(requests)
        )

        def work():
            self._turn.acquire()
            sender = Sender(
                source,
                self,
                rate_limiter=rate_limiter,
                max_unsettled=window,
                random=self._random.random,
                cancellation=CancellationToken(),
            )
            for event in sender.run():
                self.events.append((world.now, event))
            self.end_s = world.now
            self._world_turn.release()

        threading.Thread(target=work, daemon=True).start()
        self.start_s = start_s + self._random.uniform(0, 0.3)
        world.at(self.start_s, self._continue)

    def _continue(self):
        self._waits, self._wakes = False, self._wakes + 1
        self._turn.release()
        self._world_turn.acquire()

    def now(self):
        return self._world.now

    def start(self, request):
        latency_s = self._latency(self._random)

        def arrive():
            throttled = RateLimitError("too fast", response=ErrorResponse(429, "too fast"))
            confirmed = UpsertResponse.model_construct(upserted_count=len(request))
            size = len(request.body)
            result = confirmed if self._server.takes(self._world.now, size) else throttled
            self._world.at(self._world.now + latency_s / 2, lambda: self._complete(Completion(request, size, result)))

        self._world.at(self._world.now + latency_s / 2, arrive)

    def _complete(self, completion):
        self._completions.append(completion)
        if self._waits:
            self._continue()

    def next_completion(self, timeout_s):
        if not self._completions:
            self._waits, wake = True, self._wakes
            if timeout_s is not None:
                self._world.at(
                    self._world.now + timeout_s, lambda: self._waits and wake == self._wakes and self._continue()
                )
            self._world_turn.release()
            self._turn.acquire()
        return self._completions.pop(0) if self._completions else None

    def confirmed(self, until, since=0.0):
        return sum(getattr(event, "confirmed", 0) for at, event in self.events if since <= at < until)


def learning(random: Random) -> RateLimiter:
    """Return a limiter without a number of the user, in the units of this simulation."""
    rates = ByteRates(BYTES_PER_SECOND, BYTES_PER_SECOND, BYTES_PER_SECOND)
    return RateLimiter(REQUESTS_PER_SECOND, rates.create(), random)


def simulate(
    server: Server, latency: Callable, seed: int, *, clients: int = 1, apart_s: float = 0.0, **options
) -> SimpleNamespace:
    """Run clients that start ``apart_s`` after each other, until all of them have ended."""
    world = World()
    senders = [
        Client(world, server, latency, seed * 100 + number, start_s=number * apart_s, **options)
        for number in range(clients)
    ]
    world.run()
    assert not [event for sender in senders for _, event in sender.events if isinstance(event, Failure)]
    return SimpleNamespace(senders=senders, end_s=min(sender.end_s for sender in senders))


def spread(count: int, least_s: float) -> list[tuple[int, float, str]]:
    """Spread seeds over buckets of ``least_s`` to 2 s and over the latencies."""
    return [
        (seed, least_s * (2 / least_s) ** (seed % 11 / 10), list(LATENCIES)[seed // 11 % 3]) for seed in range(count)
    ]


def marked(cases: list[tuple[int, float, str]], fast: int = 33) -> list:
    """Mark cases as slow, but for the first ones: 33 are each bucket with each latency."""
    return [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] >= fast)) for case in cases]


names = ("seed", "capacity_s", "latency")
servers = pytest.mark.parametrize(names, marked(spread(66, 0.5)))
servers_with_small_buckets_too = pytest.mark.parametrize(names, marked(spread(99, 0.25)))


@servers_with_small_buckets_too
def test_the_allowance_is_used_with_next_to_nothing_throttled(seed, capacity_s, latency):
    server = Server(capacity_s)
    end_s = simulate(server, LATENCIES[latency], seed, requests=300).end_s - 0.5
    assert server.accepted_bytes(2.0, end_s) >= 0.97 * BYTES_PER_SECOND * (end_s - 2.0)
    assert server.throttled_share <= 0.01


@servers
def test_an_allowance_below_the_users_rate_is_found(seed, capacity_s, latency):
    allowed = 0.3 + seed % 7 / 10
    server = Server(capacity_s, [(0.0, allowed)])
    end_s = simulate(server, LATENCIES[latency], seed, requests=400).end_s - 0.5
    assert server.accepted_bytes(2.0, end_s) >= 0.8 * allowed * BYTES_PER_SECOND * (end_s - 2.0)
    assert server.throttled_share <= 0.04


@servers_with_small_buckets_too
def test_an_allowance_that_falls_and_comes_back(seed, capacity_s, latency):
    server = Server(capacity_s, [(0.0, 1.0), (10.0, 0.2), (20.0, 1.0)])
    simulate(server, LATENCIES[latency], seed, requests=700)
    end_s = server.accepted[-1][0]
    assert server.accepted_bytes() >= 0.8 * BYTES_PER_SECOND * (10 + 0.2 * 10 + end_s - 20)
    assert server.throttled_share <= 0.03
    assert server.accepted_bytes(25.0, 27.0) >= 0.85 * 2 * BYTES_PER_SECOND


@pytest.mark.parametrize(
    ("rate_limiter", "every"),
    [(None, 2), pytest.param(None, 1, marks=pytest.mark.slow), pytest.param(learning, 1, marks=pytest.mark.slow)],
    ids=["half", "all", "learning"],
)
def test_several_senders_share_the_allowance(rate_limiter, every):
    """The shares are random, so the bounds for every run are wider than those for most of them."""
    throttled_shares, ratios = [], []
    for seed, capacity_s, latency in spread(48, 0.25)[::every]:
        server = Server(capacity_s)
        run = simulate(server, LATENCIES[latency], seed, clients=4, requests=300, rate_limiter=rate_limiter)
        assert server.accepted_bytes(2.0, run.end_s) >= 0.9 * BYTES_PER_SECOND * (run.end_s - 2.0)
        counts = [sender.confirmed(run.end_s) for sender in run.senders]
        throttled_shares.append(server.throttled_share)
        ratios.append(max(counts) / min(counts))
    assert max(throttled_shares) <= 0.07
    assert median(throttled_shares) <= 0.045
    assert sum(share <= 0.05 for share in throttled_shares) >= 0.85 * len(throttled_shares)
    assert median(ratios) <= 1.75
    assert sum(ratio <= 2 for ratio in ratios) >= 0.75 * len(ratios)


@pytest.mark.parametrize("every", [49, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("apart_s", [0.0, 1.0])
def test_none_of_eight_senders_is_below_half_of_its_fair_share(apart_s, every):
    """
    Mapped task instances that share a namespace start together, or as workers become free.

    The shares are those of more than a minute. A sender may be below half for 20 s, because a rate is kept for 10 s.
    """
    for seed, capacity_s, latency in spread(99, 0.25)[::every]:
        server = Server(capacity_s)
        run = simulate(server, LATENCIES[latency], seed, clients=8, apart_s=apart_s, requests=400)
        since_s = max(sender.start_s for sender in run.senders)
        counts = [sender.confirmed(run.end_s, since_s) for sender in run.senders]
        assert run.end_s - since_s > 60
        assert min(counts) >= 0.5 * sum(counts) / len(counts), (seed, counts)
        assert server.accepted_bytes(since_s + 2.0, run.end_s) >= 0.9 * BYTES_PER_SECOND * (run.end_s - since_s - 2.0)


@servers
def test_without_a_limit_the_servers_allowance_is_found(seed, capacity_s, latency):
    server = Server(capacity_s)
    rate_limiter = RateLimiter(None, None, random.Random(seed).random)  # noqa: S311
    end_s = simulate(server, LATENCIES[latency], seed, requests=400, rate_limiter=rate_limiter).end_s - 0.5
    assert server.accepted_bytes(2.0, end_s) >= 0.68 * BYTES_PER_SECOND * (end_s - 2.0)


BINARY_SHARE = 165 * 4 / BODY_BYTES
"""Of the vector; the rest of a record counts as it is, so that a little less is started than a server allows."""


@pytest.mark.parametrize(names, marked(spread(66, 0.25), fast=11))
def test_without_a_number_a_server_that_counts_json_is_used_as_fully_over_a_minute(seed, capacity_s, latency):
    server = Server(capacity_s)
    end_s = simulate(server, LATENCIES[latency], seed, requests=1_500, rate_limiter=learning).end_s - 0.5
    assert server.accepted_bytes(2.0, end_s) >= 0.97 * BYTES_PER_SECOND * (end_s - 2.0)
    assert server.throttled_share <= 0.01


@pytest.mark.parametrize(names, marked(spread(66, 0.5), fast=11))
def test_without_a_number_the_allowance_in_binary_is_found_within_half_a_minute(seed, capacity_s, latency):
    server = Server(capacity_s, binary_share=BINARY_SHARE)
    options = {"requests": 2_200, "window": 24, "rate_limiter": learning}
    simulate(server, LATENCIES[latency], seed, **options)
    end_s = server.accepted[-1][0] - 0.5  # not that of the sender, which may wait seconds for its slowest request
    assert end_s > 32
    assert server.accepted_bytes(30.0, end_s) >= 0.9 * BYTES_PER_SECOND * (end_s - 30.0)
    assert server.throttled_share <= 0.02
