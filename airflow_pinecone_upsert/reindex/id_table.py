"""
The id table: what a manifest says of each id, in memory, without the ids.

An id is found by a hash of 64 bits. The entries are arrays sorted by it, with a table of where each value of its top bits
begins, so that a lookup is a few vectorised bisection steps: at 10 million ids 0.2 to 0.4 µs, and 25 bytes an entry.

Two ids with the same hash are distinguished by the first four bytes of their digests, which are those of the id alone. Such
ids, one pair among 10**12, are in a dict.

Invariants:

- A record is unchanged only if the digest of its id is equal to the last one of this id: in the manifest, or of a record
  that was read since and is to be sent. So of an id that occurs twice in a source, the last record wins.
- An id that occurred in the source is never vanished, whatever became of its record.
- Of several entries of an id, the last one counts. One without a digest removes the id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.pipeline.read.chunk import as_mask, as_numpy
from airflow_pinecone_upsert.reindex.digest import IdDigests, RecordDigests, digest_ids
from airflow_pinecone_upsert.reindex.entries import DIGEST_BYTES

_Hashes = npt.NDArray[np.uint64]
_Digests = npt.NDArray[np.uint64]
_Checks = npt.NDArray[np.uint32]
_Slots = npt.NDArray[np.int64]
_Rows = slice | npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_HASH_BITS: Final = 64
_ENTRIES_PER_BUCKET_BITS: Final = 4
"""Buckets have 8 to 16 entries on average: the largest of a million has about 30, which takes 5 steps."""

_GROWTH: Final = 8
"""A run of entries is merged into the one before it that is not this many times as large: so there are few of them."""

_BLOCK: Final = 1 << 18
"""Entries that are loaded at once, so that sorting them takes little memory."""

_REMOVED: Final = np.uint64(2**64 - 1)
"""The last 8 bytes of the digest of an id that was removed."""


class Comparison(NamedTuple):
    """
    What the table says of n records, in order. Shape (n,) each; every record is in exactly one.

    :param is_new: The id is not in the table.
    :param is_changed: It is, and the record may be another one than it holds.
    :param is_unchanged: The record is the one that the index holds.
    """

    is_new: _Mask
    is_changed: _Mask
    is_unchanged: _Mask


class _Run:
    """
    Entries, sorted by their hashes, each of which occurs once.

    :param hashes: Ascending. Shape (n,).
    :param first: The first 8 bytes of each digest. uint64, shape (n,).
    :param last: The last 8 bytes. uint64, shape (n,).
    :param is_seen: Whether the id occurred in the source. Shape (n,).
    """

    def __init__(self, hashes: _Hashes, first: _Hashes, last: _Hashes, is_seen: _Mask) -> None:
        self.hashes = hashes
        self.first = first
        self.last = last
        self.is_seen = is_seen
        bits = max(1, len(hashes).bit_length() - _ENTRIES_PER_BUCKET_BITS)
        self._shift = np.uint64(_HASH_BITS - bits)
        bounds = np.arange(1 << bits, dtype=np.uint64) << self._shift
        starts = np.append(np.searchsorted(hashes, bounds), len(hashes))
        self._steps = int(np.diff(starts).max()).bit_length()
        self._starts = starts.astype(np.uint32)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: _Hashes) -> tuple[_Slots, _Mask]:
        """Return the slot of each hash, and whether it is there. Shape (n,) each."""
        if not len(self):
            return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
        buckets = (hashes >> self._shift).astype(np.int64)
        low, high = self._starts[buckets].astype(np.int64), self._starts[buckets + 1].astype(np.int64)
        final = len(self) - 1
        for _ in range(self._steps):
            middle = (low + high) >> 1
            is_less = (self.hashes[np.minimum(middle, final)] < hashes) & (low < high)
            low = np.where(is_less, middle + 1, low)
            high = np.where(is_less, high, middle)
        slots = np.minimum(low, final)
        return slots, self.hashes[slots] == hashes

    def checks(self, slots: _Slots) -> _Checks:
        """Return the first 4 bytes of digests. Shape (n,)."""
        return self.first[slots].view(np.uint32)[::2]

    def merged(self, newer: _Run) -> _Run:
        """Return the entries of both, in the memory of this one; no hash is in both."""
        positions = np.searchsorted(self.hashes, newer.hashes) + np.arange(len(newer))
        for name in ("hashes", "first", "last", "is_seen"):
            _insert(getattr(self, name), getattr(newer, name), positions)
        return _Run(self.hashes, self.first, self.last, self.is_seen)


def _insert(column: npt.NDArray[Any], values: npt.NDArray[Any], positions: _Slots) -> None:
    """
    Insert values in place: a second copy of 10 million entries would take 240 MB.

    :param column: Owns its memory. Shape (n,), then (n + m,).
    :param positions: Of the values in the result, ascending. Shape (m,).
    """
    column.resize(len(column) + len(values), refcheck=False)
    # From the end, so that what is not moved yet is not overwritten.
    for start in reversed(range(0, len(column), _BLOCK)):
        stop = min(start + _BLOCK, len(column))
        before, inside = np.searchsorted(positions, [start, stop]).tolist()
        is_moved = np.ones(stop - start, bool)
        is_moved[positions[before:inside] - start] = False
        column[start:stop][is_moved] = column[start - before : stop - inside].copy()
    column[positions] = values


class _Collision:
    """An entry whose hash another entry has, too. Its number is its place among all of these."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.first = self.last = np.uint64(0)
        self.is_seen = False

    def set(self, digest: _Digests, *, is_seen: bool) -> None:
        self.first, self.last = digest
        self.is_seen = bool(is_seen or self.last == _REMOVED)


class IdTable:
    """
    The entries of a manifest, and of the records that were read since.

    :param entries: Record batches with the columns ``id`` and ``digest``: 16 bytes, or null for an id that was removed.
    :param hash_bits: Bits of the hash. Tests have fewer, so that ids collide.
    """

    def __init__(self, entries: Iterable[pa.RecordBatch] = (), *, hash_bits: int = _HASH_BITS) -> None:
        self._mask = np.uint64((2**hash_bits - 1) << (_HASH_BITS - hash_bits))
        self._collisions: dict[tuple[int, int], _Collision] = {}
        self._runs: list[_Run] = []
        self._loaded_count = 0
        for hashes, digests in _blocks(entries):
            order = np.argsort(hashes & self._mask, kind="stable")  # neighbours are looked up three times as fast
            self._enter(hashes[order] & self._mask, digests[order], is_seen=False)
        while len(self._runs) > 1:
            newer = self._runs.pop()
            self._runs.append(self._runs.pop().merged(newer))
        self._loaded_count = self.unseen_count

    def __len__(self) -> int:
        """Count the ids, those that were removed included."""
        return sum(map(len, self._runs)) + len(self._collisions)

    @property
    def loaded_count(self) -> int:
        """The number of ids that the manifest had."""
        return self._loaded_count

    def compare(self, records: RecordDigests) -> Comparison:
        """
        Compare records with the table, and note that their ids occur in the source.

        :param records: They follow the records that were compared before. Those without a digest are never unchanged.
        """
        hashes = records.id_hashes & self._mask
        first, last = records.digests[:, 0], records.digests[:, 1]
        checks = records.digests.view(np.uint32)[:, 0]
        is_known, is_equal = np.zeros(len(hashes), bool), np.zeros(len(hashes), bool)
        for _, run, rows, slots in self._found(hashes, checks):
            known_last = run.last[slots]
            is_known[rows] = known_last != _REMOVED
            is_equal[rows] = (run.first[slots] == first[rows]) & (known_last == last[rows])
            run.is_seen[slots] = True
        for row, _, collision in self._found_collisions(hashes, checks):
            is_known[row] = collision.last != _REMOVED
            is_equal[row] = (collision.first, collision.last) == (first[row], last[row])
            collision.is_seen = True
        is_equal &= records.is_valid
        if _has_repeated(hashes):
            _mark_repeated(hashes, checks, is_known, is_equal)
        return Comparison(~is_known & ~is_equal, is_known & ~is_equal, is_equal)

    def update(self, id_hashes: _Hashes, digests: _Digests) -> None:
        """
        Enter records that are to be sent.

        :param id_hashes: Of records that were compared, in the order of the source. Shape (n,).
        :param digests: uint64, shape (n, 2).
        """
        self._enter(id_hashes & self._mask, digests, is_seen=True)

    def vanished(self, ids: pa.Array[Any]) -> _Mask:
        """
        Return which ids are in the manifest and did not occur in the source.

        :param ids: Ids of the manifest. Length n.
        :return: Shape (n,).
        """
        digests = digest_ids(ids)
        hashes = digests.hashes & self._mask
        is_vanished = np.zeros(len(hashes), bool)
        for _, run, rows, slots in self._found(hashes, digests.checks):
            is_vanished[rows] = ~run.is_seen[slots]
        for row, _, collision in self._found_collisions(hashes, digests.checks):
            is_vanished[row] = not collision.is_seen
        return is_vanished

    @property
    def unseen_count(self) -> int:
        """The number of ids that did not occur in the source."""
        unseen = sum(len(run) - int(np.count_nonzero(run.is_seen)) for run in self._runs)
        return unseen + sum(not collision.is_seen for collision in self._collisions.values())

    def note_listed(self, ids: pa.Array[Any]) -> _Mask:
        """
        Note ids that the namespace has, before the source is read.

        :param ids: Length n.
        :return: Which of them the manifest does not have; they are entered, and what they hold is unknown. Shape (n,).
        """
        digests = digest_ids(ids)
        hashes = digests.hashes & self._mask
        is_stray = np.ones(len(hashes), bool)
        for _, run, rows, slots in self._found(hashes, digests.checks):
            is_stray[rows] = run.last[slots] == _REMOVED
            run.is_seen[slots] = True
        for row, _, collision in self._found_collisions(hashes, digests.checks):
            is_stray[row] = collision.last == _REMOVED
            collision.is_seen = True
        self._enter(hashes[is_stray], _unknown(digests.checks[is_stray]), is_seen=True)
        return is_stray

    def note_stray(self, ids: pa.Array[Any]) -> _Mask:
        """
        Note ids that a namespace has of which no record was read yet.

        :param ids: Length n.
        :return: Which of them the manifest does not have; they are entered as not seen, and what they hold is unknown.
            Shape (n,).
        """
        digests = digest_ids(ids)
        hashes = digests.hashes & self._mask
        is_stray = np.ones(len(hashes), bool)
        for _, run, rows, slots in self._found(hashes, digests.checks):
            is_stray[rows] = run.last[slots] == _REMOVED
        for row, _, collision in self._found_collisions(hashes, digests.checks):
            is_stray[row] = collision.last == _REMOVED
        before = self.unseen_count
        self._enter(hashes[is_stray], _unknown(digests.checks[is_stray]), is_seen=False)
        self._loaded_count += self.unseen_count - before
        return is_stray

    def forget(self, ids: pa.Array[Any]) -> None:
        """Note that what these ids hold, which occurred in the source, is unknown."""
        digests = digest_ids(ids)
        self._enter(digests.hashes & self._mask, _unknown(digests.checks), is_seen=True)

    def end_listing(self) -> None:
        """Forget what the ids hold that the namespace does not have, and get ready for the source."""
        for run in self._runs:
            is_lost = ~run.is_seen
            run.last[is_lost] = 0
            run.first.view(np.uint32)[1::2][is_lost] = 0
            run.is_seen = run.last == _REMOVED
        for collision in self._collisions.values():
            if not collision.is_seen:
                collision.first, collision.last = np.uint64(0), np.uint64(0)
            collision.is_seen = bool(collision.last == _REMOVED)
        self._loaded_count = self.unseen_count

    def latest(self, entries: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        """
        Yield the last entry of each id, without those that were removed.

        :param entries: Returns all entries of a manifest, in order; called twice. All ids are in this table.
        """
        last = np.zeros(len(self), np.uint32)
        for numbers, slots, _ in self._numbered(entries()):
            last[slots] = numbers  # of the same slot twice, numpy keeps the last
        for numbers, slots, batch in self._numbered(entries()):
            is_last = last[slots] == numbers
            yield batch.filter(pc.and_(as_mask(is_last), batch.column("digest").is_valid()))

    def _numbered(
        self, entries: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[npt.NDArray[np.uint32], _Slots, pa.RecordBatch]]:
        """Yield the number of each entry, counted from 0, and the slot of its id among all runs."""
        start = 0
        for batch in entries:
            yield np.arange(start, start + len(batch), dtype=np.uint32), self._slots(batch.column("id")), batch
            start += len(batch)

    def _slots(self, ids: pa.Array[Any]) -> _Slots:
        digests = digest_ids(ids)
        hashes = digests.hashes & self._mask
        found = np.zeros(len(hashes), np.int64)
        for offset, _, rows, slots in self._found(hashes, digests.checks):
            found[rows] = slots + offset
        offset = sum(map(len, self._runs))
        for row, number, _ in self._found_collisions(hashes, digests.checks):
            found[row] = number + offset
        return found

    def _found(
        self, hashes: _Hashes, checks: _Checks, is_taken: _Mask | None = None
    ) -> Iterator[tuple[int, _Run, _Rows, _Slots]]:
        """
        Yield the runs, each after the number of entries before it, with the rows whose ids are in it and their slots.

        :param is_taken: Set where a run has the hash, be it for this id or for another one.
        """
        offset = 0
        for run in self._runs:
            slots, is_found = run.find(hashes)
            if is_taken is not None:
                is_taken |= is_found
            is_found &= run.checks(slots) == checks
            if is_found.all():
                yield offset, run, slice(None), slots
                return
            if is_found.any():
                rows = np.flatnonzero(is_found)
                yield offset, run, rows, slots[rows]
            offset += len(run)

    def _found_collisions(self, hashes: _Hashes, checks: _Checks) -> Iterator[tuple[int, int, _Collision]]:
        """Yield the rows whose ids are among the collisions, each with the collision and its number."""
        if not self._collisions:
            return
        for row, key in enumerate(zip(hashes.tolist(), checks.tolist(), strict=True)):
            collision = self._collisions.get(key)
            if collision is not None:
                yield row, collision.number, collision

    def _enter(self, hashes: _Hashes, digests: _Digests, *, is_seen: bool) -> None:
        """Enter digests; of an id that occurs twice the last one counts."""
        checks = digests.view(np.uint32).reshape(-1, 4)[:, 0]
        is_new, is_taken = np.ones(len(hashes), bool), np.zeros(len(hashes), bool)
        for _, run, rows, slots in self._found(hashes, checks, is_taken):
            is_new[rows] = False
            run.first[slots] = digests[rows, 0]  # of the same slot twice, numpy keeps the last
            run.last[slots] = digests[rows, 1]
            run.is_seen[slots] = is_seen | (run.last[slots] == _REMOVED)
        for row, _, collision in self._found_collisions(hashes, checks):
            is_new[row] = False
            collision.set(digests[row], is_seen=is_seen)
        if is_new.any():
            self._add(hashes[is_new], digests[is_new], is_taken[is_new], is_seen=is_seen)

    def _add(self, hashes: _Hashes, digests: _Digests, is_taken: _Mask, *, is_seen: bool) -> None:
        """Add entries of new ids, whose hashes may be taken by those of other ids in a run."""
        order = np.argsort(hashes, kind="stable")
        if _differ_where_equal(hashes[order], digests[order]):
            order = np.lexsort((digests.view(np.uint32).reshape(-1, 4)[:, 0], hashes))
        hashes, digests, is_taken = hashes[order], digests[order], is_taken[order]
        checks = digests.view(np.uint32).reshape(-1, 4)[:, 0]
        is_replaced = np.append((hashes[1:] == hashes[:-1]) & (checks[1:] == checks[:-1]), np.False_)
        hashes, digests, is_taken = hashes[~is_replaced], digests[~is_replaced], is_taken[~is_replaced]
        is_taken[1:] |= hashes[1:] == hashes[:-1]
        for row in np.flatnonzero(is_taken).tolist():
            self._add_collision(hashes, digests, row, is_seen=is_seen)
        hashes, digests = hashes[~is_taken], digests[~is_taken]
        if not len(hashes):
            return
        first, last = digests[:, 0].copy(), digests[:, 1].copy()
        newest = _Run(hashes, first, last, is_seen | (last == _REMOVED))
        while self._runs and len(self._runs[-1]) < _GROWTH * len(newest):
            newest = self._runs.pop().merged(newest)
        self._runs.append(newest)

    def _add_collision(self, hashes: _Hashes, digests: _Digests, row: int, *, is_seen: bool) -> None:
        """Add an entry whose hash is taken, by an entry of another id in a run or just before it among the new ones."""
        key = int(hashes[row]), int(digests[row].view(np.uint32)[0])
        collision = self._collisions.setdefault(key, _Collision(len(self._collisions)))
        collision.set(digests[row], is_seen=is_seen)


def _blocks(entries: Iterable[pa.RecordBatch]) -> Iterator[tuple[_Hashes, _Digests]]:
    """Yield the hashes and digests of many entries at a time."""
    hashes: list[_Hashes] = []
    digests: list[_Digests] = []
    count = 0
    for batch in entries:
        ids = digest_ids(batch.column("id"))
        hashes.append(ids.hashes)
        digests.append(_digests_of(batch.column("digest"), ids))
        count += len(batch)
        if count >= _BLOCK:
            yield np.concatenate(hashes), np.concatenate(digests)
            hashes, digests, count = [], [], 0
    if hashes:
        yield np.concatenate(hashes), np.concatenate(digests)


def _unknown(checks: _Checks) -> _Digests:
    """Return digests that no record has, of ids with these checks."""
    digests = np.zeros((len(checks), 2), np.uint64)
    digests.view(np.uint32)[:, 0] = checks
    return digests


def _digests_of(column: pa.Array[Any], ids: IdDigests) -> npt.NDArray[np.uint64]:
    """Return digests of a manifest. The bytes of the ids are set also where the digest is unknown."""
    start = column.offset * DIGEST_BYTES
    data = column.buffers()[1]
    content = memoryview(data)[start : start + len(column) * DIGEST_BYTES] if data else b""
    digests = np.frombuffer(bytearray(content), np.uint64).reshape(-1, 2)
    digests.view(np.uint32)[:, 0] = ids.checks
    if column.null_count:
        digests[~as_numpy(column.is_valid()), 1] = _REMOVED
    return digests


def _differ_where_equal(hashes: _Hashes, digests: _Digests) -> bool:
    """Return whether two ids that follow each other have the same hash, so that the entries of one may be apart."""
    checks = digests.view(np.uint32).reshape(-1, 4)[:, 0]
    return bool(((hashes[1:] == hashes[:-1]) & (checks[1:] != checks[:-1])).any())


def _has_repeated(hashes: _Hashes) -> bool:
    ordered = np.sort(hashes)
    return bool((ordered[1:] == ordered[:-1]).any())


def _mark_repeated(hashes: _Hashes, checks: _Checks, is_known: _Mask, is_equal: _Mask) -> None:
    """
    Of an id that occurs twice, mark the records as changed unless all of them are unchanged.

    Otherwise the first would be sent, and the second would not, because it is equal to what the index held before.
    """
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(hashes.tolist(), checks.tolist(), strict=True)):
        rows_of.setdefault(key, []).append(row)
    for rows in rows_of.values():
        if len(rows) > 1:
            is_equal[rows] = is_equal[rows].all()
            is_known[rows[1:]] = True
