"""
A namespace becomes equal to its source, under any fault: whole runs under seeded schedules.

A schedule is a few nights. Each night has another source and one or more tries, which meet faults, are cancelled or die at
any step; the last try of a night may meet none. After each try the manifest is compared with the namespace, and after
each success the namespace with the source.

``SIMULATION_SEED=17 python -m pytest tests/reindex/test_simulated_reindex.py`` repeats one schedule alone.
"""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.reindex.digest import digest_records
from airflow_pinecone_upsert.reindex.entries import UNKNOWN_DIGEST
from airflow_pinecone_upsert.reindex.manifest import Target, new_run_id
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport
from airflow_pinecone_upsert.reindex.run import reindex
from tests.pipeline.simulation import (
    FAULTS,
    FINAL_FAULTS,
    HOST,
    TOO_LARGE,
    Death,
    Record,
    Started,
    Weather,
    _chunk,
    number_of,
)
from tests.reindex.simulation import CompactingManifest, Namespace, Night, SimulatedFolder
from tests.reindex.world import claims_of

SEED = os.environ.get("SIMULATION_SEED")
AT_ONCE = 25
TARGET = Target(HOST, "", {}, "simulated", 1)


class Try(NamedTuple):
    """
    One start of the task.

    :param numbers: The source: numbers of records, in order.
    :param storage_failures: Share of the accesses to the manifest's storage that fail.
    """

    numbers: list[int]
    options: ReindexOptions
    weather: Weather
    storage_failures: float
    chunk_rows: int
    dies_at: int | None = None
    cancelled_at: int | None = None

    @property
    def is_calm(self) -> bool:
        return self.weather == Weather() and self.dies_at is None and self.cancelled_at is None


def schedule_of(random: Random) -> tuple[list[Record], list[Try]]:
    """Draw versions of records, and tries."""
    ids = [f"r{number}" for number in range(random.choice([3, 15, 40]))]
    rejected_rate, invalid_rate = random.choice([0, 0, 0.05, 0.2]), random.choice([0, 0, 0.05, 0.3])
    records = []
    for number in range(3 * len(ids)):
        record = Record(number, "", 0, ids[number % len(ids)], [float(number + 1), random.choice([0.5, -1.25, 3.0])])
        if random.random() < rejected_rate:
            record = record._replace(rejected_with=random.choice([(400, "no"), (413, ""), (400, TOO_LARGE)]))
        elif random.random() < invalid_rate:
            record = record._replace(values=[float("nan"), 1.0], is_valid=False)
        records.append(record)
    tries = []
    numbers = _first(random, records, len(ids))
    for _ in range(random.randint(1, 4)):
        for _ in range(random.randint(0, 2)):
            tries.append(_try(random, numbers))
            if random.random() < 0.4:
                numbers = _changed(random, numbers, len(ids))
        calm = _try(random, numbers)
        tries.append(
            calm._replace(
                weather=Weather(),
                dies_at=None,
                cancelled_at=None,
                storage_failures=0.0,
                options=calm.options.model_copy(
                    update={"max_rejects": None, "max_delete_fraction": 1.0, "full": False}
                ),
            )
        )
        numbers = _changed(random, numbers, len(ids))
    return records, tries


def _first(random: Random, records: Sequence[Record], count: int) -> list[int]:
    return [number + count * random.randrange(3) for number in range(count) if random.random() < 0.8] or [0]


def _changed(random: Random, numbers: list[int], count: int) -> list[int]:
    """Draw the source of the next night: some records change, some change back, some vanish, some come, some twice."""
    rate = random.choice([0.02, 0.2, 0.5])
    versions = {number % count: number for number in numbers}
    for one in range(count):
        if random.random() < rate:
            versions.pop(one, None)
        if random.random() < rate:
            versions[one] = one + count * random.randrange(3)
    found = list(versions.values()) or [0]
    random.shuffle(found)
    repeat_rate = random.choice([0, 0.02, 0.3])
    twice = [one % count + count * random.randrange(3) for one in found if random.random() < repeat_rate]
    together = [*found, *twice]
    if random.random() < 0.5:  # else they are far apart
        random.shuffle(together)
    return together


def _try(random: Random, numbers: list[int]) -> Try:
    options = ReindexOptions(
        batch_size=random.choice([1, 2, 5, 1_000]),
        max_request_bytes=random.choice([1_000, 2_000_000]),
        max_concurrency=random.randint(1, 4),
        max_requests_per_second=random.choice([None, 5]),
        max_rejects=random.choice([None, None, 1]),
        max_delete_fraction=random.choice([1.0, 1.0, 0.1]),
        full=random.random() < 0.1,
        verify_sample=random.choice([0, 2, 100]),
        verify_timeout_s=20,
        transport=random.choice(["rest", "grpc"]),
    )
    steps = random.choice([10, 60, 200, 400])
    weather = Weather(
        latency_s=random.choice([0.001, 0.2, 3.0]),
        fault_rate=random.choice([0, 0.1, 0.3, 0.8]),
        faults=random.sample(sorted(FAULTS), random.randint(1, len(FAULTS))),
        final_rate=random.choice([0, 0, 0, 0.05]),
        final_faults=random.sample(sorted(FINAL_FAULTS), 3),
        max_records=random.choice([1_000, 1_000, 1]),
        source_breaks_at=random.randrange(6) if random.random() < 0.1 else None,
        reading_s=random.choice([0, 0.5, 3.0]),
        is_down=random.random() < 0.03,
    )
    return Try(
        numbers,
        options,
        weather,
        storage_failures=random.choice([0, 0, 0.05, 0.3]),
        chunk_rows=random.choice([1, 4, 50]),
        dies_at=random.randrange(1, steps) if random.random() < 0.5 else None,
        cancelled_at=random.randrange(1, steps) if random.random() < 0.2 else None,
    )


def run_try(world: Namespace, night: Night, one: Try) -> ReindexReport | exceptions.PineconeUpsertError | None:
    """Run one try. Only the package's own errors may be raised; None means death."""
    folder = SimulatedFolder(night, "/manifest", night, one.storage_failures)
    try:
        manifest = CompactingManifest.open(folder, TARGET, new_run_id())
        manifest.random = world.random
        return reindex(
            night,
            night,
            one.options,
            manifest,
            cancellation=night.cancellation,
            random=world.random.random,
            sleep=night.sleep,
            transport=lambda: night,
        )
    except exceptions.PineconeUpsertError as exc:
        return exc
    except Death:
        return None


@lru_cache(maxsize=10_000)
def digest_of(number: int, record_id: str, values: tuple[float, ...]) -> bytes:
    found = digest_records(_chunk([Record(number, "", 0, record_id, list(values))]))
    return found.digests.tobytes()


def claims_in(world: Namespace, night: Night) -> dict[str, bytes]:
    class Immortal(SimulatedFolder):
        def _access(self) -> None:
            pass

    return claims_of(CompactingManifest.open(Immortal(night, "/manifest", night, 0.0), TARGET))


def check_manifest(world: Namespace, night: Night) -> dict[str, bytes]:
    """The manifest claims nothing that is not so, and knows every record of the namespace."""
    claims = claims_in(world, night)
    assert world.stored.keys() <= claims.keys(), "the manifest lacks a record that the namespace has"
    for record_id, claimed in claims.items():
        if claimed == UNKNOWN_DIGEST:
            continue
        assert record_id in world.stored, "the manifest claims a record that the namespace does not have"
        record = world.records[number_of(world.stored[record_id])]
        assert claimed == digest_of(record.number, record.id, tuple(record.values)), (
            "the manifest claims another record"
        )
    return claims


def check_deletions(night: Night, one: Try) -> None:
    live = {record.id for record in night.records}
    for deletion in night.deletions:
        assert live.isdisjoint(deletion.ids), "a live record is deleted"
        assert deletion.upserts_in_flight == 0, "a deletion is sent before the last upsert is confirmed"
    if night.deletions:
        assert one.weather.source_breaks_at is None or one.weather.source_breaks_at * one.chunk_rows >= len(one.numbers)
        sent = {number for entry in night.journal if isinstance(entry, Started) for number in entry.numbers}
        assert sent <= {record.number for record in night.records if record.is_valid}


def check_success(world: Namespace, night: Night, before: dict[str, Any], report: ReindexReport) -> None:
    """The namespace equals the source, but for rejected records, whose old versions stay."""
    wanted = {record.id: record for record in night.records if record.is_acceptable}
    present = {record.id for record in night.records}
    for record_id, record in wanted.items():
        assert number_of(world.stored[record_id]) == record.number, "the last record of an id does not win"
    assert world.stored.keys() <= present, "what vanished is still there"
    for record_id in present - wanted.keys():
        assert (record_id in world.stored) == (record_id in before), "the old version of a rejected record is gone"
    unacceptable = sum(not record.is_acceptable for record in night.records)
    assert report.rejected_count <= unacceptable
    counts = report.counts
    assert counts.upserted == counts.new + counts.changed
    assert counts.upserted + counts.unchanged + counts.rejected == len(night.records)


def run_schedule(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a seeded simulation
    records, tries = schedule_of(random)
    world = Namespace(records, Random(-seed), has_repeated_ids=True)  # noqa: S311 - the same
    for one in tries:
        before = dict(world.stored)
        night = _night(world, one)
        end = run_try(world, night, one)
        world.settle()
        check_manifest(world, night)
        check_deletions(night, one)
        assert not isinstance(end, exceptions.VerificationError), "what was confirmed is not there"
        if isinstance(end, ReindexReport):
            check_success(world, night, before, end)
        if one.is_calm:
            _check_calm(world, one, end)


def _night(world: Namespace, one: Try) -> Night:
    sources = [world.records[number] for number in one.numbers]
    return Night(
        world, one.weather, sources, chunk_rows=one.chunk_rows, dies_at=one.dies_at, cancelled_at=one.cancelled_at
    )


def _check_calm(world: Namespace, one: Try, end: Any) -> None:
    """A try without faults succeeds, unless the server takes nothing; and the next one has nothing left to send."""
    acceptable = {number for number in one.numbers if world.records[number].is_acceptable}
    if not isinstance(end, ReindexReport):
        assert isinstance(end, exceptions.BadRequestError), repr(end)
        return
    again = _night(world, one)
    report = run_try(world, again, one)
    assert isinstance(report, ReindexReport)
    assert not again.deletions
    sent = {number for entry in again.journal if isinstance(entry, Started) for number in entry.numbers}
    ids = [world.records[number].id for number in one.numbers]
    unsettled = {world.records[n].id for n in one.numbers if n not in acceptable} | {i for i in ids if ids.count(i) > 1}
    assert {world.records[number].id for number in sent} <= unsettled, "an unchanged record is sent again"


def _blocks(first: int, end: int) -> list[range]:
    if SEED:
        return [range(int(SEED), int(SEED) + 1)]
    return [range(start, start + AT_ONCE) for start in range(first, end, AT_ONCE)]


def run_block(seeds: range) -> None:
    for seed in seeds:
        try:
            run_schedule(seed)
        except Exception as exc:
            raise AssertionError(
                f"Schedule {seed} fails. Alone: SIMULATION_SEED={seed} python -m pytest {__file__}"
            ) from exc


@pytest.fixture(autouse=True)
def quiet():
    """Disable the log, except for a single schedule."""
    if not SEED:
        logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seeds", _blocks(0, 300), ids=str)
def test_the_namespace_becomes_equal_to_the_source(seeds):
    run_block(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", _blocks(300, 3_000), ids=str)
def test_the_namespace_becomes_equal_to_the_source_in_many_more_schedules(seeds):
    run_block(seeds)
