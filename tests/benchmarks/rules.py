"""
What the replacement for Pinecone allows, and what it logs: shared by :mod:`.server` and the modules that read its log.

Imports only the standard library, so that the importing processes stay small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol

TOO_MANY_REQUESTS = "Too Many Requests: reached the max upsert size limit per second for index bench"


class Dip(NamedTuple):
    """
    A period in which the server allows less.

    :param start_s: Start, in seconds after the first upsert.
    :param end_s: End, in seconds after the first upsert.
    :param factor: The remaining part of both rates, from 0 to 1.
    """

    start_s: float
    end_s: float
    factor: float


@dataclass(frozen=True)
class Rules:
    """
    How the server treats upserts.

    :param dimension: The dimension that the server reports for the index.
    :param latency_s: Time from the last byte of a request to its response, also of a 429.
    :param bytes_per_second: Token bucket over the bodies of all clients; None for no limit.
    :param requests_per_second: Token bucket over the requests of all clients; None for no limit.
    :param burst_s: Capacity of both buckets, in seconds of the full rate. 0.25 s of 50 MB/s are 12.5 MB, four requests
        of the SDK (3.3 MB each), so a client that starts all its requests together is throttled.
    :param dips: Periods in which less is allowed. They lower the rates, not the capacity of the buckets.
    :param stored: The Parquet file whose records are fetched; None where no client fetches. The server holds it in
        memory.
    """

    dimension: int = 1_536
    latency_s: float = 0.0
    bytes_per_second: float | None = None
    requests_per_second: float | None = None
    burst_s: float = 0.25
    dips: Sequence[Dip] = field(default_factory=tuple)
    stored: str | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Rules:
        given = json.loads(text)
        return cls(**{**given, "dips": [Dip(*dip) for dip in given["dips"]]})

    def full_rate_s(self, start_s: float, end_s: float) -> float:
        """Return how many seconds at the full rate allow as much as the time between two moments."""
        lost_s = sum(
            max(0.0, min(end_s, dip.end_s) - max(start_s, dip.start_s)) * (1 - dip.factor) for dip in self.dips
        )
        return end_s - start_s - lost_s


class Upsert(NamedTuple):
    """
    One request that the server answered.

    :param at_s: When its last byte arrived, in seconds after the last byte of the first request.
    :param key: The client's API key, which is the client's name here.
    :param body_bytes: Length of the body.
    :param records: Records in the body.
    :param accepted: Whether the status was 200 rather than 429.
    :param in_flight: Requests that waited for their response at that moment, this one included.
    """

    at_s: float
    key: str
    body_bytes: int
    records: int
    accepted: bool
    in_flight: int


class UpsertIndex(Protocol):
    """The part of the server that upserts need, whatever carries them."""

    in_flight: int
    rules: Rules

    def admit(self, key: str, body_bytes: int, records: int) -> bool:
        """Accept or throttle an upsert, and log it."""
        ...
