"""Requests over a simulated server with a virtual clock, in place of threads and real time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.api.client import Body
from airflow_pinecone_upsert.pipeline.send.transport import Completion


@dataclass(frozen=True)
class Outcome:
    """
    What the server does with one request.

    :param latency_s: From the start to the landing.
    :param error: What the client sees; None for a confirmation.
    :param is_applied: The records are stored, whatever the client sees.
    :param confirmed_more: How far the confirmed count is from the truth.
    """

    latency_s: float = 1.0
    error: Exception | None = None
    is_applied: bool = True
    confirmed_more: int = 0


OK = Outcome()


@dataclass
class SimulatedTransport:
    """
    A server that writes each request at a moment of its own between start and landing.

    :param outcome: Of each request, by its records.
    :param random: Chooses the moment of the write.
    """

    outcome: Callable[[list[dict[str, Any]]], Outcome] = lambda _: OK
    random: Random = field(default_factory=lambda: Random(0))  # noqa: S311 - a seeded simulation
    clock_s: float = 0.0
    started: list[tuple[float, list[str]]] = field(default_factory=list)
    max_in_flight: int = 0
    _in_flight: list[tuple[float, int, Completion]] = field(default_factory=list)
    _writes: list[tuple[float, int, list[dict[str, Any]]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def now(self) -> float:
        return self.clock_s

    def start(self, job: Any, body: Body) -> None:
        records = orjson.loads(b"".join(body))["vectors"]
        self.started.append((self.clock_s, [record["id"] for record in records]))
        outcome = self.outcome(records)
        lands_at_s = self.clock_s + outcome.latency_s
        if outcome.is_applied:
            self._writes.append((self.random.uniform(self.clock_s, lands_at_s), next(self._numbers), records))
        result = len(records) + outcome.confirmed_more if outcome.error is None else outcome.error
        heapq.heappush(self._in_flight, (lands_at_s, next(self._numbers), Completion(job, len(body), result)))
        self.max_in_flight = max(self.max_in_flight, len(self._in_flight))

    def next_completion(self, timeout_s: float) -> Completion | None:
        if not self._in_flight or self._in_flight[0][0] > self.clock_s + timeout_s:
            self.clock_s += timeout_s
            return None
        lands_at_s, _, landing = heapq.heappop(self._in_flight)
        self.clock_s = max(self.clock_s, lands_at_s)
        return landing

    @property
    def stored(self) -> dict[str, int]:
        """The row that stands under each id in the end."""
        return {record["id"]: record["row"] for _, _, records in sorted(self._writes) for record in records}

    @property
    def is_idle(self) -> bool:
        return not self._in_flight
