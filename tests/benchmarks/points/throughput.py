"""Points 1 to 3: CPU, bytes and small vectors, compared with the SDK, the official operator and the floor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

from tests.benchmarks import chart
from tests.benchmarks.bench import Bench, Sample
from tests.benchmarks.report import Figure, Section, Spread, Table, Target, range_of, shown
from tests.benchmarks.rules import Rules

OURS, SDK, LIST, OFFICIAL, FLOOR = "this project", "SDK, from DataFrame", "SDK, upsert()", "official operator", "floor"
_SHOWN = (OURS, SDK, LIST, OFFICIAL, FLOOR)


def wide(bench: Bench) -> Section:
    """
    50,000 records of 1536 float32 and metadata in one Parquet file, from reading until acknowledged by a server that
    responds immediately and has no limits. Each contender is a whole process, imports included, that may use one core
    only; the server uses the others. The contenders run alternately, and a ratio is the median of the ratios of each
    round. The SDK and the operator send 100 records in a request, as in the SDK's documentation; at 1536 dimensions
    this is also the number that fits into 2 MB as shortest floats. This project finds that number automatically, with
    all checks on. The floor is a loop without checks: `tests/benchmarks/clients/floor.py`. Bytes are those of the
    bodies that the server received.
    """
    records = bench.amount(50_000, 5_000)
    path = bench.data(records=records, dimension=1_536, files=bench.amount(8, 1)) / "part-0.parquet"
    samples, cpu = _measure(bench, _contenders(bench, path, 100), Rules(), records)
    to_sdk, to_floor = Spread.of(cpu[OURS], cpu[SDK]), Spread.of(cpu[OURS], cpu[FLOOR])
    sizes = {name: _bytes_per_record(runs) for name, runs in samples.items()}
    figures = [
        Figure("CPU against the SDK", to_sdk.ratio, "ratio", Target("≤", 0.33), _against(cpu, SDK, to_sdk)),
        Figure("CPU against the floor", to_floor.ratio, "ratio", Target("≤", 1.2), _against(cpu, FLOOR, to_floor)),
        Figure(
            "bytes per record against the SDK",
            sizes[OURS] / sizes[SDK],
            "ratio",
            Target("≤", 0.62),
            f"{sizes[OURS]:,.0f} against {sizes[SDK]:,.0f}",
        ),
    ]
    title = f"{records:,} records x 1536, Parquet to acknowledged"
    return Section(
        (1, 2), "CPU and bytes", wide, figures, [_table(samples)], {"throughput.svg": _chart(title, samples)}
    )


def small(bench: Bench) -> Section:
    """
    500,000 records of 64 float32 and metadata, otherwise as before. The rate is measured from the first read to the
    last response, without imports. The SDK sends 100 records in a request, as in its documentation; `upsert()` and the
    others send 1,000, the most that Pinecone accepts.
    """
    records = bench.amount(500_000, 50_000)
    path = bench.data(records=records, dimension=64) / "part-0.parquet"
    clients = _contenders(bench, path, 1_000) | {SDK: ["sdk", "dataframe", bench.index.url, path, "--batch-size", 100]}
    samples, cpu = _measure(bench, clients, Rules(dimension=64), records)
    rates = [records / sample.run.output["duration_s"] for sample in samples[OURS]]
    to_sdk, to_list, to_floor = (Spread.of(cpu[OURS], cpu[other]) for other in (SDK, LIST, FLOOR))
    figures = [
        Figure("records/s on one core", median(rates), "records/s", Target("≥", 100_000), range_of(rates, "records/s")),
        Figure("CPU against the SDK", to_sdk.ratio, "ratio", Target("≤", 0.25), _against(cpu, SDK, to_sdk)),
        Figure("CPU against the SDK's upsert()", to_list.ratio, "ratio", None, _against(cpu, LIST, to_list)),
        Figure("CPU against the floor", to_floor.ratio, "ratio", None, _against(cpu, FLOOR, to_floor)),
    ]
    return Section((3,), "Small vectors", small, figures, [_table(samples)])


def _contenders(bench: Bench, path: object, batch_size: int) -> dict[str, list[object]]:
    """Return the contenders in the order in which they run: compared ones run one after the other."""
    url, size = bench.index.url, ("--batch-size", batch_size)
    return {
        SDK: ["sdk", "dataframe", url, path, *size],
        OURS: ["ours", url, path, "--unpaced"],
        FLOOR: ["floor", url, path, *size],
        LIST: ["sdk", "upsert", url, path, *size],
        OFFICIAL: ["official", url, path, *size],
    }


def _measure(
    bench: Bench, clients: Mapping[str, Sequence[object]], rules: Rules, records: int
) -> tuple[dict[str, list[Sample]], dict[str, list[float]]]:
    """Run each contender on one core. Return the samples, and the seconds of CPU of each."""
    core = max(os.sched_getaffinity(0))
    samples = bench.in_turn(clients, rules, runs=bench.runs, records=records, core=core)
    shown_order = {name: samples[name] for name in _SHOWN}
    return shown_order, {name: [sample.run.cpu_s for sample in runs] for name, runs in shown_order.items()}


def _bytes_per_record(samples: Sequence[Sample]) -> float:
    return median(sample.log.body_bytes / sample.log.records for sample in samples)


def _against(cpu: Mapping[str, Sequence[float]], other: str, spread: Spread) -> str:
    return f"{median(cpu[OURS]):.1f} s against {median(cpu[other]):.1f} s; {spread}"


def _table(samples: Mapping[str, Sequence[Sample]]) -> Table:
    head = ["", "CPU", "time", "peak memory", "bytes per record", "requests", "CPU of the server"]
    return Table(head, [[name, *_row(runs)] for name, runs in samples.items()])


def _row(samples: Sequence[Sample]) -> list[str]:
    return [
        shown(median(sample.run.cpu_s for sample in samples), "seconds"),
        shown(median(sample.run.wall_s for sample in samples), "seconds"),
        shown(median(sample.run.peak_bytes for sample in samples), "megabytes"),
        shown(_bytes_per_record(samples), "bytes"),
        shown(median(len(sample.log.upserts) for sample in samples), "count"),
        shown(median(sample.log.cpu_s for sample in samples), "seconds"),
    ]


def _chart(title: str, samples: Mapping[str, Sequence[Sample]]) -> str:
    rows = {name: _row(runs) for name, runs in samples.items()}
    values = {
        name: (
            median(sample.run.cpu_s for sample in runs),
            median(sample.run.peak_bytes for sample in runs),
            _bytes_per_record(runs),
        )
        for name, runs in samples.items()
    }
    panels = {
        heading: [(values[name][position], rows[name][cell]) for name in samples]
        for position, (heading, cell) in enumerate({"CPU": 0, "peak memory": 2, "bytes per record": 3}.items())
    }
    return chart.bars(title, list(samples), panels)
