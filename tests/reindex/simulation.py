"""
A world in which reindexing runs without waiting: the server and the clock of ``tests/pipeline/simulation.py``, which
also deletes, is read from and loses records, and the storage of a manifest, which is slow, fails and loses answers, and
in whose accesses a process dies.

Excluded is what the manifest cannot see, and says so: a request of a run that was replaced, applied by the server later
than a request of the run that replaced it for the same id. :meth:`Namespace.advance_to` drops it, and nothing else.
"""

# ruff: noqa: ARG002 - the signatures are those of protocols

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from random import Random
from typing import Any, NamedTuple

import orjson

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.models import DeleteResponse, UpsertResponse
from airflow_pinecone_upsert.api.models import Record as StoredRecord
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, NamespaceDeleteRequest, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import Completion
from airflow_pinecone_upsert.reindex.keys import Keys, Place, keys_of
from airflow_pinecone_upsert.reindex.lease import LIFETIME_S
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from tests.pipeline.sent import message_of
from tests.pipeline.simulation import EPOCH_S, Process, Record, Reply, Weather, World, _chunk, _result
from tests.reindex.turns import Turns

NAMESPACE = "nightly"
TENANTS = ("a", "b", "c", NAMESPACE)
"""Where records name their namespaces; those that name none are in the last one."""

ONE = ReindexOptions(namespace=NAMESPACE)
MANY = ONE.model_copy(update={"namespace_column": "tenant"})

DELETED = "deleted"
RUN = "run"
DELETE_FAULTS = ("throttled", "down", "reset", "stalled")
UNAVAILABLE = "no connection to the storage"


START, UPSERT, DELETION, COMMIT = "start", "upsert", "deletion", "commit"


class Moment(NamedTuple):
    """
    A moment in the life of a try.

    :param steps: How many steps after the event.
    :param since: The event: its start, its first upsert, its first deletion or its first commit.
    """

    steps: int
    since: str = START


class Deleting(NamedTuple):
    """
    The start of a deletion.

    :param keys: Of the records that it is meant to delete.
    :param upserts_in_flight: How many there were at that moment.
    :param namespace: The one that it deletes as a whole; None if it deletes by id.
    """

    keys: tuple[str, ...]
    upserts_in_flight: int
    namespace: str | None = None


@dataclass
class Namespace(World):
    """
    The server, which also deletes, and the storage. Records are known by their keys, as the manifest names them.

    :param keys: Those of the records of one namespace, or of many.
    :ivar stored: What the namespaces hold.
    :ivar lost: Keys of records that they lost and that no run has written or deleted since.
    :ivar foreign: Keys of records that something else has written.
    :ivar manifest_files: The manifest's, by name.
    """

    keys: Keys = field(default_factory=lambda: keys_of(ONE))
    manifest_files: dict[str, bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    _last_run: dict[str, int] = field(default_factory=dict)  # by key, the newest one whose request was applied
    _last_whole: dict[str, int] = field(default_factory=dict)  # by namespace, the newest one that deleted all of it

    @property
    def has_many_namespaces(self) -> bool:
        return self.keys.name_namespaces

    @property
    def namespaces(self) -> tuple[str, ...]:
        return TENANTS if self.has_many_namespaces else (NAMESPACE,)

    def key_of(self, namespace: str, record_id: str) -> str:
        (key,) = self.keys.of(namespace, [record_id])
        return key

    def key(self, record: Record) -> str:
        """Return the key of a record of the source."""
        assert record.id is not None
        return self.key_of(record.namespace or NAMESPACE, record.id)

    def in_namespace(self, namespace: str) -> list[str]:
        """Return the keys of what a namespace holds."""
        return [key for key in self.stored if self.keys.place(key).namespace == namespace]

    def advance_to(self, moment_s: float) -> None:
        self.clock_s = max(self.clock_s, moment_s)
        while self._writes and self._writes[0][0] <= self.clock_s:
            for record in heapq.heappop(self._writes)[2]:
                self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        run, namespace = record[RUN], record["namespace"]
        if "id" in record:
            self._apply_to(self.key_of(namespace, record["id"]), record)
            return
        self._last_whole[namespace] = max(run, self._last_whole.get(namespace, 0))
        known = [key for key in self._last_run if self.keys.place(key).namespace == namespace]
        for key in {*known, *self.in_namespace(namespace)}:
            self._apply_to(key, record)

    def _apply_to(self, key: str, record: dict[str, Any]) -> None:
        run = record[RUN]
        if run < max(self._last_run.get(key, 0), self._last_whole.get(record["namespace"], 0)):
            return
        self._last_run[key] = run
        self.lost.discard(key)
        if DELETED in record:
            self.stored.pop(key, None)
        else:
            self.stored[key] = record

    def lose(self, keys: Iterable[str]) -> None:
        """Lose records."""
        for key in keys:
            del self.stored[key]
            self.lost.add(key)

    def add_foreign(self, place: Place) -> None:
        """Enter a record that something else has written."""
        key = self.key_of(*place)
        self.stored[key] = {"id": place.id, "namespace": place.namespace, "values": [0.0, 1.0]}
        self.foreign.add(key)

    def _rejection(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather) -> Any:
        return None if DELETED in records[0] else super()._rejection(records, body_bytes, weather)


@dataclass(frozen=True)
class Storage:
    """
    The conditions of the storage of a manifest. By default nothing goes wrong.

    :param failures: Share of the accesses that fail. Of those that write, every second one is done nevertheless.
    :param slowest_s: How long an access takes at most.
    """

    failures: float = 0.0
    slowest_s: float = 0.0


@dataclass(frozen=True)
class SimulatedFolder(ManifestFolder):
    """The folder of the manifest, as one process sees it."""

    process: Any = None
    storage: Storage = Storage()

    @property
    def files(self) -> dict[str, bytes]:
        return self.process.world.manifest_files

    def _access(self) -> None:
        self.process.step()
        if self.storage.slowest_s:
            self.process.sleep(self.process.world.random.uniform(0, self.storage.slowest_s))

    def _fails(self) -> bool:
        return self.storage.failures > 0 and self.process.world.random.random() < self.storage.failures

    def _read(self) -> None:
        self._access()
        if self._fails():
            raise exceptions.StorageError(UNAVAILABLE)

    def _change(self, name: str, content: bytes, *, only_if_absent: bool = False) -> bool:
        self._access()
        if only_if_absent and name in self.files:
            return self.files[name] == content
        fails = self._fails()
        if not fails or self.process.world.random.random() < 0.5:  # the answer may be lost, too
            self.files[name] = content
            if name.startswith("gen-"):
                self.process.created_generation(name)
            elif name.startswith("lease-") and not orjson.loads(content)["expires_s"]:
                self.process.is_working = False  # the lease is given back, though the process has not noticed it yet
        self._access()
        if fails:
            raise exceptions.StorageError(UNAVAILABLE)
        return True

    def sizes(self) -> dict[str, int]:
        self._read()
        return {name: len(content) for name, content in self.files.items()}

    def read_all(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            self._read()
            if name not in self.files:
                raise FileNotFoundError(name)
            yield name, self.files[name]

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        ((_, content),) = self.read_all([name])
        yield BytesIO(content)

    def write(self, name: str, content: bytes) -> None:
        self._change(name, content)

    def create(self, name: str, content: bytes) -> bool:
        return self._change(name, content, only_if_absent=True)

    @contextmanager
    def create_large(self, name: str) -> Iterator[Any]:
        sink = BytesIO()
        yield sink
        self._change(name, sink.getvalue())

    def delete(self, names: Any) -> None:
        for name in names:
            self._read()
            self.files.pop(name, None)
            self._access()


class OftenCompacted:
    """A manifest of which a compaction in the middle of a run is due every second time."""

    def __init__(self, manifest: Manifest, random: Random) -> None:
        self._manifest = manifest
        self._random = random

    @property
    def compaction_is_due(self) -> bool:
        return not self._manifest.is_being_read and self._random.random() < 0.5

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manifest, name)


class Night(Process):
    """
    One try of reindexing: its source, the index, the transport and the clock.

    :param records: What the source has tonight.
    :param listing_breaks: The index does not answer when its ids are listed.
    :param dies: When it dies.
    :param is_cancelled: When it is cancelled.
    :ivar run: The number of the generation with which it took the manifest over: runs are replaced in this order.
    :ivar stored_at_commit: What the namespace held when it created its last generation.
    :ivar is_working: It holds the lease.
    """

    def __init__(
        self,
        world: Namespace,
        weather: Weather,
        records: Sequence[Record],
        *,
        chunk_rows: int = 1,
        listing_breaks: bool = False,
        dies: Moment | None = None,
        is_cancelled: Moment | None = None,
    ) -> None:
        super().__init__(world, weather, chunk_rows=chunk_rows, version=None, dies_at=None, cancelled_at=None)
        self.records = [one._replace(origin="tonight", row=row) for row, one in enumerate(records)]
        self.world = world
        self.deletions: list[Deleting] = []
        self.run = 0
        self.stored_at_commit: dict[str, Any] = {}
        self.is_working = False
        self.orphaned_at_s = math.inf
        self.cancellation = CancellationToken("reindexing", is_orphaned=lambda: world.clock_s >= self.orphaned_at_s)
        self._listing_breaks = listing_breaks
        self._events = {START: 0}  # with their steps
        self._dies = dies
        self._is_cancelled = is_cancelled

    def _note(self, event: str) -> None:
        self._events.setdefault(event, self._steps)

    def _is_at(self, moment: Moment | None) -> bool:
        return moment is not None and self._steps == self._events.get(moment.since, math.inf) + moment.steps

    def _step(self) -> None:
        if self._is_at(self._dies):
            self._dies_at = self._steps + 1
        if self._is_at(self._is_cancelled):
            self._cancelled_at = self._steps + 1
        super()._step()

    def created_generation(self, name: str) -> None:
        """Note that a file of a generation was created."""
        if self.run:
            self._note(COMMIT)
        self.run = self.run or int(name[4:-5])
        self.stored_at_commit = dict(self.world.stored)

    def epoch_s(self) -> float:
        return EPOCH_S + self.world.clock_s

    def step(self) -> None:
        self._step()

    def sleep(self, seconds: float) -> None:
        self._step()
        self._wait_until(self.world.clock_s + seconds)

    # The source

    def chunks(self, shape: Any, start: Any = None) -> Iterator[Chunk]:
        for number, first in enumerate(range(0, len(self.records), self._chunk_rows)):
            self._step()
            if number == self._weather.source_breaks_at:
                raise exceptions.SourceError("broken")
            self._wait_until(self.world.clock_s + self._weather.reading_s)
            rows = self.records[first : first + self._chunk_rows]
            yield _chunk(rows, has_namespaces=self.world.has_many_namespaces)

    def share_before(self, position: Any) -> None:
        return None

    # The index

    def upsert(self, request: Any) -> Any:
        raise NotImplementedError

    send = upsert

    def fetch(self, ids: Sequence[str], *, namespace: str = "") -> dict[str, StoredRecord]:
        assert namespace in self.world.namespaces
        self._step()
        found = {one: self.world.stored.get(self.world.key_of(namespace, one)) for one in ids}
        return {one: StoredRecord.model_validate(stored) for one, stored in found.items() if stored}

    def max_indexed_lsn(self, record_id: str = "", *, namespace: str = "") -> int | None:
        self._step()
        return None

    def list_ids(self, *, prefix: str = "", namespace: str = "") -> Iterator[str]:
        assert namespace in self.world.namespaces
        Night._step(self)  # in a thread of the listing: the turn is not passed on
        if self._listing_breaks:
            raise exceptions.ServerError("down")
        ids = (self.world.keys.place(key).id for key in self.world.in_namespace(namespace))
        yield from sorted(one for one in ids if one.startswith(prefix))

    def describe_namespace(self, namespace: str) -> None:
        assert namespace in self.world.namespaces

    def list_aliases(self) -> Iterator[Any]:
        return iter(())

    # The transport

    def start(self, request: Any) -> None:
        if isinstance(request, UpsertRequest):
            assert message_of(request)["namespace"] in self.world.namespaces, "another namespace"
            self._note(UPSERT)
            super().start(request)
            return
        self._note(DELETION)
        self._step()
        is_whole = isinstance(request, NamespaceDeleteRequest)
        records = [{DELETED: True}] if is_whole else _deleted_by(request)
        namespace, ids = request.namespace, request.known_ids if is_whole else request.ids
        assert namespace in self.world.namespaces, "a deletion from another namespace"
        upserts = sum(isinstance(one[2].request, UpsertRequest) for one in self._in_flight)
        keys = tuple(self.world.keys.of(namespace, ids))
        self.deletions.append(Deleting(keys, upserts, namespace if is_whole else None))
        faults = [one for one in self._weather.faults if one in DELETE_FAULTS]
        weather = replace(
            self._weather, faults=faults, fault_rate=self._weather.fault_rate if faults else 0.0, final_rate=0.0
        )
        reply = self._reply([{**one, "namespace": namespace} for one in records], len(request.body), weather)
        ends_at_s = self.world.clock_s + reply.after_s
        result = _result(reply, ends_at_s)
        if isinstance(result, UpsertResponse):
            result = DeleteResponse()
        completion = Completion(request, len(request.body), result)
        heapq.heappush(self._in_flight, (ends_at_s, next(self._numbers), completion, ()))

    def _reply(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather) -> Reply:
        return super()._reply([{**record, RUN: self.run} for record in records], body_bytes, weather)


def _deleted_by(request: DeleteRequest) -> list[dict[str, Any]]:
    body = orjson.loads(request.body)
    assert body["namespace"] == request.namespace
    return [{"id": one, DELETED: True} for one in body["ids"]]


class NightAtOnce(Night):
    """
    One of two tries that run at once.

    :param name: Its name among those that take turns.
    :param wakes: The name of the one that it wakes.
    :param wakes_at: When it does; None for never.
    :param wakes_after_s: How long after that the other one starts.
    :param pause_s: How long its machine is suspended then.
    :param orphaned_after_s: When it notices, after that step, that its supervisor is gone.
    :ivar must_not_replace: A run of another task instance, whose lease it must respect.
    """

    must_not_replace: NightAtOnce | None = None

    def __init__(
        self,
        *args: Any,
        turns: Turns,
        name: str,
        wakes: str = "",
        wakes_at: Moment | None = None,
        wakes_after_s: float = 0.0,
        pause_s: float = 0.0,
        orphaned_after_s: float = math.inf,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._turns = turns
        self._name = name
        self._wakes = wakes
        self._wakes_at = wakes_at
        self._wakes_after_s = wakes_after_s
        self._pause_s = pause_s
        self._orphaned_after_s = orphaned_after_s
        self._last_step_s = self.world.clock_s
        self._longest_step_s = 0.0

    @property
    def is_prompt(self) -> bool:
        """Whether it never slept for half as long as its lease lasts."""
        return max(self._longest_step_s, self.world.clock_s - self._last_step_s) < LIFETIME_S / 2

    def created_generation(self, name: str) -> None:
        super().created_generation(name)
        other = self.must_not_replace
        assert other is None or not (other.is_working and other.is_prompt), "a run that is at work is replaced"

    def _step(self) -> None:
        now = self.world.clock_s
        self._longest_step_s = max(self._longest_step_s, now - self._last_step_s)
        self._last_step_s = now
        super()._step()
        if self._is_at(self._wakes_at):
            self.orphaned_at_s = now + self._orphaned_after_s
            self._turns.wake(self._wakes, now + self._wakes_after_s)
            self._wait_until(now + self._pause_s)
        elif self.world.random.random() < 0.3:
            self._wait_until(now)

    def _wait_until(self, moment_s: float) -> None:
        self._turns.wait_until(self._name, moment_s)
