"""
The checkpoint: how far a run has come, stored where the next try of the same task finds it.

It speaks of rows of the source and not of batches, so that batch sizes may change between two tries. Invariant: every row
before its position, and every row in its settled ranges, is confirmed or rejected, so resuming from it loses nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from airflow_pinecone_upsert.exceptions import TransientError
from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.learned import Learned
from airflow_pinecone_upsert.pipeline.position import Position, RowRange
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import Written
from airflow_pinecone_upsert.pipeline.track.compact import compact_ranges, expanded_ranges, packed, unpacked

log = logging.getLogger(__name__)

_FORMAT: Final = 2
"""Raised when the stored form changes: a checkpoint of another format is not used."""

_MAX_CHARS: Final = 200_000
"""Of a stored checkpoint. Airflow recommends 64 KB; 300 namespaces, of which all rows alternate, take about 20 KB."""

_PROGRESS: Final = "progress"
_KEY: Final = "resume"
"""After ``progress``, because Airflow's UI sorts the keys of a task's state by name, and users look for the progress."""


class StateStore(Protocol):
    """A few JSON values that outlive the process, such as Airflow's task state store."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        ...

    def delete(self, key: str) -> None:
        """Delete a value."""
        ...


@dataclass(frozen=True)
class CheckpointState:
    """
    What a try leaves to the next one.

    :param position: Where to resume.
    :param settled_after: Rows after it that need not be sent again: confirmed or rejected.
    :param counts: The counters; of records, those that need not be sent again.
    :param rejects_paths: The files of rejected records.
    :param lsn: The log sequence number of the last write; None where the server reports none.
    :param namespaces: Of the counted records, those of each namespace.
    :param learned: What the server showed of its limits; None in a checkpoint of an earlier version.
    """

    position: Position
    settled_after: tuple[RowRange, ...]
    counts: Counts
    rejects_paths: tuple[str, ...]
    lsn: int | None = None
    namespaces: Mapping[str, Written] = field(default_factory=dict)
    learned: Learned | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "position": list(self.position),
            "settledAfter": compact_ranges(self.settled_after),
            "counts": self.counts.as_json(),
            "rejectsPaths": list(self.rejects_paths),
            "lsn": self.lsn,
            "namespaces": packed({name: list(written) for name, written in self.namespaces.items()}),
            "learned": self.learned.as_json() if self.learned else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CheckpointState:
        """
        Read the stored form.

        :raises LookupError: A part is missing.
        :raises TypeError: A part has another type.
        :raises ValueError: Likewise.
        """
        origin, row = value["position"]
        lsn, learned = value.get("lsn"), value.get("learned")  # absent in a checkpoint of an earlier version
        return cls(
            Position(str(origin), int(row)),
            tuple(expanded_ranges(value["settledAfter"])),
            Counts.from_json(value["counts"]),
            tuple(map(str, value["rejectsPaths"])),
            None if lsn is None else int(lsn),
            {name: Written(*written) for name, written in unpacked(value.get("namespaces", {})).items()},
            None if learned is None else Learned.from_json(learned),
        )


class TaskState:
    """
    What a run shows in a store, which never fails it. It saves nothing: a run whose checkpoint is elsewhere uses this class.

    :param store: Used by the caller's thread only.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def save(self, state: CheckpointState) -> None:
        """Do nothing."""

    def show(self, progress: Mapping[str, Any]) -> None:
        """Store the progress, for the user who looks at the task's state."""
        self._set(_PROGRESS, dict(progress))

    def _set(self, key: str, value: object) -> None:
        try:
            self._store.set(key, value)
        except Exception as exc:  # noqa: BLE001 - it costs the next try some work, and this one nothing
            log.warning("The %s could not be saved: %s", "checkpoint" if key == _KEY else key, exc)


class Checkpoint(TaskState):
    """
    The checkpoint of one run in a store. Only :meth:`discard` fails the run: without a checkpoint a retry sends more again.

    :param store: Used by the caller's thread only.
    :param identity: What must be equal for a position to mean the same, by the names that the log uses.
    :param source: Compares its content with what an earlier try read.
    """

    def __init__(self, store: StateStore, identity: Mapping[str, Any], source: RecordSource) -> None:
        super().__init__(store)
        self._identity = {what: _digest(value) for what, value in identity.items()}
        self._source = source
        self._is_too_long = False
        self._content: Any = None  # the digest in the checkpoint that this try resumes from

    def load(self) -> CheckpointState | None:
        """
        Return what an earlier try of the same run left; None where there is nothing, or nothing usable.

        :raises StorageError: Files that were read cannot be compared with what they are now. The checkpoint stays.
        """
        try:
            stored = self._store.get(_KEY)
        except Exception as exc:  # noqa: BLE001 - starting at the first row is safe
            log.warning("The checkpoint could not be loaded: %s. Starting at the first row.", exc)
            return None
        if not stored:
            return None
        try:
            state = self._read(stored)
        except (AttributeError, LookupError, TypeError, ValueError) as exc:
            reason = str(exc) if isinstance(exc, _UnusableError) else "It cannot be read"
            log.warning("The checkpoint of an earlier try is not used. %s. Starting at the first row.", reason)
            return None
        # Without a confirmed record there is nothing to resume; and a run whose records the server rejected must not
        # become a success because the next try has nothing left to read.
        return state if state.counts.upserted else None

    def _read(self, text: str) -> CheckpointState:
        stored = orjson.loads(text)
        if (found := stored.get("format")) != _FORMAT:
            raise _UnusableError(f"It has format {found}, this version reads format {_FORMAT}")
        identity = stored["identity"]
        changed = [what for what, digest in self._identity.items() if identity.get(what) != digest]
        if changed:
            raise _UnusableError(f"Changed since then: {', '.join(changed)}")
        state = CheckpointState.from_json(stored)
        if state.counts.upserted and (change := self._source.content_change(stored["content"])):
            raise _UnusableError(f"Changed since then: {change}")
        self._content = stored["content"] if state.counts.upserted else None
        return state

    def save(self, state: CheckpointState) -> None:
        """Store how far the run has come."""
        begun = {rows.origin for rows in state.settled_after}
        content = self._source.content_digest(state.position, begun, self._content)
        stored = {"format": _FORMAT, "identity": self._identity, "content": content, **state.as_json()}
        text = orjson.dumps(stored).decode()  # as text, which the UI shows in a few lines instead of fifty
        if len(text) > _MAX_CHARS:
            self._log_too_long(len(text))  # the one before is still true: what came after it is sent again
        else:
            self._set(_KEY, text)

    def _log_too_long(self, length: int) -> None:
        if not self._is_too_long:
            self._is_too_long = True
            log.warning(
                "The checkpoint would have %s characters, for so many namespaces or files, and is not saved: a retry sends "
                "more again. Divide the source among several tasks.",
                f"{length:,}",
            )

    def discard(self) -> None:
        """
        Delete the checkpoint before anything is sent: later tries must not resume from it.

        :raises TransientError: The store does not delete it.
        """
        self._content = None
        try:
            self._store.delete(_KEY)
        except Exception as exc:  # a store's errors have no common class
            raise TransientError(
                f"The outdated checkpoint could not be deleted, so nothing was sent: {exc}. Clear the task's state, or retry."
            ) from exc

    def clear(self) -> None:
        """Delete the checkpoint: a run that is cleared after its success starts at the first row."""
        try:
            self._store.delete(_KEY)
        except Exception as exc:  # noqa: BLE001 - all records are there
            log.warning("The checkpoint could not be deleted; delete it before you clear this task: %s", exc)


class _UnusableError(ValueError):
    """A checkpoint that must not be used, and why."""


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
