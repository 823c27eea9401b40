"""
What the stand-in for Pinecone allows, and what it wrote down: shared by :mod:`.server` and by those who read its log.

Nothing but the standard library, so that whoever imports it stays small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple


class Dip(NamedTuple):
    """
    A while in which less is allowed.

    :param start_s: Seconds after the first upsert.
    :param end_s: Likewise.
    :param factor: What is left of both rates, from 0 to 1.
    """

    start_s: float
    end_s: float
    factor: float


@dataclass(frozen=True)
class Rules:
    """
    How the server treats upserts.

    :param dimension: What it says of the index.
    :param latency_s: From the last byte of a request to its answer, a refusal's included.
    :param bytes_per_second: Token bucket over the bodies of all clients; None for no bound.
    :param requests_per_second: Likewise for their number.
    :param burst_s: What either bucket holds at the most, as seconds of its full rate. 0.25 s are 12.5 MB of 50 MB/s,
        four requests of the SDK's (3.3 MB), so whoever starts all its requests together is refused.
    :param dips: When less is allowed. They lower the rates, not what the buckets hold.
    """

    dimension: int = 1_536
    latency_s: float = 0.0
    bytes_per_second: float | None = None
    requests_per_second: float | None = None
    burst_s: float = 0.25
    dips: Sequence[Dip] = field(default_factory=tuple)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Rules:
        given = json.loads(text)
        return cls(**{**given, "dips": [Dip(*dip) for dip in given["dips"]]})

    def full_rate_s(self, start_s: float, end_s: float) -> float:
        """Tell how many seconds at the full rate allow as much as the time between two moments."""
        lost_s = sum(
            max(0.0, min(end_s, dip.end_s) - max(start_s, dip.start_s)) * (1 - dip.factor) for dip in self.dips
        )
        return end_s - start_s - lost_s


class Upsert(NamedTuple):
    """
    One request that the server answered.

    :param at_s: When its last byte arrived, in seconds after that of the first one.
    :param key: The client's API key; here it is the client's name.
    :param body_bytes: Length of the body.
    :param records: Records in it.
    :param accepted: It got 200; else it got 429.
    :param in_flight: Requests that waited for their answer at that moment, this one included.
    """

    at_s: float
    key: str
    body_bytes: int
    records: int
    accepted: bool
    in_flight: int
