"""
The lease: which run may write to a manifest, so that a second one fails at once and says who is at work.

It is advice, for people: what decides is the manifest, where one of two runs cannot commit. Invariants:

- A lease is a numbered file, ``lease-000009.json``, that is created only if absent; the highest number counts. Numbers are
  not used twice, so a run that renews its own file never overwrites that of another one.
- The file of a lease that was given back stays, and says so.
- Expiry is compared with the clock of the machine that reads it. A clock that is wrong by some seconds delays or hastens
  a take-over.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Final

import orjson

from airflow_pinecone_upsert.exceptions import ManifestInUseError, StorageError
from airflow_pinecone_upsert.reindex.folder import ManifestFolder

log = logging.getLogger(__name__)

RENEWAL_INTERVAL_S: Final = 10.0
LIFETIME_S: Final = 60.0
"""After the last renewal. A run whose process was killed is replaced after this time, at the latest."""

_NAME: Final = re.compile(r"lease-(\d{6,})\.json")


@dataclass(frozen=True)
class Holder:
    """
    A run.

    :param run_id: Of the process, see :func:`airflow_pinecone_upsert.reindex.manifest.new_run_id`.
    :param dag_run: The id of the DAG run; empty outside of Airflow.
    :param task: The id of DAG and task.
    :param map_index: Of a mapped task.
    :param try_number: Counted from 1.
    """

    run_id: str
    dag_run: str = ""
    task: str = ""
    map_index: int = -1
    try_number: int = 1
    host: str = field(default_factory=socket.gethostname)
    process_id: int = field(default_factory=os.getpid)

    def replaces(self, other: Holder) -> bool:
        """Return whether this is the same or a later try of the same task instance."""
        mine, theirs = ((it.dag_run, it.task, it.map_index) for it in (self, other))
        return bool(self.dag_run) and mine == theirs and self.try_number >= other.try_number

    def __str__(self) -> str:
        """Return it for a message."""
        where = f"process {self.process_id} on {self.host}"
        if not self.dag_run:
            return where
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"try {self.try_number} of {self.task}{mapped} in DAG run {self.dag_run} ({where})"


@dataclass(frozen=True)
class _State:
    """
    The content of a lease's file.

    :param expires_s: Seconds since 1970; 0 if it was given back.
    """

    holder: Holder
    expires_s: float

    def as_json(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, content: bytes) -> _State:
        stored = orjson.loads(content)
        return cls(Holder(**stored["holder"]), float(stored["expires_s"]))


class Lease:
    """A lease that this run holds. Used by one thread."""

    def __init__(self, folder: ManifestFolder, number: int, state: _State) -> None:
        """Use :meth:`acquire`."""
        self._folder = folder
        self._number = number
        self._state = state
        self._renewed_s = state.expires_s - LIFETIME_S

    @classmethod
    def acquire(cls, folder: ManifestFolder, holder: Holder, now: float) -> Lease:
        """
        Take the lease if it is free, has expired, or belongs to an earlier try of the same task instance.

        :param folder: The manifest's.
        :param now: Seconds since 1970.
        :raises ManifestInUseError: Another run holds it.
        :raises ManifestError: The folder cannot be written to.
        :raises StorageError: The storage does not respond.
        """
        numbers = _numbers(folder.sizes())
        held = _read(folder, numbers[0]) if numbers else None
        if held is not None and held.expires_s > now and not holder.replaces(held.holder):
            raise _in_use(folder, held)
        if held is not None and held.expires_s:
            log.warning("Taking over the lease on the manifest in %s from %s.", folder.url, held.holder)
        number = (numbers[0] if numbers else 0) + 1
        lease = cls(folder, number, _State(holder, now + LIFETIME_S))
        if not folder.create(_name(number), lease._state.as_json()):
            raise _in_use(folder, _read(folder, number))
        lease._check_held()  # the number may have been used and removed since it was chosen
        folder.delete(map(_name, numbers))
        return lease

    def renew_if_due(self, now: float) -> None:
        """
        Renew the lease if the last time was long enough ago.

        :param now: Seconds since 1970.
        :raises ManifestInUseError: Another run has taken it over. This one must stop.
        :raises ManifestError: The folder cannot be written to.
        :raises StorageError: The storage has not responded until the lease expired.
        """
        if 0 <= now - self._renewed_s < RENEWAL_INTERVAL_S:  # a clock may be set back
            return
        try:
            self._check_held()
            state = replace(self._state, expires_s=now + LIFETIME_S)
            self._folder.write(_name(self._number), state.as_json())
        except StorageError as exc:
            if now >= self._state.expires_s:
                raise
            log.warning("The lease could not be renewed: %s", exc)
            self._renewed_s = now
            return
        self._state = state
        self._renewed_s = now

    def release(self) -> None:
        """
        Give the lease back, unless another run has taken it over.

        :raises ManifestError: The folder cannot be written to.
        :raises StorageError: The storage does not respond. The lease expires by itself.
        """
        if _numbers(self._folder.sizes())[:1] == [self._number]:
            self._folder.write(_name(self._number), replace(self._state, expires_s=0.0).as_json())

    def _check_held(self) -> None:
        newest = _numbers(self._folder.sizes())[:1]
        if newest and newest[0] > self._number:
            raise _in_use(self._folder, _read(self._folder, newest[0]))


def _numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the leases among some files, the highest first."""
    return sorted((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), reverse=True)


def _name(number: int) -> str:
    return f"lease-{number:06}.json"


def _read(folder: ManifestFolder, number: int) -> _State | None:
    """Return what a lease says; None where it is gone or not complete."""
    try:
        return _State.from_json(folder.read(_name(number)))
    except (FileNotFoundError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _in_use(folder: ManifestFolder, held: _State | None) -> ManifestInUseError:
    if held is None:
        return ManifestInUseError(f"Another run writes to the manifest in {folder.url}. Wait until it has ended.")
    until = datetime.fromtimestamp(held.expires_s, timezone.utc)
    return ManifestInUseError(
        f"Another run writes to the manifest in {folder.url}: {held.holder}. Wait until it has ended. If it was killed, "
        f"its lease expires at {until:%Y-%m-%d %H:%M:%S} UTC."
    )
