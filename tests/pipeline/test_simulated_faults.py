"""
Every record is accounted for, under any fault: the whole pipeline under seeded schedules of faults.

A schedule is a source and a few tries. Each try meets faults, may be cancelled and may die at any step; the last one
meets none, so it must succeed, or name the records that cannot be upserted. What a try did is read from its journal and
compared with the invariants.

``SIMULATION_SEED=17 python -m pytest tests/pipeline/test_simulated_faults.py`` repeats one schedule alone.
"""

import logging
import os
import struct
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.cancellation import GRACE_S, POLL_INTERVAL_S
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.run import upsert
from airflow_pinecone_upsert.pipeline.send.events import Attempt
from airflow_pinecone_upsert.pipeline.track.compact import expanded_ranges, unpacked
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from tests.pipeline.simulation import (
    FAULTS,
    FINAL_FAULTS,
    TOO_LARGE,
    Broke,
    Cancelled,
    Completed,
    Death,
    Entry,
    Process,
    Read,
    Record,
    Saved,
    Started,
    Weather,
    World,
    Wrote,
    number_of,
)

SEED = os.environ.get("SIMULATION_SEED")
AT_ONCE = 50
A_MOMENT_S = 0.001


class Success:
    """The end of a try that did not fail."""


SUCCESS = Success()


class Observer:
    """Keeps the report of a run, whether it succeeds or fails."""

    report: UpsertReport | None = None

    def attempted(self, attempt: Attempt) -> None:
        pass

    def ended(self, report: UpsertReport) -> None:
        self.report = report


# Schedules --------------------------------------------------------------------------------------


class Try(NamedTuple):
    """One start of the task. The options may be others at each."""

    options: UpsertOptions
    weather: Weather
    chunk_rows: int
    version: int | None
    dies_at: int | None = None
    cancelled_at: int | None = None
    is_wiped: bool = False  # the namespace, before the try


class Schedule(NamedTuple):
    """Everything that is decided before the first try, except for the server's random choices."""

    records: list[Record]
    has_repeated_ids: bool
    tries: list[Try]
    is_durable: bool
    rejects_path: str | None
    has_namespaces: bool = False


def schedule_of(random: Random, transport: str) -> Schedule:
    has_repeated_ids = random.random() < 0.3
    records = _records(random, has_repeated_ids)
    version = random.choice([None, *[0] * 9])
    tries = []
    for _ in range(random.randrange(6)):
        version = version + 1 if version is not None and random.random() < 0.05 else version
        tries.append(_try(random, records, version, transport))
    calm = _try(random, records, version, transport)._replace(weather=Weather(), dies_at=None, cancelled_at=None)
    schedule = Schedule(
        records,
        has_repeated_ids,
        [*tries, calm],
        is_durable=random.random() < 0.9,
        rejects_path=random.choice([None, "rejects", "fix-these.parquet"]),
    )
    return _with_namespaces(schedule, random) if random.random() < 0.3 else schedule


def _with_namespaces(schedule: Schedule, random: Random) -> Schedule:
    """Give each record a namespace: sorted, or in any order."""
    names = random.sample([None, "a", "b", "c"], random.randint(2, 4))
    count = max(1, len(schedule.records))
    is_sorted = random.random() < 0.3
    records = [
        one._replace(namespace=names[one.number * len(names) // count] if is_sorted else random.choice(names))
        for one in schedule.records
    ]
    more = {"namespace_column": "tenant"}
    tries = [one._replace(options=one.options.model_copy(update=more)) for one in schedule.tries]
    return schedule._replace(records=records, tries=tries, has_namespaces=True)


def _records(random: Random, has_repeated_ids: bool) -> list[Record]:
    pool = random.choice([3, 20, 60])
    invalid_rate, rejected_rate = random.choice([0, 0, 0.05, 0.5]), random.choice([0, 0, 0.03, 0.2])
    records: list[Record] = []
    for file in range(random.randint(1, 4)):
        for row in range(random.choice([0, 1, 5, 20, 40])):
            number = len(records)
            record = Record(
                number,
                f"part-{file}.parquet",
                row,
                str(random.randrange(pool)) if has_repeated_ids else f"r{number}",
                [float(number + 1), _float32(random)],
            )
            if random.random() < rejected_rate:
                record = record._replace(rejected_with=random.choice([(400, "no"), (413, ""), (400, TOO_LARGE)]))
            records.append(_broken(record, random) if random.random() < invalid_rate else record)
    return records


def _float32(random: Random) -> float:
    """Draw any finite float32: its bits, not its value, are what must arrive."""
    exponent = random.randrange(255)
    bits = random.getrandbits(1) << 31 | exponent << 23 | random.getrandbits(23)
    return struct.unpack("f", struct.pack("I", bits))[0]


def _broken(record: Record, random: Random) -> Record:
    broken = random.choice(
        [{"id": None}, {"id": "é"}, {"values": [float("nan"), 1.0]}, {"values": [1.0]}, {"values": [0.0, 0.0]}]
    )
    return record._replace(**broken, is_valid=False)


def _try(random: Random, records: list[Record], version: int | None, transport: str) -> Try:
    window = random.randint(1, 8)
    rejectable = sum(not record.is_acceptable for record in records)
    options = UpsertOptions(
        batch_size=random.choice([1, 2, 3, 7, 20, 1_000]),
        max_request_bytes=random.choice([1_000, None]),
        max_concurrency=window,
        max_requests_per_second=random.choice([None, 100, 5]),
        max_bytes_per_second=random.choice([None, 50_000, 2_000]),
        max_rejects=random.choice([None, None, None, None, rejectable, rejectable // 2]),
        transport=transport,
    )
    steps = random.choice([10, 60, 200, 500])
    return Try(
        options,
        _weather(random),
        chunk_rows=random.choice([2, 10, 10, 50]),
        version=version,
        dies_at=random.randrange(1, steps) if random.random() < 0.4 else None,
        cancelled_at=random.randrange(1, steps) if random.random() < 0.3 else None,
        is_wiped=random.random() < 0.1,
    )


def _weather(random: Random) -> Weather:
    return Weather(
        latency_s=random.choice([0.001, 0.2, 1.0]),
        fault_rate=random.choice([0, 0.1, 0.1, 0.3, 0.8]),
        faults=random.sample(sorted(FAULTS), random.randint(1, len(FAULTS))),
        final_rate=random.choice([0, 0, 0, 0.02, 0.1]),
        final_faults=random.choice([["high"], random.sample(sorted(FINAL_FAULTS), 3)]),
        slow_start_s=random.choice([0, 0, 0, 20.0]),
        max_records=random.choice([1_000, 1_000, 1, 5]),
        max_body_bytes=random.choice([2_000_000, 2_000_000, 333]),
        store_failures=random.choice([0, 0, 0.5]),
        folder_failures=random.choice([0, 0, 0, 0.2]),
        source_breaks_at=random.randrange(10) if random.random() < 0.1 else None,
        reading_s=random.choice([0, 0, 0.5]),
        is_down=random.random() < 0.03,
    )


# Invariants -----------------------------------------------------------------------


class Coverage(NamedTuple):
    """What a checkpoint says: which records need not be sent again, and which were rejected."""

    confirmed: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()
    counts: Mapping[str, float] = Counter()
    paths: tuple[str, ...] = ()


def coverage(value: Mapping[str, Any] | None, records: list[Record], process: Process) -> Coverage:
    """Read a checkpoint as the next try will."""
    if value is None:
        return Coverage()
    settled = set(range(process.number_at(*value["position"])))
    for origin, start, stop in expanded_ranges(value["settledAfter"]):
        settled |= set(range(process.number_at(origin, start), process.number_at(origin, stop)))
    acceptable = {record.number for record in records if record.is_acceptable}
    return Coverage(
        frozenset(settled & acceptable),
        frozenset(settled - acceptable),
        value["counts"],
        tuple(value["rejectsPaths"]),
    )


class Audit:
    """What one try did, entry by entry, compared with what must be true at each moment."""

    def __init__(self, world: World, process: Process, schedule: Schedule, one: Try, earlier: Coverage) -> None:
        self._world = world
        self._process = process
        self._records = schedule.records
        self._has_folder = schedule.rejects_path is not None
        self._try = one
        self._earlier = earlier
        self._files = dict(world.files)
        self._in_flight: list[tuple[int, ...]] = []
        self._open: list[tuple[int, ...]] = []  # requests, as they were first sent, that are not settled
        self._known: set[int] = set()  # what was sent
        self._repeated: set[tuple[int, ...]] = set()  # sent again, whole or in part
        self._sent: Counter[tuple[int, ...]] = Counter()
        self._has_namespaces = schedule.has_namespaces
        self._held_until_s: dict[str | None, float] = {}
        self._short: dict[tuple[int, ...], int] = {}  # the largest count of each request that is not confirmed whole
        self._max_bytes: int | None = None  # that the server's rejections leave
        self._oversized = 0
        self._started_after_cancellation = 0
        self._end_by_s: float | None = None
        self.confirmed: set[int] = set()
        self.requests = 0
        self.body_bytes = 0
        self.throttled = 0
        self.retries = 0
        self.invalid: set[int] = set()
        self.rejected: set[int] = set()
        self.reasons: set[type[exceptions.PineconeUpsertError]] = set()
        self.saved: Coverage | None = None  # last
        self._wholly_saved = True

    def enter(self, entry: Entry) -> None:
        match entry:
            case Started():
                self._start(entry)
            case Completed():
                self._complete(entry)
            case Read(numbers):
                self.invalid |= {number for number in numbers if not self._records[number].is_valid}
                if self._end_by_s is not None:
                    self._end_by_s += self._try.weather.reading_s
            case Wrote(path, rows):
                assert rows >= self._files.get(path, frozenset()), "a file of rejects lost some"
                self._files[path] = rows
            case Saved(value):
                self._save(value)
            case Cancelled(at_s):
                self._end_by_s = at_s + GRACE_S + 3 * POLL_INTERVAL_S
                self.reasons.add(exceptions.IncompleteUpsertError)
            case Broke(error):
                self._wholly_saved = self._wholly_saved and error not in (None, exceptions.SetupError)
                if error is not None:
                    self.reasons.add(error)

    def _start(self, entry: Started) -> None:
        assert all(self._records[number].is_valid for number in entry.numbers)
        assert self.confirmed.isdisjoint(entry.numbers), "a confirmed record is sent again"
        assert self._earlier.confirmed.isdisjoint(entry.numbers), "a record that an earlier try confirmed is sent again"
        (namespace,) = {self._records[number].namespace for number in entry.numbers}
        held_until_s = self._held_until_s.get(namespace, 0.0)
        assert entry.at_s >= held_until_s - A_MOMENT_S, "the server asked for a longer wait"
        ids = Counter(self._records[number].key for sent in [*self._in_flight, entry.numbers] for number in sent)
        assert max(ids.values()) == 1, "an id is in flight twice"
        self._check_window(entry)
        self._sent[entry.numbers] += 1
        assert self._sent[entry.numbers] <= MAX_ATTEMPTS
        self._started_after_cancellation += self._end_by_s is not None
        assert self._started_after_cancellation <= self._try.options.max_concurrency

    def _check_window(self, entry: Started) -> None:
        window = self._try.options.max_concurrency
        self._in_flight.append(entry.numbers)
        assert len(self._in_flight) <= window
        if not self._known.isdisjoint(entry.numbers):
            self._repeated.add(entry.numbers)
        else:
            self._known |= set(entry.numbers)
            self._open = [batch for batch in self._open if not self.confirmed | self.rejected >= set(batch)]
            self._open.append(entry.numbers)
            assert len(self._open) <= window, "a request is started while as many others wait for a retry"
            self._check_size(entry)

    def _check_size(self, entry: Started) -> None:
        """A rejected size is remembered: but for the one that was pulled in advance, new requests are smaller."""
        if self._max_bytes is not None and entry.body_bytes > self._max_bytes and len(entry.numbers) > 1:
            self._oversized -= 1
            assert self._oversized >= 0, "a size that the server rejected is sent again"

    def _complete(self, entry: Completed) -> None:
        self._in_flight.remove(entry.numbers)
        self.requests += 1
        self.retries += entry.numbers in self._repeated
        self.body_bytes += entry.body_bytes
        result = entry.result
        if self._sent[entry.numbers] == MAX_ATTEMPTS and result != len(entry.numbers):
            self.reasons.add(exceptions.IncompleteUpsertError)
        if isinstance(result, int):
            self._count(entry.numbers, result)
        elif isinstance(result, exceptions.RateLimitError):
            self.throttled += 1
            asked_s = (result.response and result.response.retry_after_s) or 0.0
            until_s = entry.at_s + min(asked_s, MAX_RETRY_AFTER_S)
            namespace = self._records[entry.numbers[0]].namespace
            self._held_until_s[namespace] = max(self._held_until_s.get(namespace, 0.0), until_s)
        elif isinstance(result, exceptions.SetupError):
            self.reasons.add(type(result))
        elif not isinstance(result, exceptions.TransientError):
            self._reject(entry, result)

    def _count(self, numbers: tuple[int, ...], confirmed: int) -> None:
        if confirmed == len(numbers):
            self.confirmed |= set(numbers)
            self._short.pop(numbers, None)
        elif confirmed < len(numbers):
            self._short[numbers] = max(confirmed, self._short.get(numbers, 0))
        else:
            self.reasons.add(exceptions.IncompleteUpsertError)

    def _reject(self, entry: Completed, error: Exception) -> None:
        if len(entry.numbers) == 1:
            self.rejected |= set(entry.numbers)
            return
        self._short.pop(entry.numbers, None)  # its halves start from nothing
        if isinstance(error, exceptions.RequestTooLargeError):
            self._max_bytes = min(self._max_bytes or entry.body_bytes, entry.body_bytes // 2)
            # Of many namespaces, more than one may be pulled in advance.
            self._oversized += self._try.options.max_concurrency if self._has_namespaces else 1

    def _save(self, value: Mapping[str, Any]) -> None:
        saved = self.saved = coverage(value, self._records, self._process)
        assert saved.confirmed <= self._earlier.confirmed | self.confirmed, (
            "the checkpoint is ahead of what is confirmed"
        )
        assert saved.confirmed >= self._earlier.confirmed, "the checkpoint lost some"
        assert saved.rejected <= self._earlier.rejected | self.invalid | self.rejected, "the checkpoint is ahead"
        assert saved.counts["upsertedCount"] == len(saved.confirmed)
        assert saved.counts["rejectedCount"] == len(saved.rejected)
        self._check_requests(saved.counts)
        if self._has_folder:
            assert self._numbers_in(saved.paths) >= saved.rejected, "rejects are not written before the checkpoint"

    def _check_requests(self, counts: Mapping[str, float]) -> None:
        found = {
            "requestCount": self.requests,
            "requestBytes": self.body_bytes,
            "retryCount": self.retries,
            "throttledCount": self.throttled,
        }
        for name, here in found.items():
            assert counts[name] == self._earlier.counts[name] + here, name

    def _numbers_in(self, paths) -> set[int]:
        return {self._process.number_at(*row) for path in paths for row in self._files[path]}

    def close(self, end: exceptions.PineconeUpsertError | Success | None, report: UpsertReport | None) -> None:
        """Check how the try ended: with success, with an error, or, for None, by death."""
        self._check_stored()
        if end is None:
            return
        if self._end_by_s is None:
            assert not self._in_flight, "a request in flight is not waited for"
        else:
            assert self._world.clock_s <= self._end_by_s, "it took too long after its cancellation"
        assert report is not None
        output = report.as_output()
        upserted_earlier = len(self._earlier.confirmed)
        assert output["resumedCount"] == upserted_earlier
        assert output["upsertedCount"] == upserted_earlier + len(self.confirmed) + sum(self._short.values())
        self._check_requests(output)
        least = len(self._earlier.rejected | self.invalid)
        assert least <= output["rejectedCount"] <= len(self._earlier.rejected | self.invalid | self.rejected)
        if self._has_folder and exceptions.SetupError not in self.reasons:
            assert self._numbers_in(output["rejectsPaths"]) >= self.invalid, "rejects are forgotten"
        written = [row for path in output["rejectsPaths"] for row in self._files[path]]
        assert len(written) == len(set(written)), "a record is in two files of rejects"
        if isinstance(end, exceptions.PineconeUpsertError):
            self._check_failure(end)
        else:
            self._check_success(report)

    def _check_stored(self) -> None:
        """Unless ids repeat, every confirmed record is stored, bit for bit."""
        if not self._world.has_repeated_ids:
            earlier = frozenset() if self._try.is_wiped else self._earlier.confirmed
            for number in earlier | self.confirmed:
                self._check_stored_as(self._records[number])

    def _check_stored_as(self, record: Record) -> None:
        stored = self._world.stored[record.key]
        assert number_of(stored) == record.number
        assert struct.pack("2f", *stored["values"]) == struct.pack("2f", *record.values)

    def _check_success(self, report: UpsertReport) -> None:
        acceptable = {record.key: record for record in self._records if record.is_acceptable}
        for record in acceptable.values():
            self._check_stored_as(record)  # the last one of its id
        assert set(self._world.stored) == set(acceptable)
        rejected = {record.number for record in self._records if not record.is_acceptable}
        assert self.confirmed | self._earlier.confirmed or not self.rejected, (
            "success without a record that the server took"
        )
        assert report.upserted_count == len(self._records) - len(rejected)
        assert report.rejected_count == len(rejected)
        if self._has_namespaces:
            counts = Counter(record.namespace or "" for record in self._records if record.is_acceptable)
            assert {name: written.upserted for name, written in report.namespaces.items()} == counts
        limit = self._try.options.max_rejects
        assert limit is None or len(rejected) <= limit
        if self._has_folder:
            assert self._numbers_in(report.rejects_paths) == rejected
        assert "resume" not in self._world.state

    def _check_failure(self, error: exceptions.PineconeUpsertError) -> None:
        limit = self._try.options.max_rejects
        if limit is not None and len(self._earlier.rejected) > limit:
            self.reasons = {exceptions.ServerError} if self._try.weather.is_down else {exceptions.SetupError}
        elif limit is not None and len(self._earlier.rejected | self.invalid | self.rejected) > limit:
            self.reasons.add(exceptions.RecordError)
        if self.rejected and not self._earlier.confirmed | self.confirmed:
            self.reasons.add(exceptions.BadRequestError)  # the server took no record at all
        assert isinstance(error, tuple(self.reasons)), f"{error!r} for no reason, or another one"
        if self.saved is not None and self._wholly_saved:
            assert self.saved.confirmed == self._earlier.confirmed | self.confirmed, "the checkpoint is behind"


# All of it --------------------------------------------------------------------------------------


def run_try(
    world: World, process: Process, schedule: Schedule, one: Try
) -> tuple[exceptions.PineconeUpsertError | Success | None, UpsertReport | None]:
    """Run the pipeline in a simulated process. Only the package's own errors may be raised; None means death."""
    observer = Observer()
    try:
        report = upsert(
            process,
            process,
            one.options,
            rejects_folder=None if schedule.rejects_path is None else RejectsFolder(process, schedule.rejects_path),
            state=process if schedule.is_durable else None,
            cancellation=process.cancellation,
            observers=[observer],
            random=world.random.random,
            transport=process,
        )
    except exceptions.PineconeUpsertError as exc:
        return exc, observer.report
    except Death:
        return None, None
    assert report == observer.report
    return SUCCESS, report


def _is_resumed(checkpoint: Mapping[str, Any], world: World, one: Try) -> bool:
    """Without a confirmed record there is nothing to resume; with fewer records in the namespace, some are lost."""
    confirmed = checkpoint["counts"]["upsertedCount"]
    by_namespace = {name: count for name, (count, _) in unpacked(checkpoint["namespaces"]).items()}
    stored = Counter(record.get("namespace", "") for record in world.stored.values())
    return confirmed > 0 and (one.weather.is_down or all(stored[name] >= by_namespace[name] for name in by_namespace))


def run_schedule(seed: int, transport: str) -> None:
    schedule = schedule_of(Random(seed), transport)  # noqa: S311 - a seeded simulation
    world = World(schedule.records, Random(-seed), schedule.has_repeated_ids)  # noqa: S311 - the same
    end = None
    saved_version: int | None = None
    for one in schedule.tries:
        process = Process(
            world,
            one.weather,
            chunk_rows=one.chunk_rows,
            version=one.version,
            dies_at=one.dies_at,
            cancelled_at=one.cancelled_at,
        )
        is_usable = schedule.is_durable and one.version == saved_version and "resume" in world.state
        value = orjson.loads(orjson.loads(world.state["resume"])) if is_usable else None
        if one.is_wiped:
            world.wipe()
        if value and not _is_resumed(value, world, one):
            value = None
        audit = Audit(world, process, schedule, one, coverage(value, schedule.records, process))
        end, report = run_try(world, process, schedule, one)
        for entry in process.journal:
            audit.enter(entry)
        if world.has_repeated_ids or end is SUCCESS:
            world.settle()
        audit.close(end, report)
        if end is SUCCESS:
            return
        if audit.saved is not None:
            saved_version = one.version
    assert isinstance(end, (exceptions.InputError, exceptions.SetupError)), "nothing was wrong with the last try"


def _blocks(first: int, end: int) -> list[range]:
    if SEED:
        return [range(int(SEED), int(SEED) + 1)]
    return [range(start, start + AT_ONCE) for start in range(first, end, AT_ONCE)]


def run_block(seeds: range, transport: str) -> None:
    for seed in seeds:
        try:
            run_schedule(seed, transport)
        except Exception as exc:
            raise AssertionError(
                f"Schedule {seed} fails over {transport}. Alone: SIMULATION_SEED={seed} python -m pytest tests/pipeline/test_simulated_faults.py"
            ) from exc


@pytest.fixture(autouse=True)
def quiet():
    """Disable the log, except for a single schedule."""
    if not SEED:
        logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("seeds", _blocks(0, 1_000), ids=str)
def test_every_record_is_accounted_for(seeds, transport):
    run_block(seeds, transport)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("seeds", _blocks(1_000, 20_000), ids=str)
def test_every_record_is_accounted_for_in_many_more_schedules(seeds, transport):
    run_block(seeds, transport)
