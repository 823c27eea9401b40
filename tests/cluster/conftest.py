"""The cluster of these tests, and the timeline that they print and write in the end. Other selections leave them out."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.benchmarks import data

from .cluster import ROOT, Cluster
from .target import fingerprint
from .timeline import Timeline, as_svg

DIMENSION = 256
NAMESPACES = 16
Fingerprints = dict[str, dict[str, bytes]]
"""By namespace and id."""

TIMELINES = pytest.StashKey[list[Timeline]]()
EXAMPLE = ROOT / "example_dags" / "reindex_tenants.py"
CHART = ROOT / "build" / "cluster-timeline.svg"


def pytest_collection_modifyitems(config, items):
    """Leave these tests out unless they are asked for: they need PostgreSQL, Redis and Celery."""
    if "cluster" in config.option.markexpr:
        return
    asked_for = [item for item in items if item.get_closest_marker("cluster") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in asked_for])
    items[:] = asked_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start a cluster without workers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the end of `timeout`, or of a CI: then clean up, too
    cluster = Cluster([Path(__file__).with_name("dags") / "cluster_tenants.py", EXAMPLE])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def write_tenants(cluster) -> Callable[[int], Fingerprints]:
    """Write a folder for each namespace, with so many records, delete all manifests, and return what was written."""
    written: dict[int, Fingerprints] = {}

    def write(records: int) -> Fingerprints:
        shutil.rmtree(cluster.manifests, ignore_errors=True)
        if records not in written:  # it takes a while, and the next test may want the same
            written.clear()
            shutil.rmtree(cluster.embeddings, ignore_errors=True)
            written[records] = {}
            for number in range(NAMESPACES):
                path = cluster.embeddings / f"tenant-{number:02}" / "part-0.parquet"
                path.parent.mkdir(parents=True)
                data.write(path, data.batches(records, DIMENSION, seed=number))
                written[records][path.parent.name] = _fingerprints(path)
        return written[records]

    return write


def _fingerprints(path: Path) -> dict[str, bytes]:
    table = pq.read_table(path).combine_chunks()
    values = np.asarray(table["values"].combine_chunks().values).reshape(len(table), DIMENSION)
    rows = zip(table["id"].to_pylist(), values, table["metadata"].to_pylist(), strict=True)
    return {record_id: fingerprint(vector.tobytes(), metadata) for record_id, vector, metadata in rows}


@pytest.fixture
def add_timeline(request) -> Callable[[Timeline], None]:
    """Add a run to what is printed and written in the end."""
    return request.config.stash.setdefault(TIMELINES, []).append


def pytest_terminal_summary(terminalreporter, config):
    """Print the timelines, and write them to a file."""
    if not (timelines := config.stash.get(TIMELINES, [])):
        return
    terminalreporter.section("which worker held which task")
    for timeline in timelines:
        terminalreporter.write_line(timeline.as_text() + "\n")
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(as_svg(timelines))
    terminalreporter.write_line(f"Written to {CHART}.")
