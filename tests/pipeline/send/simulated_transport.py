"""Requests to a simulated server with a virtual clock, instead of threads and real time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.api.models import DeleteResponse, UpsertResponse
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import Completion


@dataclass(frozen=True)
class Outcome:
    """
    What the server does with one request.

    :param latency_s: From the start to the completion.
    :param error: What the client sees; None for a confirmation.
    :param is_applied: The records are stored, also where the client sees an error.
    :param confirmed_more: The difference between the confirmed count and the number of records.
    """

    latency_s: float = 1.0
    error: Exception | None = None
    is_applied: bool = True
    confirmed_more: int = 0


OK = Outcome()


@dataclass
class SimulatedTransport:
    """
    A server that writes each request at a random moment between its start and its completion.

    :param outcome: Of each request, by its records. Those of a delete have an id only.
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

    def start(self, request: UpsertRequest | DeleteRequest) -> None:
        records = _records(request)
        self.started.append((self.clock_s, [record["id"] for record in records]))
        outcome = self.outcome(records)
        ends_at_s = self.clock_s + outcome.latency_s
        if outcome.is_applied:
            self._writes.append((self.random.uniform(self.clock_s, ends_at_s), next(self._numbers), records))
        result = (
            DeleteResponse()
            if isinstance(request, DeleteRequest)
            else UpsertResponse.model_construct(upserted_count=len(records) + outcome.confirmed_more)
        )
        heapq.heappush(
            self._in_flight,
            (ends_at_s, next(self._numbers), Completion(request, len(request.body), outcome.error or result)),
        )
        self.max_in_flight = max(self.max_in_flight, len(self._in_flight))

    def next_completion(self, timeout_s: float) -> Completion | None:
        if not self._in_flight or self._in_flight[0][0] > self.clock_s + timeout_s:
            self.clock_s += timeout_s
            return None
        ends_at_s, _, completion = heapq.heappop(self._in_flight)
        self.clock_s = max(self.clock_s, ends_at_s)
        return completion

    @property
    def stored(self) -> dict[str, int]:
        """The row that is stored under each id at the end."""
        written = {record["id"]: record.get("row") for _, _, records in sorted(self._writes) for record in records}
        return {record_id: row for record_id, row in written.items() if row is not None}

    @property
    def is_idle(self) -> bool:
        return not self._in_flight


def _records(request: UpsertRequest | DeleteRequest) -> list[dict[str, Any]]:
    if isinstance(request, DeleteRequest):
        return [{"id": record_id} for record_id in orjson.loads(request.body)["ids"]]
    return orjson.loads(b"".join(request.body))["vectors"]
