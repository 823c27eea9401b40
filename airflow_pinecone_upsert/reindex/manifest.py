"""
The manifest: what a namespace holds, as confirmed by the server. It is also the checkpoint of a reindexing run.

Usage of a run::

    manifest = Manifest.open(folder, target, run_id)    # takes over; without a run id it only reads
    for batch in manifest.entries(): ...                # later entries override earlier ones, see entries.py
    manifest.mark_unknown(ids); manifest.flush()        # before a request for these ids is sent
    manifest.append(ids, digests, sizes)                # once the server has confirmed an upsert
    manifest.remove(ids)                                # once it has confirmed a deletion
    manifest.flush()                                    # every few seconds, and at every end, also after a failure
    if manifest.compaction_is_due: manifest.commit(entries)
    manifest.commit(entries, summary)                   # after a success

``commit`` takes the last entry of each id, without those that are removed. They may be taken from ``manifest.entries()``,
which can be read any number of times and has what was flushed.

Invariants:

- An entry claims only what the server confirmed, and nothing that was sent and not confirmed since: an id that is marked
  is unknown until it is appended or removed, whatever happens to the process, and also if ``commit`` is given a digest
  for it. So what was in flight when a process was killed is sent again, or deleted, even if the source has changed since.
- The process may die at any moment. The next one finds everything that was flushed, and nothing else.
- Of several runs, one writes. Generations are created only if absent: a run creates one when it starts, and each
  commit is one. A run that finds a newer generation than its own stops, at the latest at its next flush.
- What an earlier run writes in spite of that makes ids unknown, and never claims a digest: whichever run's request came
  last to the server, it is sent again. What cannot be seen is a request that the server applies so late that both its
  run's end and our request for the same id came before; the proof of a later run may find it, and ``full`` repairs it. The
  deletion of a whole namespace is one for each of its ids.
- A manifest is not compacted while its entries are read, as they are for the length of the deletions.
- No file is overwritten, and none is removed that the newest generation names. Older generations are not kept: they
  would claim what has been overwritten in the namespace since.

A storage without conditional writes (see :func:`create_file`) does not guarantee that one of two runs wins that start
or commit in the same instant. There, the lease alone keeps them apart.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pyarrow as pa

from airflow_pinecone_upsert.exceptions import ManifestError, ManifestInUseError, PineconeUpsertError
from airflow_pinecone_upsert.reindex.entries import (
    ENTRY_SCHEMA,
    UNKNOWN_DIGEST,
    as_file,
    as_unknown,
    known_entries,
    read_entries,
    removed_entries,
    unknown_entries,
    write_entries,
)
from airflow_pinecone_upsert.reindex.folder import ManifestFolder
from airflow_pinecone_upsert.reindex.generation import (
    JSON,
    Generation,
    OtherFormatError,
    Segment,
    Target,
    base_name,
    generation_name,
    generation_numbers,
    obsolete_files,
    seen_segments,
    segment_name,
    unseen_segments,
)

__all__ = ["ENTRY_SCHEMA", "UNKNOWN_DIGEST", "Manifest", "ManifestFolder", "Target", "new_run_id", "read_generation"]

log = logging.getLogger(__name__)

_MAX_JOURNALED: Final = 3_000_000
"""Entries in segments, then a compaction is due: so many are loaded in about a second."""

_MAX_SEGMENTS: Final = 1_000
"""Files, likewise: one page of a listing, and some seconds of reading on object storage."""

_MAX_READS: Final = 5
"""A generation that was listed may be gone when it is read, because another run has created a newer one."""


def new_run_id() -> str:
    """Return an id for one process that writes to a manifest. Each try of a task has its own."""
    return uuid.uuid4().hex[:12]


class Manifest:
    """
    The manifest in one folder. Used by one thread. See the module.

    :ivar notice: Why its digests cannot be compared, so that everything is sent; None where they can.
    """

    def __init__(self, folder: ManifestFolder, target: Target, generation: Generation) -> None:
        """Use :meth:`open`."""
        self.notice: str | None = None
        self._folder = folder
        self._target = target
        self._generation = generation
        self._segments: dict[
            Segment, int
        ] = {}  # after the base, in order, each with its entries as far as they are known
        self._late: list[Segment] = []  # of other runs, written after this one has loaded the manifest
        self._seen: dict[str, int] = dict(generation.seen)
        self._run_id: str | None = None
        self._buffer: list[pa.RecordBatch] = []
        self._unsettled: dict[str, None] = {}  # a set that keeps the order
        self._segment_number = 0
        self._readers = 0

    @classmethod
    def open(cls, folder: ManifestFolder, target: Target, run_id: str | None = None) -> Manifest:
        """
        Open the manifest of a folder, or a new one.

        :param target: What it must describe. If it has digests of another function, their ids are kept as unknown.
        :param run_id: The run that takes it over, see :func:`new_run_id`; None to only read it.
        :raises ManifestError: It describes another target or is damaged, or the folder cannot be used.
        :raises ManifestInUseError: Another run took it over at this moment.
        :raises StorageError: The storage does not respond.
        """
        found, names = read_generation(folder)
        if found is None:
            numbers = generation_numbers(names)
            # Segments of another format are not read.
            seen = seen_segments(names) if numbers else {}
            generation = Generation(numbers[0] if numbers else 0, target, "", seen=seen)
            manifest = cls(folder, target, generation)
            manifest._notice("it has a format that this version does not read" if numbers else None)
        else:
            _check_target(folder, found.target, target)
            manifest = cls(folder, target, found)
            known, wanted = found.target.digest_function, target.digest_function
            manifest._notice(f"it has digests of {known}, and not of {wanted}" if known != wanted else None)
        if run_id is None:
            manifest._load(names)
        else:
            manifest._take_over(run_id, names)
        return manifest

    @property
    def generation(self) -> int:
        """The number of the generation; 0 if there is none."""
        return self._generation.number

    @property
    def record_count(self) -> int:
        """Records at the last compaction."""
        return self._generation.record_count

    @property
    def total_bytes(self) -> int:
        """Bytes of these records, by Pinecone's cost rule."""
        return self._generation.total_bytes

    @property
    def last_run(self) -> JSON | None:
        """What the last successful run reported."""
        return self._generation.last_run

    @property
    def compaction_is_due(self) -> bool:
        """Whether so much was journaled that the next run would load it slowly, and no one is reading the entries."""
        if self.is_being_read:
            return False
        count = len(self._segments) + len(self._late)
        return count >= _MAX_SEGMENTS or sum(self._segments.values()) >= _MAX_JOURNALED

    @property
    def is_being_read(self) -> bool:
        """Whether an iterator of :meth:`entries` has not ended. A commit would remove the files that it reads."""
        return self._readers > 0

    def entries(self) -> Iterator[pa.RecordBatch]:
        """
        Yield all entries, with the schema :data:`ENTRY_SCHEMA`. Of one id, the last entry counts.

        They include what this run has flushed, and what another run wrote before this one has taken over, but not later.
        Memory is bounded by one row group of the base and a few segments.

        :raises ManifestError: A file is damaged.
        :raises ManifestInUseError: Another run has committed since this manifest was opened.
        :raises StorageError: The storage does not respond.
        """
        self._readers += 1
        try:
            if self._generation.base is not None:
                yield from self._base_entries(self._generation.base)
            segments = {segment.name: segment for segment in self._segments}
            with self._damaged("a segment"):
                for name, content in self._folder.read_all(list(segments)):
                    yield from self._segment_entries(segments[name], content)
        finally:
            self._readers -= 1

    def mark_unknown(self, ids: Sequence[str]) -> None:
        """
        Enter that something may be sent for these ids. A request must not be sent before they are flushed.

        Also for ids of which a check has shown that the namespace does not hold what the manifest says.
        """
        self._unsettled.update(dict.fromkeys(ids))
        self._journal(unknown_entries(ids))

    def append(self, ids: Sequence[str], digests: Sequence[bytes], sizes: Sequence[int]) -> None:
        """
        Enter records that the server has confirmed.

        Also a record that it rejected, with what the namespace still holds for its id; or :meth:`remove` it, if that is
        nothing.

        :param digests: Of :data:`DIGEST_BYTES` bytes each.
        :param sizes: Bytes of each record, by Pinecone's cost rule.
        """
        self._settle(ids)
        self._journal(known_entries(ids, digests, sizes))

    def remove(self, ids: Sequence[str]) -> None:
        """Enter deletions that the server has confirmed."""
        self._settle(ids)
        self._journal(removed_entries(ids))

    def flush(self) -> None:
        """
        Write what was entered since the last time, and check that this run still is the one that writes.

        :raises ManifestInUseError: It is not; what was entered is written nevertheless.
        :raises ManifestError: The folder cannot be written to.
        :raises StorageError: The storage does not respond. The next call writes the same again.
        """
        if self._buffer:
            self._write_segment(self._buffer)
            self._buffer = []
        self._check_newest(self._folder.sizes())

    def commit(self, entries: Iterable[pa.RecordBatch], summary: JSON | None = None) -> None:
        """
        Create a new generation whose base has all entries, then remove what it replaces.

        :param entries: All entries that are not removed, of :data:`ENTRY_SCHEMA`, each id once. Read after a flush; not
            read where nothing has changed.
        :param summary: What this run reports, as JSON; None in the middle of a run.
        :raises ManifestInUseError: Another run took over; it is as if this one had died.
        :raises ManifestError: The folder cannot be written to.
        :raises StorageError: The storage does not respond. The generation may or may not be created.
        """
        self.flush()
        number = self._generation.number + 1
        new = replace(self._generation, number=number, target=self._target, run_id=self._run, segments=())
        if summary is not None:
            new = replace(new, last_run=summary)
        if self._generation.base is None or self._segments:
            new = self._with_new_base(new, entries)
        names = self._folder.sizes()
        # What other runs wrote since this one has loaded the manifest is not in the base.
        seen = {**self._seen, self._run: self._segment_number}
        self._late.extend(unseen_segments(replace(new, seen=seen), names))
        self._seen = self._all_seen(names)
        segments = {segment: self._segments[segment] for segment in new.segments}
        new = replace(new, segments=(*segments, *self._late), seen=self._seen)
        names = self._create(new)
        self._segments = segments
        self._remove_obsolete(names)

    # Opening --------------------------------------------------------------------------------------

    def _notice(self, reason: str | None) -> None:
        if reason is not None:
            self.notice = (
                f"The manifest in {self._folder.url} cannot be compared: {reason}. Every record is sent again."
            )
            log.warning("%s", self.notice)

    def _take_over(self, run_id: str, names: Mapping[str, int]) -> None:
        """Create the generation of this run, which adopts what earlier runs left."""
        self._run_id = run_id
        earlier = self._generation
        number = max([earlier.number, *generation_numbers(names)]) + 1
        segments = (*earlier.segments, *unseen_segments(earlier, names))
        seen = self._all_seen(names)
        new = replace(earlier, number=number, target=self._target, run_id=run_id, segments=segments, seen=seen)
        # Listed again, because an earlier run may have written while the generation was created. It has not seen the
        # new generation before that, or it would have stopped.
        self._load(self._create(new))
        if doubtful := sum(segment.is_doubtful for segment in self._segments):
            log.warning(
                "Two runs wrote to the manifest in %s at once. The ids in %s of its segments are sent again.",
                self._folder.url,
                doubtful,
            )

    def _load(self, names: Mapping[str, int]) -> None:
        self._segments = dict.fromkeys([*self._generation.segments, *unseen_segments(self._generation, names)], 0)
        self._seen = self._all_seen(names)

    def _all_seen(self, names: Mapping[str, int]) -> dict[str, int]:
        """Return what the generation has seen if it has seen all of these files. Runs without files are forgotten."""
        return {run_id: max(number, self._seen.get(run_id, 0)) for run_id, number in seen_segments(names).items()}

    # Reading --------------------------------------------------------------------------------------

    def _base_entries(self, name: str) -> Iterator[pa.RecordBatch]:
        count = 0
        with self._damaged(name), self._folder.open(name) as file:
            for batch in read_entries(file, self._target.digest_function):
                count += len(batch)
                yield batch
        if count != self._generation.record_count:
            raise self._damage(name, f"it has {count:,} entries, and not {self._generation.record_count:,}")

    def _segment_entries(self, segment: Segment, content: bytes) -> Iterator[pa.RecordBatch]:
        with self._damaged(segment.name):
            batches = list(read_entries(pa.BufferReader(content), self._target.digest_function))
        self._segments[segment] = sum(map(len, batches))
        for batch in batches:
            yield as_unknown(batch, removed_too=True) if segment.is_doubtful else batch

    @contextmanager
    def _damaged(self, name: str) -> Iterator[None]:
        try:
            yield
        except PineconeUpsertError:
            raise
        except FileNotFoundError as exc:
            self._check_newest(self._folder.sizes())
            raise self._damage(name, "a file is missing") from exc
        except (pa.ArrowException, OSError) as exc:
            raise self._damage(name, " ".join(str(exc).split())) from exc

    def _damage(self, name: str, reason: str) -> ManifestError:
        return _damage(self._folder, f"{name}: {reason}")

    # Writing --------------------------------------------------------------------------------------

    @property
    def _run(self) -> str:
        if self._run_id is None:
            raise RuntimeError("This manifest was opened without a run id, for reading only.")
        return self._run_id

    def _journal(self, batch: pa.RecordBatch) -> None:
        if len(batch):
            self._buffer.append(batch)

    def _settle(self, ids: Sequence[str]) -> None:
        for record_id in ids:
            self._unsettled.pop(record_id, None)

    def _write_segment(self, batches: Sequence[pa.RecordBatch]) -> Segment:
        # A new name each time: the last attempt may have been written although it failed.
        self._segment_number += 1
        segment = Segment(segment_name(self._run, self._segment_number))
        self._folder.write(segment.name, as_file(batches, self._target.digest_function))
        self._segments[segment] = sum(map(len, batches))
        return segment

    def _with_new_base(self, new: Generation, entries: Iterable[pa.RecordBatch]) -> Generation:
        name = base_name(new.number, self._run)
        with self._folder.create_large(name) as file:
            count, total_bytes = write_entries(entries, file, self._target.digest_function)
        new = replace(new, base=name, record_count=count, total_bytes=total_bytes)
        if self._unsettled:  # the entries may have digests of what is in flight, or was rejected
            new = replace(new, segments=(self._write_segment([unknown_entries(list(self._unsettled))]),))
        return new

    def _create(self, new: Generation) -> dict[str, int]:
        """
        Create a generation.

        :return: The files of the folder after that.
        :raises ManifestInUseError: Another run was faster.
        """
        is_created = self._folder.create(generation_name(new.number), new.as_json())
        names = self._folder.sizes()
        if is_created:
            self._generation = new
        # Also if it was created: a run that slept for long may create one that was there and is removed.
        self._check_newest(names)
        if not is_created:
            raise self._in_use()
        return names

    def _check_newest(self, names: Mapping[str, int]) -> None:
        numbers = generation_numbers(names)
        if numbers and numbers[0] > self._generation.number:
            raise self._in_use()

    def _in_use(self) -> ManifestInUseError:
        return ManifestInUseError(
            f"Another run has taken over the manifest in {self._folder.url} (generation {self._generation.number} was "
            "this run's). Wait until it has ended, then run this one again."
        )

    def _remove_obsolete(self, names: Mapping[str, int]) -> None:
        try:
            self._folder.delete(obsolete_files(self._generation, names))
        except PineconeUpsertError as exc:  # the next commit removes them
            log.warning("Old files of the manifest could not be removed. %s", exc)


def read_generation(folder: ManifestFolder) -> tuple[Generation | None, dict[str, int]]:
    """
    Return the newest generation of a folder that is complete, and the folder's files with their bytes.

    :return: None where there is no generation, or one of another format.
    :raises ManifestError: None of several is complete, or the folder cannot be used.
    :raises StorageError: The storage does not respond.
    """
    for _ in range(_MAX_READS):
        names = folder.sizes()
        reason = ""
        for number in generation_numbers(names):
            try:
                return Generation.from_json(folder.read(generation_name(number))), names
            except OtherFormatError:
                return None, names
            except FileNotFoundError:
                break
            except ValueError as exc:  # a storage that does not write files as a whole, and a process that was killed
                reason = reason or f"{generation_name(number)}: {exc}"
        else:
            if reason:
                raise _damage(folder, reason)
            return None, names
    raise ManifestInUseError(f"The manifest in {folder.url} changes all the time. Wait until other runs have ended.")


def _check_target(folder: ManifestFolder, found: Target, wanted: Target) -> None:
    if differences := found.differences(wanted):
        raise ManifestError(
            f"The manifest in {folder.url} describes another target: {'; '.join(differences)}. Set another "
            "manifest_path for this target. If the manifest is not needed any more, delete the folder."
        )


def _damage(folder: ManifestFolder, reason: str) -> ManifestError:
    return ManifestError(
        f"The manifest in {folder.url} is damaged ({reason}). Delete the folder and run with audit=True, which finds "
        "records that the source does not have; every record is sent again."
    )
