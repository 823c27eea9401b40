"""Point 9: the time that Airflow spends on the vectors before the task starts, and the import time of a DAG file."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.process import run
from tests.benchmarks.report import Figure, Section, Table, Target, shown
from tests.benchmarks.rules import Rules


def rendering(bench: Bench) -> Section:
    """
    One task returns 3000 x 1536 numbers and the next one upserts them, in a `dag.test()` on SQLite. "Between render and
    execute" is the time from the start of `render_template_fields` to the start of `execute`, without the time in which
    the XCom is pulled and parsed, which no operator can avoid. Memory is the increase of the largest resident set in
    that period, starting when the XCom was pulled.
    """
    records = bench.amount(3_000, 300)
    bench.index.set_rules(Rules())
    outputs = {
        name: run("clients.xcom", name, bench.index.url, "--records", records).output for name in ("ours", "official")
    }
    ours, official = outputs["ours"], outputs["official"]
    figures = [
        Figure(
            "between render and execute",
            ours["gap_s"],
            "seconds",
            Target("≤", 0.1),
            f"official: {official['gap_s']:.1f} s",
        ),
        Figure(
            "memory between render and execute",
            ours["gap_bytes"],
            "megabytes",
            Target("≤", 20e6),
            f"official: {shown(official['gap_bytes'], 'megabytes')}",
        ),
    ]
    rows = [
        [name, shown(one["pull_s"], "seconds"), shown(one["gap_s"], "seconds"), shown(one["gap_bytes"], "megabytes")]
        for name, one in (("this project", ours), ("official operator", official))
    ]
    table = Table(["", "XCom pulled in", "render to execute without that", "memory"], rows)
    return Section((9,), "Airflow's share", rendering, figures, [table])


def importing(bench: Bench) -> Section:
    """
    The time of `from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator` in a new process that has
    already imported `DAG`, `BaseOperator` and `BaseHook` from `airflow.sdk`, and the heavy modules (pyarrow, numpy,
    httpx, pydantic and others) that this import loads and Airflow has not loaded. Medians of alternating runs with the
    official operator.
    """
    runs = bench.amount(10, 3)
    names = ("ours", "official")
    outputs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            outputs[name].append(run("clients.imports", name).output)
    times = {name: [one["import_s"] for one in outputs[name]] for name in names}
    heavy = sorted({module for one in outputs["ours"] for module in one["heavy"]})
    figures = [
        Figure(
            "import time beyond Airflow",
            median(times["ours"]),
            "seconds",
            Target("≤", 0.03),
            f"{min(times['ours']):.3f} to {max(times['ours']):.3f} s; official: {median(times['official']):.2f} s",
        ),
        Figure("heavy modules imported", len(heavy), "count", Target("≤", 0), ", ".join(heavy)),
    ]
    return Section((9,), "Import in a DAG file", importing, figures)
