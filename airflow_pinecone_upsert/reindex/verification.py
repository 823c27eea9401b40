"""
The proof of a run: a random sample of what it wrote is compared with what the index says it holds.

Writes are eventually consistent, so the sample is fetched until it agrees, or until time is up. Where the server reports
positions, each namespace of the sample is first polled until it is as fresh as the last write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import floor, log1p
from math import log as ln
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import Record
from airflow_pinecone_upsert.exceptions import VerificationError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.freshness import Polling, PositionedIndex, is_indexed
from airflow_pinecone_upsert.reindex.keys import Keys

log = logging.getLogger(__name__)

_MAX_SHOWN: Final = 10


class Index(PositionedIndex, Protocol):
    """What verification needs of an index."""

    def fetch(self, ids: Sequence[str], *, namespace: str = "") -> dict[str, Record]:
        """Return the records with these ids, by id. Unknown ids are absent."""
        ...


class Sample:
    """
    A random sample of a stream of unknown length, each item with the same chance.

    By algorithm L (Li, 1994): the number of items to skip is drawn, so that most of a stream is not looked at.

    :param size: Items, at most.
    :param random: A source of floats in [0, 1).
    """

    def __init__(self, size: int, random: Random) -> None:
        self._size = size
        self._random = random
        self._seen = 0
        self._weight = 1.0
        self._next = 0  # the number of the next item that is taken
        self.items: dict[str, bytes] = {}  # by key
        self._slots: list[str] = []

    def offer(self, count: int) -> list[int]:
        """
        Return which of the next items are taken, as offsets.

        :param count: Their number.
        """
        if not self._size:
            return []
        taken = []
        while self._next < self._seen + count:
            taken.append(self._next - self._seen)
            self._next += 1
            if self._next >= self._size:
                self._weight *= max(self._random(), 1e-12) ** (1 / self._size)
                self._next += floor(ln(max(self._random(), 1e-12)) / log1p(-min(self._weight, 1 - 1e-12)))
        self._seen += count
        return taken

    def take(self, key: str, body: bytes) -> None:
        """Take an item; where the sample is full, it replaces another one."""
        if key in self.items:
            self.items[key] = body
            return
        if len(self._slots) < self._size:
            self._slots.append(key)
        else:
            slot = int(self._random() * self._size)
            self.items.pop(self._slots[slot], None)
            self._slots[slot] = key
        self.items[key] = body

    def update(self, keys: Sequence[str], bodies: Sequence[bytes]) -> None:
        """Note that records were written again."""
        if not self.items.keys().isdisjoint(keys):
            self.items.update((one, body) for one, body in zip(keys, bodies, strict=True) if one in self.items)

    def discard(self, keys: Iterable[str]) -> None:
        """Forget records, because they are no longer of this kind."""
        for key in self.items.keys() & set(keys) if self.items else ():
            del self.items[key]


class Mismatch(NamedTuple):
    """
    A record that its namespace does not hold as it should.

    :param key: The record's.
    :param fields: What differs, such as ``values`` or ``metadata.year``.
    """

    key: str
    fields: tuple[str, ...]


def verify(  # noqa: PLR0913 - its seams
    index: Index,
    keys: Keys,
    expected: Mapping[str, bytes | None],
    *,
    decode: Callable[[bytes], Mapping[str, Any]],
    lsns: Mapping[str, int | None],
    timeout_s: float,
    now: Callable[[], float],
    sleep: Callable[[float], None],
    cancellation: CancellationToken,
    on_turn: Callable[[], None] = lambda: None,
) -> int:
    """
    Compare a sample with what its namespaces hold until it agrees.

    :param index: The index.
    :param keys: How records are named.
    :param expected: By key, the bytes of the record that was sent; None for a record that was deleted.
    :param decode: Reads these bytes.
    :param lsns: By namespace, the position of the last write; None or absent where the server does not report it.
    :param timeout_s: How long it may take until the sample agrees.
    :param now: Returns monotonic seconds.
    :param sleep: Waits, in seconds.
    :param cancellation: Ends the waiting.
    :param on_turn: Called before each namespace is asked.
    :return: How many were compared.
    :raises VerificationError: Some still differ.
    """
    if not expected:
        return 0
    polling = Polling(timeout_s, now, sleep, cancellation)
    mismatches: list[Mismatch] = []
    waiting = _by_namespace(expected, keys)
    for namespace in waiting:
        if (lsn := lsns.get(namespace)) is not None:
            polling.until(partial(_is_fresh, index, namespace, lsn, on_turn))

    def agrees() -> bool:
        nonlocal mismatches, waiting
        mismatches = []
        for namespace, ids in waiting.items():
            on_turn()
            cancellation.raise_if_cancelled()
            found = index.fetch(list(ids), namespace=namespace)
            mismatches += [
                Mismatch(key, fields)
                for record_id, key in ids.items()
                if (fields := differing_fields(_decoded(expected[key], decode), found.get(record_id)))
            ]
        waiting = _by_namespace((one.key for one in mismatches), keys)
        return not waiting

    if not polling.until(agrees):
        raise _error(mismatches, len(expected), keys, timeout_s)
    return len(expected)


def _by_namespace(found: Iterable[str], keys: Keys) -> dict[str, dict[str, str]]:
    """Return keys by namespace and id."""
    places: dict[str, dict[str, str]] = {}
    for key in found:
        namespace, record_id = keys.place(key)
        places.setdefault(namespace, {})[record_id] = key
    return places


def _is_fresh(index: Index, namespace: str, lsn: int, on_turn: Callable[[], None]) -> bool:
    on_turn()
    return is_indexed(index, namespace, lsn) is not False


def _decoded(body: bytes | None, decode: Callable[[bytes], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return None if body is None else decode(body)


def differing_fields(sent: Mapping[str, Any] | None, found: Record | None) -> tuple[str, ...]:
    """
    Return in which fields a record differs from what was sent, bit for bit.

    :param sent: Its fields in the API's form; None where it should not exist.
    :param found: What the namespace holds.
    """
    if sent is None or found is None:
        return () if sent is None and found is None else ("record",)
    fields = []
    if _bits(sent.get("values")) != _bits(found.values):
        fields.append("values")
    sparse = found.sparse_values
    if _sparse_bits(sent.get("sparseValues")) != _sparse_bits(
        sparse and {"indices": sparse.indices, "values": sparse.values}
    ):
        fields.append("sparse_values")
    wanted, held = sent.get("metadata") or {}, found.metadata or {}
    fields += [f"metadata.{key}" for key in sorted({*wanted, *held}) if not _is_equal(wanted.get(key), held.get(key))]
    return tuple(fields)


def _bits(values: Any) -> bytes:
    """Return float32 bytes; empty for none, also where the server answers an absent part with an empty list."""
    return b"" if values is None else np.asarray(values, np.float32).tobytes()


def _sparse_bits(sparse: Any) -> dict[int, bytes]:
    if not sparse:
        return {}
    return {int(index): _bits([value]) for index, value in zip(sparse["indices"], sparse["values"], strict=True)}


def _is_equal(wanted: Any, held: Any) -> bool:
    """Compare metadata as they are stored: numbers as float64."""
    if isinstance(wanted, bool) or isinstance(held, bool):
        return wanted is held
    if isinstance(wanted, (int, float)) and isinstance(held, (int, float)):
        return np.float64(wanted).tobytes() == np.float64(held).tobytes()
    return type(wanted) is type(held) and bool(wanted == held)


def _error(mismatches: Sequence[Mismatch], count: int, keys: Keys, timeout_s: float) -> VerificationError:
    shown = "; ".join(
        f"{keys.label(one.key)!r} ({', '.join(one.fields[:_MAX_SHOWN])})" for one in mismatches[:_MAX_SHOWN]
    )
    more = f" … and {len(mismatches) - _MAX_SHOWN} more" if len(mismatches) > _MAX_SHOWN else ""
    places = [keys.place(one.key) for one in mismatches]
    namespaces = list(dict.fromkeys(place.namespace for place in places))
    where = f"the namespace {namespaces[0]!r}" if len(namespaces) == 1 else f"{len(namespaces):,} namespaces"
    return VerificationError(
        f"{len(mismatches)} of {count} records that were verified in {where} differ from what the server "
        f"confirmed, after {timeout_s:g} s: {shown}{more}. The next run sends them again. If something else writes to this "
        "namespace, stop it; if many differ, run with audit=True or full=True.",
        [place.id for place in places],
        [place.namespace for place in places],
    )
