"""
A world in which reindexing runs without waiting: the server and the clock of ``tests/pipeline/simulation.py``, which
also deletes and is read from, and the storage of a manifest that fails, and in whose accesses a process dies.
"""

# ruff: noqa: ARG002 - the signatures are those of protocols

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, NamedTuple

import orjson

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.models import DeleteResponse, UpsertResponse
from airflow_pinecone_upsert.api.models import Record as StoredRecord
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest
from airflow_pinecone_upsert.pipeline.send.transport import Completion
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder
from tests.pipeline.simulation import Process, Record, Weather, World, _chunk, _result

DELETED = "deleted"
DELETE_FAULTS = ("throttled", "down", "reset", "stalled")


class Deleting(NamedTuple):
    """The start of a deletion, and how many upserts were in flight at that moment."""

    ids: tuple[str, ...]
    upserts_in_flight: int


@dataclass
class Namespace(World):
    """The server, which also deletes. ``stored`` has what it holds, and ``files`` those of the manifest."""

    manifest_files: dict[str, bytes] = field(default_factory=dict)

    def advance_to(self, moment_s: float) -> None:
        self.clock_s = max(self.clock_s, moment_s)
        while self._writes and self._writes[0][0] <= self.clock_s:
            for record in heapq.heappop(self._writes)[2]:
                if DELETED in record:
                    self.stored.pop(record["id"], None)
                else:
                    self.stored[record["id"]] = record

    def _rejection(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather) -> Any:
        return None if DELETED in records[0] else super()._rejection(records, body_bytes, weather)


@dataclass(frozen=True)
class SimulatedFolder(ManifestFolder):
    """The folder of the manifest, as one process sees it."""

    process: Any = None
    failures: float = 0.0

    @property
    def files(self) -> dict[str, bytes]:
        return self.process.world.manifest_files

    def _access(self) -> None:
        self.process.step()

    def _fails(self) -> bool:
        return self.process.world.random.random() < self.failures

    def _change(self, name: str, content: bytes) -> None:
        self._access()
        fails = self._fails()
        if not fails or self._fails():  # the answer may be lost, too
            self.files[name] = content
        self._access()
        if fails:
            raise exceptions.StorageError("no connection to the storage")

    def sizes(self) -> dict[str, int]:
        self._access()
        if self._fails():
            raise exceptions.StorageError("no connection to the storage")
        return {name: len(content) for name, content in self.files.items()}

    def read_all(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            self._access()
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
        self._access()
        if name in self.files:
            return False
        self._change(name, content)
        return True

    @contextmanager
    def create_large(self, name: str) -> Iterator[Any]:
        sink = BytesIO()
        yield sink
        self._change(name, sink.getvalue())

    def delete(self, names: Any) -> None:
        for name in names:
            self._access()
            self.files.pop(name, None)
            self._access()


class CompactingManifest(Manifest):
    """A manifest that is compacted in the middle of a run, too."""

    random: Any = None

    @property
    def compaction_is_due(self) -> bool:
        return self.random is not None and self.random.random() < 0.5


class Night(Process):
    """
    One try of reindexing: its source, the index, the transport and the clock.

    :param records: What the source has tonight.
    """

    def __init__(self, world: Namespace, weather: Weather, records: Sequence[Record], **more: Any) -> None:
        super().__init__(world, weather, version=None, **more)
        self.records = [one._replace(origin="tonight", row=row) for row, one in enumerate(records)]
        self.world = world
        self.deletions: list[Deleting] = []

    def step(self) -> None:
        self._step()

    def sleep(self, seconds: float) -> None:
        self._step()
        self.world.advance_to(self.world.clock_s + seconds)

    # The source

    def chunks(self, shape: Any, start: Any = None) -> Iterator[Chunk]:
        for number, first in enumerate(range(0, len(self.records), self._chunk_rows)):
            self._step()
            if number == self._weather.source_breaks_at:
                raise exceptions.SourceError("broken")
            self.world.advance_to(self.world.clock_s + self._weather.reading_s)
            yield _chunk(self.records[first : first + self._chunk_rows])

    def share_before(self, position: Any) -> None:
        return None

    # The index

    def upsert(self, request: Any) -> Any:
        raise NotImplementedError

    send = upsert

    def fetch(self, ids: Sequence[str], *, namespace: str = "") -> dict[str, StoredRecord]:
        self._step()
        stored = self.world.stored
        return {one: StoredRecord.model_validate(stored[one]) for one in ids if one in stored}

    def max_indexed_lsn(self, record_id: str, *, namespace: str = "") -> int | None:
        self._step()
        return None

    def list_ids(self, *, prefix: str = "", namespace: str = "") -> Iterator[str]:
        raise NotImplementedError

    # The transport

    def start(self, request: Any) -> None:
        if not isinstance(request, DeleteRequest):
            super().start(request)
            return
        self._step()
        ids = tuple(orjson.loads(request.body)["ids"])
        self.deletions.append(
            Deleting(ids, sum(not isinstance(one[2].request, DeleteRequest) for one in self._in_flight))
        )
        faults = [one for one in self._weather.faults if one in DELETE_FAULTS]
        weather = replace(
            self._weather, faults=faults, fault_rate=self._weather.fault_rate if faults else 0.0, final_rate=0.0
        )
        records = [{"id": one, DELETED: True} for one in ids]
        reply = self.world.receive(records, len(request.body), weather, self.world.clock_s - self._started_s)
        ends_at_s = self.world.clock_s + reply.after_s
        result = _result(reply, ends_at_s)
        if isinstance(result, UpsertResponse):
            result = DeleteResponse()
        completion = Completion(request, len(request.body), result)
        heapq.heappush(self._in_flight, (ends_at_s, next(self._numbers), completion, ()))
