"""
``make bench``, or ``python -m tests.benchmarks``: measure the points of speed, memory and cost on this machine.

Requires Linux (``wait4``, ``/proc``), at least two cores and 8 GB of temporary disk space. All traffic stays on
127.0.0.1. The results of a complete run are written to ``tests/benchmarks/results``, those of a partial run to a
temporary folder.

The exit code is 1 if something could not be measured; a missed target is not a failure.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.points import airflow_share, latency, memory, namespaces, nights, pacing, throughput
from tests.benchmarks.process import CACHE, IndexService
from tests.benchmarks.report import Section, as_markdown, as_text, summary

RESULTS = Path(__file__).resolve().parent / "results"
NEEDED_BYTES = 8_000_000_000

MEASUREMENTS: Sequence[tuple[set[int], Callable[[Bench], Section]]] = (
    ({1, 2}, throughput.wide),
    ({3}, throughput.small),
    ({4}, memory.memory),
    ({5}, pacing.at_limit),
    ({6}, pacing.from_object_storage),
    ({7}, pacing.moving_limit),
    ({7}, pacing.shared_limit),
    ({8}, latency.latency),
    ({9}, airflow_share.rendering),
    ({9}, airflow_share.importing),
    ({10}, nights.nights),
    ({11}, nights.unchanged),
    ({12}, nights.manifest),
    ({13}, nights.cost),
    ({14}, namespaces.tenants),
)

_ALL = frozenset().union(*(numbers for numbers, _ in MEASUREMENTS))


def measure(bench: Bench, points: set[int]) -> tuple[list[Section], bool]:
    """Measure some points; return the results, and whether all of them could be measured."""
    sections, complete = [], True
    for numbers, measure_section in MEASUREMENTS:
        if not numbers & points:
            continue
        bench.say(f"points {sorted(numbers)}: {measure_section.__name__}")
        try:
            sections.append(measure_section(bench))
        except Exception:  # noqa: BLE001 - the other points can still be measured
            traceback.print_exc()
            complete = False
    return sections, complete


def write(sections: Sequence[Section], folder: Path, *, quick: bool, runs: int) -> None:
    """Write the report and its charts."""
    folder.mkdir(exist_ok=True)
    for section in sections:
        for name, svg in section.charts.items():
            (folder / name).write_text(svg, encoding="utf-8")
    (folder / "results.md").write_text(as_markdown(sections, quick=quick, runs=runs), encoding="utf-8")


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure the points of speed, memory and cost on this machine.")
    parser.add_argument(
        "--only", metavar="1,5", default=",".join(map(str, sorted(_ALL))), help="measure only these points"
    )
    parser.add_argument("--runs", type=int, help="runs of each contender (default: 3, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="use less data, to check that the benchmark works")
    parser.add_argument("--keep", action="store_true", help=f"keep the generated files in {CACHE}")
    arguments = parser.parse_args()
    runs = arguments.runs or (1 if arguments.quick else 3)
    points = {int(point) for point in arguments.only.split(",")}
    started_s = time.monotonic()

    def say(message: str) -> None:
        print(f"[{time.monotonic() - started_s:5.0f} s] {message}", file=sys.stderr, flush=True)

    CACHE.mkdir(exist_ok=True)
    if shutil.disk_usage(CACHE).free < NEEDED_BYTES:
        parser.error(f"{CACHE} needs {NEEDED_BYTES / 1e9:.0f} GB of free disk space. Set TMPDIR to another folder.")
    try:
        with IndexService() as index:
            sections, complete = measure(Bench(index, CACHE, runs, arguments.quick, say), points)
    finally:
        if not arguments.keep:
            shutil.rmtree(CACHE)
    is_full = complete and points >= _ALL and not arguments.quick
    folder = RESULTS if is_full else Path(tempfile.mkdtemp(prefix="bench-results-"))
    write(sections, folder, quick=arguments.quick, runs=runs)
    print(as_text(summary(sections)))
    print(f"\nFull report: {folder / 'results.md'}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
