"""
A namespace, or each of many, becomes equal to its source, under any fault: whole runs under seeded schedules.

A schedule is a few nights. Each night has another source and one or more tries, which meet faults, are cancelled or die at
any step, or run two at once: a second DAG run, or the retry of a task that lives on as an orphan. Between the tries the
index loses records, and something else writes to the namespace. In the last try of a night nothing goes wrong. After
each try the manifest is compared with the namespace, and after each success the namespace with the source.

What is excluded, and why, is in ``tests/reindex/simulation.py``.

``SIMULATION_SEED=17 python -m pytest tests/reindex/test_simulated_reindex.py`` repeats one schedule alone.
"""

import logging
import os
from dataclasses import replace
from functools import lru_cache, partial
from random import Random
from typing import Any, NamedTuple

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.hooks.reindexing import open_manifest
from airflow_pinecone_upsert.reindex.deletion import ALWAYS_ALLOWED
from airflow_pinecone_upsert.reindex.digest import digest_records
from airflow_pinecone_upsert.reindex.entries import UNKNOWN_DIGEST
from airflow_pinecone_upsert.reindex.keys import keys_of
from airflow_pinecone_upsert.reindex.lease import LIFETIME_S, Holder
from airflow_pinecone_upsert.reindex.manifest import Manifest, Target
from airflow_pinecone_upsert.reindex.report import ReindexReport
from airflow_pinecone_upsert.reindex.run import reindex
from tests.pipeline.simulation import HOST, Death, Record, Started, Weather, _chunk, number_of
from tests.reindex.schedules import Act, Try, schedule_of
from tests.reindex.simulation import (
    MANY,
    NAMESPACE,
    ONE,
    Namespace,
    Night,
    NightAtOnce,
    OftenCompacted,
    SimulatedFolder,
    Storage,
)
from tests.reindex.turns import Turns
from tests.reindex.world import Claims, claims_of

SEED = os.environ.get("SIMULATION_SEED")
TARGET = Target(HOST, NAMESPACE, {}, "simulated", 1)
TASK = Holder("", "nightly", "articles.reindex", host="worker", process_id=1)

End = ReindexReport | exceptions.PineconeUpsertError | None
"""A report, an error of the package, or death."""


class Before(NamedTuple):
    """What there was before a try."""

    stored: dict[str, Any]
    claims: Claims
    foreign: frozenset[str]
    lost: frozenset[str]

    @classmethod
    def now(cls, world: Namespace, claims: Claims) -> "Before":
        return cls(dict(world.stored), claims, frozenset(world.foreign), frozenset(world.lost))


def run_try(night: Night, one: Try, holder: Holder) -> End:
    """Run one try. Only the package's own errors may be raised."""
    folder = SimulatedFolder(night, "/manifest", night, one.storage)
    random = night.world.random
    try:
        with open_manifest(
            folder,
            TARGET,
            is_dry_run=one.options.dry_run,
            holder=lambda run_id: replace(holder, run_id=run_id),
            now=night.epoch_s,
        ) as (manifest, keep_lease):
            night.is_working = not one.options.dry_run
            return reindex(
                night,
                night,
                one.options,
                OftenCompacted(manifest, random),
                cancellation=night.cancellation,
                random=random.random,
                sleep=night.sleep,
                on_turn=keep_lease,
                transport=lambda: night,
            )
    except exceptions.PineconeUpsertError as exc:
        return exc
    except Death:
        return None
    finally:
        night.is_working = False


# What must hold -------------------------------------------------------------------------------------------


@lru_cache(maxsize=10_000)
def digest_of(record_id: str, values: tuple[float, ...], namespace: str | None) -> bytes:
    record = Record(0, "", 0, record_id, list(values), namespace=namespace)
    keys = keys_of(MANY if namespace else ONE)
    return digest_records(_chunk([record], has_namespaces=bool(namespace)), keys).digests.tobytes()


def claims_in(world: Namespace) -> Claims:
    """Return what a reader finds in the manifest."""
    reader = Night(world, Weather(), [])
    return claims_of(Manifest.open(SimulatedFolder(reader, "/manifest", reader, Storage()), TARGET))


def check_manifest(world: Namespace, before: Before) -> Claims:
    """The manifest claims nothing that was not confirmed, and knows every record that a run has written."""
    claims = claims_in(world)
    assert world.stored.keys() - claims.keys() <= before.foreign, "the manifest lacks a record that was written"
    for record_id, claimed in claims.items():
        if claimed == UNKNOWN_DIGEST or record_id in world.lost:
            continue
        assert record_id in world.stored, "the manifest claims a record that the namespace does not have"
        record = world.records[number_of(world.stored[record_id])]
        namespace = world.keys.place(record_id).namespace if world.has_many_namespaces else None
        assert claimed == digest_of(record.id, tuple(record.values), namespace), "the manifest claims another record"
    return claims


def sent_by(night: Night) -> set[int]:
    return {number for entry in night.journal if isinstance(entry, Started) for number in entry.numbers}


def deleted_by(night: Night) -> set[str]:
    return {key for deletion in night.deletions for key in deletion.keys}


def check_requests(night: Night, one: Try) -> None:
    """Whatever its end was, a try sends nothing but valid records of its source, and deletes only what may go."""
    options = one.options
    assert sent_by(night) <= {record.number for record in night.records if record.is_valid}
    deleted = deleted_by(night)
    assert deleted.isdisjoint(map(night.world.key, night.records)), "a live record is deleted"
    assert not any(deletion.namespace for deletion in night.deletions) or night.world.has_many_namespaces
    assert all(deletion.upserts_in_flight == 0 for deletion in night.deletions), (
        "a deletion is sent before the last upsert is confirmed"
    )
    if deleted:
        assert options.delete_missing
        assert one.weather.source_breaks_at is None or one.weather.source_breaks_at * one.chunk_rows >= len(one.numbers)
    if options.dry_run:
        assert not sent_by(night) | deleted
        assert not night.run, "a dry run takes the manifest over"


def check_guard(night: Night, one: Try, before: Before) -> None:
    """No more is deleted than is allowed, and nothing that the manifest does not know, but by an audit."""
    deleted = deleted_by(night)
    known = before.claims.keys() | (before.stored.keys() if one.options.audit else set())
    assert deleted <= known, "something is deleted that the manifest does not know"
    assert len(deleted) <= max(ALWAYS_ALLOWED, one.options.max_delete_fraction * len(known)), "the guard is open"


def not_listed(night: Night, one: Try, before: Before) -> set[str]:
    """Return the foreign records that a try must not know: an audit lists the namespaces of the manifest and of the source."""
    unknown = before.foreign - before.claims.keys()
    if not one.options.audit:
        return set(unknown)
    places = map(night.world.keys.place, [*before.claims, *map(night.world.key, night.records)])
    listed = {place.namespace for place in places} if night.world.has_many_namespaces else {NAMESPACE}
    return {key for key in unknown if night.world.keys.place(key).namespace not in listed}


def check_success(night: Night, one: Try, before: Before, report: ReindexReport) -> None:
    """When it was committed, the namespace was equal to the source, but for rejected records."""
    options, stored = one.options, night.stored_at_commit
    lost = frozenset() if options.audit or options.full else before.lost
    wanted = {night.world.key(record): record for record in night.records if record.is_acceptable}
    for key, record in wanted.items():
        if key not in lost:
            assert number_of(stored[key]) == record.number, "the last record of an id does not win"
    more = stored.keys() - set(map(night.world.key, night.records))
    if options.delete_missing:
        assert more <= not_listed(night, one, before), "what vanished is there"
    counts = report.counts
    assert counts.rejected <= sum(not record.is_acceptable for record in night.records)
    assert counts.upserted == counts.new + counts.changed
    assert counts.upserted + counts.unchanged + counts.rejected == len(night.records)
    if options.full:
        assert counts.unchanged == 0
        assert sent_by(night) >= {record.number for record in wanted.values()}
    if not options.delete_missing:
        assert counts.deleted == 0


def check_kept(world: Namespace, night: Night, before: Before) -> None:
    """The old version of a rejected record stays."""
    acceptable = {world.key(record) for record in night.records if record.is_acceptable}
    for key in set(map(world.key, night.records)) - acceptable:
        assert (key in world.stored) == (key in before.stored), "the old version of a rejected record is gone"


def check_foreign(world: Namespace, night: Night, one: Try, before: Before) -> None:
    """What the manifest does not know stays, whatever the end of a try was, and whether its namespace vanished or not."""
    unknown = not_listed(night, one, before) & before.stored.keys()
    assert unknown <= world.stored.keys(), "a record is gone that the manifest does not know"


def check_error(world: Namespace, end: End) -> None:
    """No try damages the manifest, or finds that what was confirmed is not there."""
    assert not isinstance(end, exceptions.ManifestError), repr(end)
    if isinstance(end, exceptions.VerificationError):
        keys = map(world.key_of, end.namespaces, end.ids)
        assert set(keys) <= world.lost, "what was confirmed is not there"


# Schedules ------------------------------------------------------------------------------------------------


def run_schedule(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a seeded simulation
    records, acts, has_many_namespaces = schedule_of(random)
    keys = keys_of(MANY if has_many_namespaces else ONE)
    world = Namespace(records, Random(-seed), has_repeated_ids=True, keys=keys)  # noqa: S311 - the same
    claims: Claims = {}
    for number, act in enumerate(acts):
        _drift(world, act)
        before = Before.now(world, claims)
        holder = replace(TASK, dag_run=f"night {act.night}", try_number=number + 1)
        if act.rival:
            _run_rivals(world, act, holder, before)
        elif act.is_calm:
            _run_calm(world, act, holder, before, is_last=act is acts[-1])
        else:
            _run_alone(world, act.one, holder, before)
        claims = check_manifest(world, before)


def _drift(world: Namespace, act: Act) -> None:
    """Change the namespace, as no run does."""
    world.settle()
    world.lose([one for one in list(world.stored) if world.random.random() < act.loses] if act.loses else [])
    for place in act.foreign:
        world.add_foreign(place)


def _night(world: Namespace, one: Try, kind: type[Night] = Night, **more: Any) -> Any:
    return kind(
        world,
        one.weather,
        [world.records[number] for number in one.numbers],
        listing_breaks=one.listing_breaks,
        chunk_rows=one.chunk_rows,
        dies=one.dies_at,
        is_cancelled=one.cancelled_at,
        **more,
    )


def _run_alone(world: Namespace, one: Try, holder: Holder, before: Before) -> tuple[Night, End]:
    night = _night(world, one)
    files = dict(world.manifest_files)
    end = run_try(night, one, holder)
    world.settle()
    check_requests(night, one)
    check_guard(night, one, before)
    check_foreign(world, night, one, before)
    check_error(world, end)
    if one.options.dry_run:
        assert files == world.manifest_files, "a dry run writes"
    elif isinstance(end, ReindexReport):
        check_success(night, one, before, end)
        check_kept(world, night, before)
    return night, end


def _run_calm(world: Namespace, act: Act, holder: Holder, before: Before, *, is_last: bool) -> None:
    """A try without faults succeeds, unless the server takes nothing; and the next one has nothing left to send."""
    world.advance_to(world.clock_s + LIFETIME_S)  # a rival may have died with the lease
    one = act.one
    if world.lost:
        one = one._replace(options=one.options.model_copy(update={"audit": True}))
    _, end = _run_alone(world, one, holder, before)
    if not isinstance(end, ReindexReport):
        assert isinstance(end, exceptions.BadRequestError), repr(end)
        return
    acceptable = [record for number in one.numbers if (record := world.records[number]).is_acceptable]
    assert world.lost.isdisjoint(map(world.key, acceptable))
    if not is_last:
        return
    again, report = _run_alone(world, one, holder, Before.now(world, claims_in(world)))
    assert isinstance(report, ReindexReport)
    assert not again.deletions
    keys = [world.key(world.records[number]) for number in one.numbers]
    rejected = {world.key(world.records[number]) for number in one.numbers if not world.records[number].is_acceptable}
    unsettled = rejected | {key for key in keys if keys.count(key) > 1}
    sent = {world.key(world.records[number]) for number in sent_by(again)}
    assert sent <= unsettled, "an unchanged record is sent again"


def _run_rivals(world: Namespace, act: Act, holder: Holder, before: Before) -> None:
    """Run two tries at once. What the first one finds is only an error if the second one did not replace it."""
    rival = act.rival
    assert rival is not None
    turns = Turns(world, world.random)
    first = _night(
        world,
        act.one,
        NightAtOnce,
        turns=turns,
        name="first",
        wakes="second",
        wakes_at=rival.starts_at,
        wakes_after_s=rival.delay_s,
        pause_s=rival.pause_s,
        orphaned_after_s=rival.orphaned_after_s if rival.is_retry else float("inf"),
    )
    second = _night(world, rival.one, NightAtOnce, turns=turns, name="second")
    if not rival.is_retry and act.one.storage == Storage():
        second.must_not_replace = first
    ends: dict[str, End] = {}

    def live(name: str, night: Night, one: Try, who: Holder) -> None:
        ends[name] = run_try(night, one, who)

    retry = replace(holder, try_number=holder.try_number + 1) if rival.is_retry else replace(holder, dag_run="manual")
    turns.run(
        {
            "first": partial(live, "first", first, act.one, holder),
            "second": partial(live, "second", second, rival.one, retry),
        },
        asleep="second",
    )
    world.settle()
    for name, night, one in (("first", first, act.one), ("second", second, rival.one)):
        check_requests(night, one)
        end = ends[name]
        if not one.options.dry_run and isinstance(end, ReindexReport):
            check_success(night, one, before, end)
    check_error(world, ends["second"] if second.run else ends["first"])


def _blocks(first: int, end: int, length: int) -> list[range]:
    if SEED:
        return [range(int(SEED), int(SEED) + 1)]
    return [range(start, start + length) for start in range(first, end, length)]


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


@pytest.mark.parametrize("seeds", _blocks(0, 500, 25), ids=str)
def test_the_namespace_becomes_equal_to_the_source(seeds):
    run_block(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", _blocks(500, 20_000, 250), ids=str)
def test_the_namespace_becomes_equal_to_the_source_in_many_more_schedules(seeds):
    run_block(seeds)
