"""
How far a run has come, kept where the next try of the same task finds it.

What always holds: no record before the place that is kept, and none of the rows beyond it that are kept as confirmed, is
anything else than confirmed or set aside; so going on from there loses nothing. A batch that waits for its third try
holds the place back, which is why the rows beyond it are kept, too.

The place is a row of the source and not a batch, so that batch sizes may change between two tries.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import orjson

from airflow_pinecone_upsert.pipeline.position import Position, RowRange

log = logging.getLogger(__name__)

_KEY: Final = "checkpoint"
_PROGRESS: Final = "progress"

COUNTS: Final = ("upserted", "rejected", "requests", "requestBytes", "retries", "throttled", "durationSeconds")
"""The numbers of the report that go on counting at the next try."""


class StateStore(Protocol):
    """A few JSON values that outlive the process, such as Airflow's task state store."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        ...

    def delete(self, key: str) -> None:
        """Forget a value."""
        ...


class CheckpointState(NamedTuple):
    """
    What an earlier try has left.

    :param place: Where to go on.
    :param confirmed_beyond: Rows behind it that need not be sent again.
    :param counts: The report's numbers up to there.
    :param rejects_paths: The files of records that were set aside.
    """

    place: Position
    confirmed_beyond: list[RowRange]
    counts: Mapping[str, float]
    rejects_paths: Sequence[str]


class Checkpoint:
    """
    The place of one run in a store.

    :param store: Used by the caller's thread only.
    :param identity: What must be the same for a place to mean the same, by the names that a log would use.
    """

    def __init__(self, store: StateStore, identity: Mapping[str, Any]) -> None:
        self._store = store
        self._identity = {what: _digest(value) for what, value in identity.items()}

    def load(self) -> CheckpointState | None:
        """Return what an earlier try of the same run has left; None where there is none, or none of use."""
        try:
            kept = self._store.get(_KEY)
        except Exception as exc:  # noqa: BLE001 - to start at the first row is safe
            log.warning("The checkpoint could not be loaded: %s. Starting at the first row.", exc)
            return None
        if not kept:
            return None
        try:
            changed = [what for what, digest in self._identity.items() if kept["identity"].get(what) != digest]
            found = CheckpointState(
                Position(str(kept["place"][0]), int(kept["place"][1])),
                [RowRange(str(origin), int(first), int(end)) for origin, first, end in kept["confirmedBeyond"]],
                {name: kept["counts"][name] for name in COUNTS},
                list(kept["rejectsPaths"]),
            )
        except (AttributeError, LookupError, TypeError, ValueError):
            log.warning("The checkpoint of an earlier try cannot be read: starting at the first row.")
            return None
        if changed:
            log.warning("Changed since the earlier try: %s. Starting at the first row.", ", ".join(changed))
            return None
        return found

    def save(self, kept: CheckpointState) -> None:
        """Keep how far a run has come."""
        value = {
            "identity": self._identity,
            "place": list(kept.place),
            "confirmedBeyond": [list(rows) for rows in kept.confirmed_beyond],
            "counts": dict(kept.counts),
            "rejectsPaths": list(kept.rejects_paths),
        }
        self._set(_KEY, value)

    def show(self, progress: Mapping[str, Any]) -> None:
        """Let whoever looks at the state see how far the run is."""
        self._set(_PROGRESS, dict(progress))

    def clear(self) -> None:
        """Forget it: a run that is cleared after its success starts afresh."""
        try:
            self._store.delete(_KEY)
        except Exception as exc:  # noqa: BLE001 - all records are there
            log.warning("The checkpoint could not be deleted; delete it before you clear this task: %s", exc)

    def _set(self, key: str, value: Mapping[str, Any]) -> None:
        try:
            self._store.set(key, value)
        except Exception as exc:  # noqa: BLE001 - it costs the next try some work, and this one nothing
            log.warning("The %s could not be saved: %s", key, exc)


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
