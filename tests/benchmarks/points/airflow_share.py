"""Point 9: what Airflow does with the vectors before the task begins, and what a DAG file pays for the import."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.process import run
from tests.benchmarks.report import Figure, Section, Table, Target, shown
from tests.benchmarks.rules import Rules


def rendering(bench: Bench) -> Section:
    """
    A task returns 3000 x 1536 numbers, the next one upserts them, in a `dag.test()` on SQLite. Between render and
    execute: from the start of `render_template_fields` to the start of `execute`, less the time in which the XCom
    itself is pulled and parsed, which no operator can avoid. Memory: the largest resident set in that span, over that
    at the moment when the XCom was there.
    """
    records = bench.amount(3_000, 300)
    bench.index.set_rules(Rules())
    said = {
        name: run("clients.xcom", name, bench.index.url, "--records", records).said for name in ("ours", "official")
    }
    ours, theirs = said["ours"], said["official"]
    figures = [
        Figure(
            "between render and execute",
            ours["gap_s"],
            "seconds",
            Target("≤", 0.1),
            f"official: {theirs['gap_s']:.1f} s",
        ),
        Figure(
            "memory between render and execute",
            ours["gap_bytes"],
            "megabytes",
            Target("≤", 20e6),
            f"official: {shown(theirs['gap_bytes'], 'megabytes')}",
        ),
    ]
    rows = [
        [name, shown(one["pull_s"], "seconds"), shown(one["gap_s"], "seconds"), shown(one["gap_bytes"], "megabytes")]
        for name, one in (("this project", ours), ("official operator", theirs))
    ]
    table = Table(["", "XCom pulled in", "render to execute beyond that", "memory"], rows)
    return Section((9,), "Airflow's share", rendering, figures, [table])


def importing(bench: Bench) -> Section:
    """
    In a fresh process, after `DAG`, `BaseOperator` and `BaseHook` were imported from `airflow.sdk`: the time for
    `from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator`, and which of pyarrow, numpy, httpx and
    pydantic it brought in that Airflow had not. Medians; the official operator in turn.
    """
    runs = bench.amount(10, 3)
    names = ("ours", "official")
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            said[name].append(run("clients.imports", name).said)
    times = {name: [one["import_s"] for one in said[name]] for name in names}
    heavy = sorted({module for one in said["ours"] for module in one["heavy"]})
    figures = [
        Figure(
            "import beyond Airflow",
            median(times["ours"]),
            "seconds",
            Target("≤", 0.03),
            f"{min(times['ours']):.3f} to {max(times['ours']):.3f} s; official: {median(times['official']):.2f} s",
        ),
        Figure("heavy modules that it imports", len(heavy), "count", Target("≤", 0), ", ".join(heavy)),
    ]
    return Section((9,), "Import in a DAG file", importing, figures)
