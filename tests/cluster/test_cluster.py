"""Airflow on a cluster: a worker that dies costs little, and two workers are faster than one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import pytest

from .conftest import DIMENSION, EXAMPLE, NAMESPACES
from .target import Upsert, running_target
from .timeline import Timeline

pytestmark = pytest.mark.cluster

RECORDS = int(os.environ.get("CLUSTER_RECORDS", "25000"))
"""In each namespace. With fewer, set by the environment for a quick look, a kill may come too late for a checkpoint."""

DYING, SURVIVING = "worker-1", "worker-2"
WORK_LOST_S = 6.0
"""A checkpoint is saved every 5 s, and so is a manifest."""

MIN_IN_MID_RUN = 2
"""Tasks of the worker that have confirmed three fifths when it is killed: at their pace, 7.5 s of work."""

ORPHAN_S = 10.0
"""How long an orphan may go on. Airflow starts the next try when 15 s have passed."""

LATENCY_S = 0.15
LATENCY_RECORDS = 2_000
WARM_UP_RECORDS = 32
MIN_SPEEDUP = 1.7


@pytest.mark.parametrize("death", ["with all its descendants", "leaving its task processes as orphans"])
@pytest.mark.parametrize("operation", ["upsert", "reindex"])
def test_a_worker_dies_and_another_one_resumes_its_tasks(*, cluster, write_tenants, add_timeline, operation, death):
    """
    Kill one of two workers in mid-run, and let the other one finish.

    A record must not arrive again if the killed task had it confirmed more than six seconds before. These times are those
    of the emulator's request log.
    """
    dag_id = f"cluster_{operation}"
    written = write_tenants(RECORDS)
    namespaces = sorted(written)
    with running_target(cluster.target_port, dimension=DIMENSION) as target:
        cluster.use_workers(DYING, SURVIVING)
        run_id = cluster.start_run(dag_id)

        def is_in_mid_run() -> bool:
            confirmed = target.confirmed()
            held = cluster.running(dag_id, run_id, "load", DYING)
            counts = [confirmed.get(namespaces[one.map_index], 0) for one in held]
            return sum(count >= 0.6 * RECORDS for count in counts) >= MIN_IN_MID_RUN

        cluster.wait_until(is_in_mid_run)
        held = cluster.running(dag_id, run_id, "load", DYING)
        orphans = [one.pid for one in held] if "orphans" in death else []
        killed_s = time.monotonic()
        dead = cluster.kill_worker(DYING, task_processes=orphans)
        cluster.wait_for_orphans(dead, ORPHAN_S)
        stopped_after_s = time.monotonic() - killed_s
        assert bool(dead.orphans) == bool(orphans)

        state = cluster.wait_for_run(dag_id, run_id)
        tries = cluster.tries(dag_id, run_id, "load")
        notes = [f"{len(dead.orphans)} orphans stopped within {stopped_after_s:.1f} s."] if orphans else []
        add_timeline(Timeline(f"{operation}, {DYING} dies {death}", tries, DYING, killed_s, notes))
        outputs = [cluster.output(dag_id, run_id, "load", number) for number in range(NAMESPACES)]
        upserts = target.upserts()
        stored = {namespace: target.fingerprints(namespace) for namespace in namespaces}

    assert state == "success"
    # Names only: pytest would compare and print 25,000 entries.
    assert not [namespace for namespace in namespaces if stored[namespace] != written[namespace]]
    assert [output["upsertedCount"] + output.get("unchangedCount", 0) for output in outputs] == [RECORDS] * NAMESPACES

    killed = [one for one in tries if one.worker == DYING and one.ended_s > killed_s]
    ages_s, confirmed = [], []
    for one in killed:
        (retry,) = [other for other in tries if (other.map_index, other.number) == (one.map_index, one.number + 1)]
        assert retry.worker == SURVIVING
        own = [request for request in upserts if request.namespace == namespaces[one.map_index]]
        by_killed = [request for request in own if request.started_s < retry.started_s]
        assert not [request for request in by_killed if request.started_s > killed_s + ORPHAN_S]
        confirmed.append(sum(len(request.ids) for request in by_killed if request.is_confirmed))
        ages_s += [killed_s - request.finished_s for request in by_killed if request.is_confirmed]
        notes.append(f"Task {one.map_index:02}: {check_resumed(by_killed, own[len(by_killed) :], killed_s)}")
    assert min(confirmed) < 0.9 * RECORDS, "the orphans sent all of their records instead of stopping"
    assert max(ages_s) > WORK_LOST_S, "the kill came too early to tell a resumed task from a restarted one"


def check_resumed(by_killed: Sequence[Upsert], by_retry: Sequence[Upsert], killed_s: float) -> str:
    """
    Check that a retry resumed instead of starting again, and return a sentence that says what it sent again.

    :param by_killed: The requests of the try that was killed, in the order of their responses.
    :param by_retry: Those of the try after it.
    """
    confirmed_s = {
        record_id: request.finished_s for request in by_killed if request.is_confirmed for record_id in request.ids
    }
    repeated = confirmed_s.keys() & {record_id for request in by_retry for record_id in request.ids}
    lost_s = max((killed_s - confirmed_s[record_id] for record_id in repeated), default=0.0)
    assert lost_s <= WORK_LOST_S
    return f"{len(confirmed_s):,} records were confirmed, {len(repeated):,} sent again: the work of {lost_s:.1f} s."


def test_the_example_reindexes_every_tenant(*, cluster, write_tenants, add_timeline):
    """The plan, the mapped tasks and the sum run on two workers, as they are in the example."""
    written = write_tenants(RECORDS)
    with running_target(cluster.target_port, dimension=DIMENSION) as target:
        cluster.use_workers(DYING, SURVIVING)
        run_id = cluster.run_by_schedule(EXAMPLE.stem)
        state = cluster.run_state(EXAMPLE.stem, run_id)
        tries = cluster.tries(EXAMPLE.stem, run_id, "reindex")
        stored = {namespace: target.fingerprints(namespace) for namespace in written}

    assert state == "success"
    add_timeline(Timeline(f"the example {EXAMPLE.name}", tries))
    assert {one.worker for one in tries} == {DYING, SURVIVING}
    assert not [namespace for namespace in written if stored[namespace] != written[namespace]]
    total = cluster.output(EXAMPLE.stem, run_id, "summarize")
    assert total["taskCount"] == NAMESPACES
    assert total["newCount"] == total["upsertedCount"] == NAMESPACES * RECORDS
    assert [total[count] for count in ("changedCount", "unchangedCount", "rejectedCount", "deletedCount")] == [0] * 4


def test_two_workers_are_nearly_twice_as_fast_as_one(*, cluster, write_tenants, add_timeline):
    """
    Compare one worker and two in the same minute, from the first request to the last response.

    What takes time is the server's latency, so that the workers, and not this machine's cores, are what is added.
    """
    dag_id = "cluster_latency"
    write_tenants(WARM_UP_RECORDS)
    cluster.use_workers(DYING, SURVIVING)
    with running_target(cluster.target_port, dimension=DIMENSION):  # a worker's first task imports Airflow
        assert cluster.wait_for_run(dag_id, cluster.start_run(dag_id)) == "success"
    written = write_tenants(LATENCY_RECORDS)
    duration_s = {}
    for count, workers in ((2, [DYING, SURVIVING]), (1, [SURVIVING])):
        with running_target(cluster.target_port, dimension=DIMENSION, latency_s=LATENCY_S) as target:
            cluster.use_workers(*workers)
            run_id = cluster.start_run(dag_id)
            assert cluster.wait_for_run(dag_id, run_id) == "success"
            upserts = target.upserts()
            assert all(target.fingerprints(namespace) == written[namespace] for namespace in written)
        duration_s[count] = max(one.finished_s for one in upserts) - min(one.started_s for one in upserts)
        note = f"From the first request to the last response: {duration_s[count]:.1f} s."
        if count == 1:
            note += f" Two workers are {duration_s[1] / duration_s[2]:.2f} times as fast as one."
        title = f"{LATENCY_S * 1000:.0f} ms of latency, {count} worker{'s' * (count > 1)}"
        add_timeline(Timeline(title, cluster.tries(dag_id, run_id, "load"), notes=[note]))
    assert duration_s[1] / duration_s[2] >= MIN_SPEEDUP
