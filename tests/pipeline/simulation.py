"""
A world in which the pipeline runs without waiting: a server with faults, a virtual clock, and processes that die.

Only the outside of a process is simulated. :class:`World` is what outlives a process: the server, the state store, the
files of rejects. :class:`Process` is the access of one try to them: each access is a step, at which the process may die
or be cancelled, and which is entered into its journal. Everything between these seams is what ``upsert()`` runs in
production.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from io import BytesIO
from itertools import count
from random import Random
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api import responses
from airflow_pinecone_upsert.api.models import IndexStats, NamespaceStats, UpsertResponse
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, PARTS, Chunk
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import Completion
from tests.pipeline.sent import message_of

HOST = "https://simulated.example"
TIMEOUT_S = 10.0
EPOCH_S = 1_800_000_000
"""The wall clock at 0."""

DIMENSION = 2
MAX_STEPS = 100_000
"""A try with more steps does not end: the longest of 1,000 schedules took a seventh."""

TOO_LARGE = "Request size 3MB exceeds the maximum supported size of 2MB"


class Death(BaseException):
    """The process is gone, with everything that it did not store."""


class Record(NamedTuple):
    """
    One row of the source.

    :param number: In the order of the source, from 0; its first component, plus one, so that the server can recognise it.
    :param rejected_with: Status and message with which the server rejects every request that contains it.
    """

    number: int
    origin: str
    row: int
    id: str | None
    values: list[float]
    is_valid: bool = True
    rejected_with: tuple[int, str] | None = None
    namespace: str | None = None

    @property
    def key(self) -> str | None:
        """What it is stored under."""
        return key_of(self.namespace or "", self.id)

    @property
    def is_acceptable(self) -> bool:
        return self.is_valid and self.rejected_with is None


@dataclass(frozen=True)
class Weather:
    """
    The conditions of one try. By default nothing goes wrong.

    :param faults: Names of transient :data:`FAULTS`.
    :param final_faults: Names of :data:`FINAL_FAULTS`.
    :param slow_start_s: In the first seconds of a try the server is slow.
    :param max_records: A request of more gets 413.
    :param max_body_bytes: So does one of more bytes. Every single record fits.
    :param store_failures: Share of the writes to the state store that fail.
    :param folder_failures: Share of the writes of rejects that fail.
    :param source_breaks_at: The number of the chunk that raises an error.
    :param is_down: The index does not answer the request for its statistics.
    """

    latency_s: float = 0.2
    fault_rate: float = 0.0
    faults: Sequence[str] = ()
    final_rate: float = 0.0
    final_faults: Sequence[str] = ()
    slow_start_s: float = 0.0
    max_records: int = 1_000
    max_body_bytes: int = 2_000_000
    store_failures: float = 0.0
    folder_failures: float = 0.0
    source_breaks_at: int | None = None
    reading_s: float = 0.0
    is_down: bool = False


# The journal ------------------------------------------------------------------------------------


class Started(NamedTuple):
    at_s: float
    numbers: tuple[int, ...]
    body_bytes: int


class Completed(NamedTuple):
    at_s: float
    numbers: tuple[int, ...]
    body_bytes: int
    result: int | Exception


class Read(NamedTuple):
    numbers: range


class Wrote(NamedTuple):
    path: str
    rows: frozenset[tuple[str, int]]


class Saved(NamedTuple):
    value: Mapping[str, Any]


class Cancelled(NamedTuple):
    at_s: float


class Broke(NamedTuple):
    """Something other than the server fails; ``error`` is what the run may end with."""

    error: type[exceptions.PineconeUpsertError] | None


Entry = Started | Completed | Read | Wrote | Saved | Cancelled | Broke


# The server -------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """
    The response to one request.

    :param after_s: When the client gets it.
    :param status: 200, 0 for no response, or another.
    :param said: ``upsertedCount``, or a message.
    :param applied: How many of its records are stored, from the first one on.
    :param retry_after: The header.
    """

    after_s: float
    status: int
    said: Any = ""
    applied: int = 0
    retry_after: str | None = None


def _throttled(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    soon = format_datetime(datetime.fromtimestamp(now.timestamp() + after_s + 5, timezone.utc), usegmt=True)
    long_ago = "Wed, 21 Oct 2015 07:28:00 GMT"
    header = random.choice([None, None, "0", "1.5", "4", soon, long_ago, "soon", "-3", "inf", "nan", "1e9"])
    return Reply(after_s, 429, "slow down", retry_after=header)


def _down(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    applied = random.choice([0, 0, records])
    return Reply(after_s, random.choice([408, 500, 502, 503, 504]), "down", applied, random.choice([None, None, "3"]))


def _reset(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    return Reply(after_s, 0, "reset", applied=random.choice([0, records]))


def _stalled(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    return Reply(after_s + random.uniform(1, 5) * TIMEOUT_S, 200, records, applied=random.choice([0, records]))


def _short(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    said = random.randrange(records)
    return Reply(after_s, 200, said, applied=random.choice([said, records]))


FAULTS = {"throttled": _throttled, "down": _down, "reset": _reset, "stalled": _stalled, "short": _short}


def _high(after_s: float, records: int, now: datetime, random: Random) -> Reply:
    return Reply(after_s, 200, records + random.randint(1, 5), applied=records)


def _answering(status: int, message: str) -> Callable[..., Reply]:
    return lambda after_s, *_: Reply(after_s, status, message)


FINAL_FAULTS = {
    "high": _high,
    "wrong key": _answering(401, "Invalid API Key"),
    "quota": _answering(429, "You've reached your write unit limit for the current month (2000000)."),
    "not found": _answering(404, "Not Found"),
    "documents": _answering(400, "This index has a document schema"),
}


@dataclass
class World:
    """
    What outlives a process.

    :param records: The source's, in order.
    :param random: Decides what goes wrong.
    :param has_repeated_ids: Then no write is later than the client's time-out: it could follow a newer write of the
        same id, as the README says.
    """

    records: Sequence[Record]
    random: Random
    has_repeated_ids: bool = False
    clock_s: float = 0.0
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, frozenset[tuple[str, int]]] = field(default_factory=dict)
    _writes: list[tuple[float, int, list[dict[str, Any]]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def advance_to(self, moment_s: float) -> None:
        """Advance the clock."""
        self.clock_s = max(self.clock_s, moment_s)
        while self._writes and self._writes[0][0] <= self.clock_s:
            for record in heapq.heappop(self._writes)[2]:
                self.stored[key_of(record.get("namespace", ""), record["id"])] = record

    def settle(self) -> None:
        """Apply the writes that are pending."""
        now, self.clock_s = self.clock_s, math.inf
        self.advance_to(math.inf)
        self.clock_s = now

    def wipe(self) -> None:
        """Empty the namespace, as another task of the DAG may do between two tries."""
        self.settle()
        self.stored.clear()

    def receive(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather, age_s: float) -> Reply:
        """Decide about a request, and when its records are written."""
        reply = self._reply(records, body_bytes, weather, age_s)
        client_waits_s = min(reply.after_s, TIMEOUT_S)
        latest_s = client_waits_s if self.has_repeated_ids else reply.after_s
        at_s = self.clock_s + self.random.uniform(0, latest_s)
        heapq.heappush(self._writes, (at_s, next(self._numbers), records[: reply.applied]))
        return reply if reply.after_s <= TIMEOUT_S else Reply(TIMEOUT_S, 0, "time-out")

    def _reply(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather, age_s: float) -> Reply:
        random = self.random
        after_s = random.expovariate(1 / weather.latency_s)
        if age_s < weather.slow_start_s:
            after_s += random.uniform(0, 1.5) * TIMEOUT_S
        fault = _fault(weather, random)
        rejection = self._rejection(records, body_bytes, weather)
        if fault:
            now = datetime.fromtimestamp(EPOCH_S + self.clock_s, timezone.utc)
            reply = fault(after_s, len(records), now, random)
            if not rejection:
                return reply
            if reply.status != 200 or reply.after_s > TIMEOUT_S:
                return reply._replace(applied=0)
        return Reply(after_s, *rejection) if rejection else Reply(after_s, 200, len(records), applied=len(records))

    def _rejection(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather) -> tuple[int, str] | None:
        rejections = (self.records[number_of(record)].rejected_with for record in records)
        is_too_large = len(records) > weather.max_records or (body_bytes > weather.max_body_bytes and len(records) > 1)
        too_large = self.random.choice([(413, ""), (400, TOO_LARGE)]) if is_too_large else None
        return next(filter(None, rejections), too_large)


def _fault(weather: Weather, random: Random) -> Callable[..., Reply] | None:
    if random.random() < weather.final_rate:
        return FINAL_FAULTS[random.choice(weather.final_faults)]
    if random.random() < weather.fault_rate:
        return FAULTS[random.choice(weather.faults)]
    return None


def key_of(namespace: str, record_id: str | None) -> str | None:
    """Return what a record is stored under: its id, in the default namespace."""
    return f"{namespace}/{record_id}" if namespace and record_id else record_id


def number_of(record: Mapping[str, Any]) -> int:
    """Return the number in the source of a record that was sent."""
    return int(record["values"][0]) - 1


def _result(reply: Reply, now: float) -> UpsertResponse | exceptions.PineconeUpsertError:
    """Convert a reply as the client would."""
    if reply.status == 200:
        return UpsertResponse.model_construct(upserted_count=int(reply.said))
    if reply.status == 0:
        return exceptions.TransportError(reply.said)
    headers = {} if reply.retry_after is None else {"retry-after": reply.retry_after}
    epoch_s = EPOCH_S + now
    return responses.error_from_response(reply.status, headers, reply.said.encode(), host=HOST, now=epoch_s, mask=str)


# One try ----------------------------------------------------------------------------------------


class Process:
    """
    One try: everything that ``upsert()`` is given.

    It is the source, the index, the transport, the state store and the file system of rejects, all in one, because the
    death of the process ends all of them at once.

    :param chunk_rows: Rows in a chunk of the source.
    :param version: Of the source's files; None where the source cannot be resumed.
    :param dies_at: The step at which it dies; None for never.
    :param cancelled_at: The step at which it is cancelled; None for never.
    """

    host = HOST

    def __init__(
        self,
        world: World,
        weather: Weather,
        *,
        chunk_rows: int,
        version: int | None,
        dies_at: int | None,
        cancelled_at: int | None,
    ) -> None:
        self.cancellation = CancellationToken()
        self.journal: list[Entry] = []
        self.identity = version
        self.not_resumable = None
        self._world = world
        self._weather = weather
        self._dies_at = dies_at
        self._cancelled_at = cancelled_at
        self._chunk_rows = chunk_rows
        self._steps = 0
        self._started_s = world.clock_s
        self._in_flight: list[tuple[float, int, Completion, tuple[int, ...]]] = []
        self._numbers = count()

    def _step(self) -> None:
        self._steps += 1
        if self._dies_at is not None and self._steps >= self._dies_at:
            raise Death  # again and again: a dead process writes no checkpoint on its way out
        if self._steps == self._cancelled_at:
            self.cancellation.cancel()
            self.journal.append(Cancelled(self._world.clock_s))
        assert self._steps < MAX_STEPS, "it does not end"

    def _wait_until(self, moment_s: float) -> None:
        self._world.advance_to(moment_s)

    # The index

    def describe_index_stats(self) -> IndexStats:
        if self._weather.is_down:
            self.journal.append(Broke(exceptions.ServerError))
            raise exceptions.ServerError("down")
        counts = Counter(record.get("namespace", "") for record in self._world.stored.values())
        namespaces = {name: NamespaceStats(vector_count=found) for name, found in counts.items()}
        return IndexStats(dimension=DIMENSION, namespaces=namespaces)

    # The transport

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def now(self) -> float:
        return self._world.clock_s

    def start(self, request: UpsertRequest) -> None:
        self._step()
        world = self._world
        body_bytes = len(request.body)
        message = message_of(request)
        namespace = message.get("namespace")
        records = [{**one, "namespace": namespace} if namespace else one for one in message["vectors"]]
        numbers = tuple(map(number_of, records))
        self.journal.append(Started(world.clock_s, numbers, body_bytes))
        reply = self._reply(records, body_bytes, self._weather)
        ends_at_s = world.clock_s + reply.after_s
        completion = Completion(request, body_bytes, _result(reply, ends_at_s))
        heapq.heappush(self._in_flight, (ends_at_s, next(self._numbers), completion, numbers))

    def _reply(self, records: list[dict[str, Any]], body_bytes: int, weather: Weather) -> Reply:
        return self._world.receive(records, body_bytes, weather, self._world.clock_s - self._started_s)

    def next_completion(self, timeout_s: float) -> Completion | None:
        self._step()
        world = self._world
        if not self._in_flight or self._in_flight[0][0] > world.clock_s + timeout_s:
            self._wait_until(world.clock_s + timeout_s)
            return None
        ends_at_s, _, completion, numbers = heapq.heappop(self._in_flight)
        self._wait_until(ends_at_s)
        result = completion.result
        outcome = result.upserted_count if isinstance(result, UpsertResponse) else result
        self.journal.append(Completed(world.clock_s, numbers, completion.body_bytes, outcome))
        return completion

    # The source

    def chunks(self, shape: Any, start: Position | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - the protocol's
        records = self._world.records
        first = 0 if start is None else self.number_at(*start)
        for chunk_number in count():
            self._step()
            if chunk_number == self._weather.source_breaks_at:
                self.journal.append(Broke(exceptions.SourceError))
                raise exceptions.SourceError("broken")
            chunk = [one for one in records[first : first + self._chunk_rows] if one.origin == records[first].origin]
            if not chunk:
                return
            self._wait_until(self._world.clock_s + self._weather.reading_s)
            self.journal.append(Read(range(first, first + len(chunk))))
            yield _chunk(chunk, has_namespaces=any(record.namespace for record in records))
            first += len(chunk)

    def content_digest(self, position: Position, begun: Any, earlier: Any) -> None:
        pass

    def content_change(self, digest: Any) -> None:
        pass

    def share_before(self, position: Position) -> float:
        return self.number_at(*position) / len(self._world.records)

    def number_at(self, origin: str, row: int) -> int:
        """Return the number of a row, which may be one past the last row of its file."""
        return next(one.number for one in self._world.records if one.origin == origin) + row

    # The state store

    def get(self, key: str, default: Any = None) -> Any:
        self._step()
        kept = self._world.state.get(key)
        return default if kept is None else orjson.loads(kept)

    def set(self, key: str, value: Any) -> None:
        self._step()
        random = self._world.random
        fails = random.random() < self._weather.store_failures
        if fails:
            self.journal.append(Broke(None))
        if not fails or random.random() < 0.5:  # the answer may be lost, too
            self._world.state[key] = orjson.dumps(value)
            if key == "resume":
                self.journal.append(Saved(orjson.loads(value)))
        if fails:
            raise OSError("no connection to the store")

    def delete(self, key: str) -> None:
        self._step()
        self._world.state.pop(key, None)
        self._step()

    # The file system of rejects, which like an object store has a file completely or not at all

    def exists(self, path: str) -> bool:
        return path in self._world.files

    def isdir(self, path: str) -> bool:  # noqa: ARG002 - fsspec's
        return False

    def unstrip_protocol(self, path: str) -> str:
        return path

    def _strip_protocol(self, url: str) -> str:
        return url

    def cat_file(self, path: str) -> bytes:
        self._step()
        if path not in self._world.files:
            raise FileNotFoundError(path)
        rows = sorted(self._world.files[path])
        sink = BytesIO()
        pq.write_table(pa.table({"file": [origin for origin, _ in rows], "row": [row for _, row in rows]}), sink)
        return sink.getvalue()

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        self._step()
        if mode == "create" and path in self._world.files:
            raise FileExistsError(path)
        if self._world.random.random() < self._weather.folder_failures:
            self.journal.append(Broke(exceptions.SetupError))
            raise OSError("no space left")
        lines = pq.ParquetFile(BytesIO(content)).read(["file", "row"], use_threads=False)
        rows = frozenset(zip(lines["file"].to_pylist(), lines["row"].to_pylist(), strict=True))
        self._world.files[path] = rows
        self.journal.append(Wrote(path, rows))


def _chunk(records: Sequence[Record], *, has_namespaces: bool = False) -> Chunk:
    columns = pa.RecordBatch.from_pydict(
        {
            "id": pa.array([record.id for record in records], pa.string()),
            "values": pa.array([record.values for record in records], pa.list_(pa.float32())),
        }
    )
    names = PARTS
    if has_namespaces:
        tenants = pa.array([record.namespace for record in records], pa.string())
        columns, names = columns.append_column(NAMESPACE, tenants), {**PARTS, NAMESPACE: "tenant"}
    return Chunk(records[0].origin, range(records[0].row, records[0].row + len(records)), columns, names)
