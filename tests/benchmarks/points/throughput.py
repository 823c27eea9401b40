"""Points 1 to 3: CPU, bytes and small vectors, compared with the SDK, the official operator and the floors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median

from tests.benchmarks import chart
from tests.benchmarks.bench import Bench, Sample
from tests.benchmarks.process import run
from tests.benchmarks.report import Figure, Section, Spread, Table, Target, range_of, shown
from tests.benchmarks.rules import Rules

OURS, SDK, OFFICIAL, FLOOR = "this project", "SDK, from DataFrame", "official operator", "floor"
OURS_GRPC, SDK_GRPC, FLOOR_GRPC = (f"{name}, gRPC" for name in (OURS, SDK, FLOOR))
_SHOWN = (OURS, OURS_GRPC, SDK, SDK_GRPC, OFFICIAL, FLOOR, FLOOR_GRPC)
_COMPONENT_BYTES = 4

_NEAR_THE_FLOOR = Target("≤", 1.05)


def wide(bench: Bench) -> Section:
    """
    50,000 records of 1536 float32 and metadata in one Parquet file, from reading until acknowledged by a server that
    responds immediately and has no limits. Each contender is a whole process, imports included, that may use one core
    only; the server uses the others. The contenders run alternately, and a ratio is the median of the ratios of each
    round. The SDK and the operator send 100 records in a request, as in the SDK's documentation, also of its gRPC
    client; over REST, this is also the number that fits into 2 MB as shortest floats. This project finds the number
    automatically, with all checks on. The floors are loops without checks, `tests/benchmarks/clients/floor.py` for REST
    and `floor_grpc.py` for gRPC; beside a ratio is what it would be for the floor. Bytes are those of the bodies, or
    messages, that the server received. Over gRPC the components alone are 4 bytes each. The second table says where this
    project's CPU time goes: imports, and reading and encoding on their own (`tests/benchmarks/clients/stages.py`); what is
    left of the whole is sending, in threads, and tracking what was confirmed.
    """
    dimension, records = 1_536, bench.amount(50_000, 5_000)
    path = bench.data(records=records, dimension=dimension, files=bench.amount(8, 1)) / "part-0.parquet"
    samples = _measure(bench, _contenders(bench, path, batch_size=100, grpc_floor=300), Rules(), records)
    sizes = {name: _bytes_per_record(runs) for name, runs in samples.items()}
    components = shown(_COMPONENT_BYTES * dimension, "bytes")
    figures = [
        _cpu(samples, OURS, FLOOR, "CPU against the floor", _NEAR_THE_FLOOR),
        _cpu_without_imports(bench, samples),
        _cpu(samples, OURS, SDK, "CPU against the SDK"),
        Figure(
            "bytes per record against the SDK",
            sizes[OURS] / sizes[SDK],
            "ratio",
            Target("≤", 0.62),
            f"{sizes[OURS]:,.0f} against {sizes[SDK]:,.0f}",
        ),
        *_grpc_figures(samples, Target("≤", 0.13), Target("≤", 0.30), Target("≤", 0.33)),
        Figure("bytes per record, gRPC", sizes[OURS_GRPC], "bytes", Target("≤", 6_330), f"components: {components}"),
    ]
    title = f"{records:,} records x 1536, Parquet to acknowledged"
    tables = [_table(samples), _stages(bench, samples, path, dimension)]
    return Section((1, 2), "CPU and bytes", wide, figures, tables, {"throughput.svg": _chart(title, samples)})


def small(bench: Bench) -> Section:
    """
    500,000 records of 64 float32 and metadata, otherwise as before. The rate is measured from the first read to the
    last response, without imports. Each contender sends 1,000 records in a request, the most that Pinecone accepts.
    """
    dimension, records = 64, bench.amount(500_000, 50_000)
    path = bench.data(records=records, dimension=dimension) / "part-0.parquet"
    samples = _measure(
        bench, _contenders(bench, path, batch_size=1_000, grpc_floor=1_000), Rules(dimension=64), records
    )
    figures = [
        _rate(samples, OURS, FLOOR, "records/s on one core", Target("≥", 100_000)),
        _cpu(samples, OURS, FLOOR, "CPU against the floor", _NEAR_THE_FLOOR),
        _cpu_without_imports(bench, samples),
        _cpu(samples, OURS, SDK, "CPU against the SDK"),
        _rate(samples, OURS_GRPC, FLOOR_GRPC, "records/s on one core, gRPC", Target("≥", 250_000)),
        *_grpc_figures(samples),
    ]
    tables = [_table(samples), _stages(bench, samples, path, dimension)]
    return Section((3,), "Small vectors", small, figures, tables)


def _contenders(bench: Bench, path: object, *, batch_size: int, grpc_floor: int) -> dict[str, list[object]]:
    """
    Return the contenders in the order in which they run: compared ones run one after the other.

    :param batch_size: Records in a request, but for this project, and for the floor of gRPC.
    :param grpc_floor: Records in a request of the floor of gRPC: about as many as fit into 2 MB.
    """
    url, port, size = bench.index.url, bench.index.grpc_port, ("--batch-size", batch_size)
    return {
        SDK: ["sdk", "dataframe", url, path, *size],
        OURS: ["ours", url, path, "--unpaced"],
        FLOOR: ["floor", url, path, *size],
        FLOOR_GRPC: ["floor_grpc", port, path, "--batch-size", grpc_floor],
        OURS_GRPC: ["ours", url, path, "--unpaced", "--grpc-port", port],
        SDK_GRPC: ["sdk", "grpc", f"http://127.0.0.1:{port}", path, *size],
        OFFICIAL: ["official", url, path, *size],
    }


def _grpc_figures(
    samples: Mapping[str, Sequence[Sample]],
    sdk: Target | None = None,
    sdk_grpc: Target | None = None,
    rest: Target | None = None,
) -> list[Figure]:
    """Compare the CPU of this project over gRPC with that of the others."""
    return [
        _cpu(samples, OURS_GRPC, SDK, "CPU, gRPC against the SDK over REST", sdk),
        _cpu(samples, OURS_GRPC, SDK_GRPC, "CPU, gRPC against the SDK over gRPC", sdk_grpc),
        _cpu(samples, OURS_GRPC, OURS, "CPU, gRPC against REST", rest),
        _cpu(samples, OURS_GRPC, FLOOR_GRPC, "CPU, gRPC against its floor"),
    ]


def _measure(
    bench: Bench, clients: Mapping[str, Sequence[object]], rules: Rules, records: int
) -> dict[str, list[Sample]]:
    """Run each contender on one core, and return the samples in the order of the tables."""
    samples = bench.in_turn(clients, rules, runs=bench.runs, records=records, core=_core())
    return {name: samples[name] for name in _SHOWN}


def _cpu(
    samples: Mapping[str, Sequence[Sample]], one: str, other: str, what: str, target: Target | None = None
) -> Figure:
    """Compare the CPU time of two contenders. The floor's is the limit of the ratio to any other."""
    ours, theirs = ([sample.run.cpu_s for sample in samples[name]] for name in (one, other))
    spread = Spread.of(ours, theirs)
    note = f"{shown(median(ours), 'seconds')} against {shown(median(theirs), 'seconds')}; {spread}"
    floor = FLOOR_GRPC if one == OURS_GRPC else FLOOR
    if other != floor:
        limit = Spread.of([sample.run.cpu_s for sample in samples[floor]], theirs)
        note += f"; the floor: {shown(limit.ratio, 'ratio')}"
    return Figure(what, spread.ratio, "ratio", target, note)


def _cpu_without_imports(bench: Bench, samples: Mapping[str, Sequence[Sample]]) -> Figure:
    """Compare what grows with the data. Inside of Airflow, most of what this project imports is loaded already."""
    url = bench.index.url
    import_s = {OURS: _import_s(bench, ["ours", url]), FLOOR: _import_s(bench, ["floor", url])}
    ours, floor = ([sample.run.cpu_s - import_s[name] for sample in samples[name]] for name in (OURS, FLOOR))
    spread = Spread.of(ours, floor)
    note = f"{shown(median(ours), 'seconds')} against {shown(median(floor), 'seconds')}; {spread}"
    return Figure("CPU against the floor, both without imports", spread.ratio, "ratio", None, note)


def _rate(samples: Mapping[str, Sequence[Sample]], one: str, floor: str, what: str, target: Target) -> Figure:
    """Report the rate of a contender, without imports, next to that of its floor."""
    rates, limits = (
        [sample.log.records / sample.run.output["duration_s"] for sample in samples[name]] for name in (one, floor)
    )
    note = f"{range_of(rates, 'records/s')}; the floor: {shown(median(limits), 'records/s')}"
    return Figure(what, median(rates), "records/s", target, note)


def _bytes_per_record(samples: Sequence[Sample]) -> float:
    return median(sample.log.body_bytes / sample.log.records for sample in samples)


def _table(samples: Mapping[str, Sequence[Sample]]) -> Table:
    head = ["", "CPU", "time", "peak memory", "bytes per record", "requests", "CPU of the server"]
    return Table(head, [[name, *_row(runs)] for name, runs in samples.items()])


def _stages(bench: Bench, samples: Mapping[str, Sequence[Sample]], path: object, dimension: int) -> Table:
    """Say where the CPU time of this project goes."""
    rows = []
    for name, transport, client in (
        (OURS, "rest", ["ours", bench.index.url]),
        (OURS_GRPC, "grpc", ["ours", bench.index.url, "--grpc-port", bench.index.grpc_port]),
    ):
        stages = [transport, path, "--dimension", dimension]
        outputs = [run("clients.stages", *stages, core=_core()).output for _ in range(bench.runs)]
        import_s = _import_s(bench, client)
        read_s, encode_s = (median(output[stage] for output in outputs) for stage in ("read_s", "encode_s"))
        whole_s = median(sample.run.cpu_s for sample in samples[name])
        parts_s = (import_s, read_s, encode_s, max(0.0, whole_s - import_s - read_s - encode_s))
        rows.append([name, *(shown(part_s, "seconds") for part_s in parts_s)])
    return Table(["CPU", "imports", "reading", "checks and encoding", "sending and tracking"], rows)


def _import_s(bench: Bench, client: Sequence[object]) -> float:
    """Return the CPU time of a client that only imports its modules."""
    return median(run(f"clients.{client[0]}", *client[1:], core=_core()).cpu_s for _ in range(bench.runs))


def _core() -> int:
    return max(os.sched_getaffinity(0))


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
    return chart.bars(title, list(samples), panels, ours=2)
