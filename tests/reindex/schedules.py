"""Schedules of reindexing: which sources, faults, deaths and rivals the tries of a few nights meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from airflow_pinecone_upsert.reindex.keys import Place
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from tests.pipeline.simulation import FAULTS, FINAL_FAULTS, TOO_LARGE, Record, Weather
from tests.reindex.simulation import (
    COMMIT,
    DELETION,
    MANY,
    NAMESPACE,
    ONE,
    START,
    TENANTS,
    UPSERT,
    Moment,
    Storage,
)


class Try(NamedTuple):
    """
    One start of the task.

    :param numbers: The source: numbers of records, in order.
    :param listing_breaks: An audit fails.
    """

    numbers: list[int]
    options: ReindexOptions
    weather: Weather
    storage: Storage
    chunk_rows: int
    listing_breaks: bool = False
    dies_at: Moment | None = None
    cancelled_at: Moment | None = None


class Rival(NamedTuple):
    """
    A try that starts while another one runs.

    :param starts_at: The moment of the other one at which it is scheduled.
    :param delay_s: How long after that it starts.
    :param is_retry: Of the same task, whose supervisor died: the other try is an orphan. Else of another DAG run.
    :param orphaned_after_s: After which time the orphan notices.
    :param pause_s: How long the other one is suspended at that moment.
    """

    one: Try
    starts_at: Moment
    delay_s: float
    is_retry: bool
    orphaned_after_s: float
    pause_s: float


class Act(NamedTuple):
    """
    One try, or two at once.

    :param loses: Share of the records that the index loses before it starts.
    :param foreign: Records that something else writes before it starts.
    """

    night: int
    one: Try
    rival: Rival | None = None
    loses: float = 0.0
    foreign: tuple[Place, ...] = ()
    is_calm: bool = False


class Schedule(NamedTuple):
    """
    What happens. The last act of each night is calm: nothing goes wrong in it.

    :param records: Versions of records.
    :param has_many_namespaces: The records name their namespaces.
    """

    records: list[Record]
    acts: list[Act]
    has_many_namespaces: bool


def schedule_of(random: Random) -> Schedule:
    """Draw a schedule."""
    count = random.choice([3, 15, 40])
    places = _places(random, count) if random.random() < 0.4 else [Place(NAMESPACE, f"r{one}") for one in range(count)]
    tenants = sorted({place.namespace for place in places})
    has_many = tenants != [NAMESPACE]
    options = MANY if has_many else ONE
    rejected_rate, invalid_rate = random.choice([0, 0, 0.05, 0.2]), random.choice([0, 0, 0.05, 0.3])
    records = []
    for number in range(3 * count):
        namespace, record_id = places[number % count]
        record = Record(number, "", 0, record_id, [float(number + 1), random.choice([0.5, -1.25, 3.0])])
        if has_many and namespace != NAMESPACE:
            record = record._replace(namespace=namespace)
        if random.random() < rejected_rate:
            record = record._replace(rejected_with=random.choice([(400, "no"), (413, ""), (400, TOO_LARGE)]))
        elif random.random() < invalid_rate:
            record = record._replace(values=[float("nan"), 1.0], is_valid=False)
        records.append(record)
    acts: list[Act] = []
    numbers = _first(random, count)
    for night in range(random.randint(1, 3)):
        for _ in range(random.randint(0, 2)):
            one = _try(random, numbers, options)
            if random.random() < 0.5:
                numbers = _changed(random, numbers, places)
            if random.random() < 0.4:
                rival = _rival(random, _maybe_steady(random, _try(random, numbers, options)))
                acts.append(_drifting(random, Act(night, _maybe_steady(random, one), rival), tenants))
            else:
                acts.append(_drifting(random, Act(night, one), tenants))
        acts.append(_drifting(random, Act(night, _calm(_try(random, numbers, options)), is_calm=True), tenants))
        numbers = _changed(random, numbers, places)
    return Schedule(records, acts, has_many)


def _places(random: Random, count: int) -> list[Place]:
    """Draw places in two or more namespaces, some of which have the same ids."""
    tenants = random.sample(TENANTS, random.randint(2, 4))
    return [Place(random.choice(tenants), f"r{number // random.choice([1, 2])}") for number in range(count)]


def _first(random: Random, count: int) -> list[int]:
    return [number + count * random.randrange(3) for number in range(count) if random.random() < 0.8] or [0]


def _changed(random: Random, numbers: list[int], places: Sequence[Place]) -> list[int]:
    """
    Draw the source of the next night.

    Some records change, some change back, some vanish, some come, some twice; and some whole namespaces vanish.
    """
    rate = random.choice([0.02, 0.2, 0.5])
    count = len(places)
    versions = {number % count: number for number in numbers}
    for one in range(count):
        if random.random() < rate:
            versions.pop(one, None)
        if random.random() < rate:
            versions[one] = one + count * random.randrange(3)
    tenants = sorted({place.namespace for place in places} - {NAMESPACE})
    gone = {name for name in tenants if random.random() < 0.3}
    found = [number for one, number in versions.items() if places[one].namespace not in gone] or [0]
    random.shuffle(found)
    repeat_rate = random.choice([0, 0.02, 0.3])
    twice = [one % count + count * random.randrange(3) for one in found if random.random() < repeat_rate]
    together = [*found, *twice]
    if random.random() < 0.5:  # else they are far apart
        random.shuffle(together)
    return together


def _drifting(random: Random, act: Act, tenants: Sequence[str]) -> Act:
    """Let the index lose records, and something else write to a namespace, but seldom."""
    loses = random.choice([0.1, 0.5]) if random.random() < 0.15 else 0.0
    foreign = (Place(random.choice(tenants), f"x{random.randrange(20)}"),) if random.random() < 0.15 else ()
    return act._replace(loses=loses, foreign=foreign)


def _maybe_steady(random: Random, one: Try) -> Try:
    """Let a try run for long, and meet nothing but the other one: most others end before the other one starts."""
    if random.random() < 0.4:
        return one
    latency_s, reading_s = random.choice([(0.2, 0.5), (3.0, 0.5), (0.2, 10.0), (3.0, 20.0)])
    options = one.options.model_copy(update={"batch_size": random.choice([1, 2, 5]), "dry_run": False})
    return Try(
        one.numbers, options, Weather(latency_s=latency_s, reading_s=reading_s), Storage(), random.choice([1, 4])
    )


def _rival(random: Random, one: Try) -> Rival:
    pause_s = random.choice([0.0, 0.0, 5.0, 150.0])
    is_retry = random.random() < 0.6
    return Rival(
        one,
        starts_at=_moment(random),
        delay_s=random.choice([0.0, 0.0, pause_s / 2, 5.0] if is_retry else [0.0, pause_s / 2, 70.0, 90.0]),
        is_retry=is_retry,
        orphaned_after_s=random.choice([0.0, 3.0, 30.0, math.inf]),
        pause_s=pause_s,
    )


def _moment(random: Random) -> Moment:
    since = random.choice([START, START, UPSERT, DELETION, COMMIT])
    return Moment(random.randrange(1, random.choice([10, 60, 200] if since == START else [4, 10, 40])), since)


def _calm(one: Try) -> Try:
    keeps = {"max_rejects": None, "max_delete_fraction": 1.0, "full": False, "dry_run": False}
    return Try(one.numbers, one.options.model_copy(update=keeps), Weather(), Storage(), one.chunk_rows)


def _try(random: Random, numbers: list[int], options: ReindexOptions) -> Try:
    drawn = ReindexOptions(
        batch_size=random.choice([1, 2, 5, 1_000]),
        max_request_bytes=random.choice([1_000, None]),
        max_concurrency=random.randint(1, 4),
        max_requests_per_second=random.choice([None, 5]),
        max_rejects=random.choice([None, None, 1]),
        max_delete_fraction=random.choice([1.0, 1.0, 0.1]),
        delete_missing=random.random() < 0.85,
        full=random.random() < 0.1,
        audit=random.random() < 0.2,
        dry_run=random.random() < 0.05,
        verify_sample=random.choice([0, 2, 100]),
        verify_timeout_s=20,
        transport=random.choice(["rest", "grpc"]),
    )
    options = options.model_copy(update=drawn.model_dump(exclude_defaults=True))
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
        Storage(random.choice([0, 0, 0, 0.02, 0.1]), random.choice([0, 0, 0, 1.0, 20.0])),
        chunk_rows=random.choice([1, 4, 50]),
        listing_breaks=random.random() < 0.1,
        dies_at=_moment(random) if random.random() < 0.4 else None,
        cancelled_at=_moment(random) if random.random() < 0.2 else None,
    )
