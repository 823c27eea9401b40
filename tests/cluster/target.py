"""The emulated index of a cluster, in a process of its own, and what a test asks it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any

import orjson

from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault

UPSERT = "/vectors/upsert"


@dataclass(frozen=True)
class Upsert:
    """
    A request that arrived at the index.

    :param started_s: When, by ``time.monotonic()``, which all processes of a machine share.
    :param finished_s: When the response started.
    """

    namespace: str
    ids: tuple[str, ...]
    started_s: float
    finished_s: float
    is_confirmed: bool


class Target:
    """
    An index without records.

    :param port: Where it listens.
    :param latency_s: How long each request waits before it is processed.
    """

    def __init__(self, port: int, dimension: int, latency_s: float) -> None:
        self._index = EmulatedIndex(dimension, port=port, record_requests=True).start()
        if latency_s:
            self._index.faults.next(Fault.stall(latency_s), times=sys.maxsize)

    def confirmed(self) -> dict[str, int]:
        """Return how many records were confirmed, by namespace. Those that were sent twice count twice."""
        counts: dict[str, int] = {}
        for upsert in self.upserts():
            counts[upsert.namespace] = counts.get(upsert.namespace, 0) + upsert.is_confirmed * len(upsert.ids)
        return counts

    def upserts(self) -> list[Upsert]:
        """Return the upserts so far."""
        return [
            Upsert(one.namespace, one.ids, one.started_at, one.finished_at, one.status == 200)
            for one in list(self._index.requests)
            if one.path == UPSERT
        ]

    def fingerprints(self, namespace: str) -> dict[str, bytes]:
        """Return the fingerprint of each record of a namespace, by id."""
        stored = self._index.vectors(namespace)
        return {key: fingerprint(record.values.tobytes(), record.metadata) for key, record in stored.items()}


def fingerprint(values: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Return a digest of all bits of a record."""
    return hashlib.blake2b(values + orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


class _Manager(BaseManager):
    pass


_Manager.register("Target", Target)


@contextmanager
def running_target(port: int, *, dimension: int, latency_s: float = 0.0) -> Iterator[Target]:
    """Start an index in a process, which ends with the block."""
    with _Manager(ctx=get_context("spawn")) as manager:
        yield manager.Target(port, dimension, latency_s)
