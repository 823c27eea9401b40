"""Point 4: memory that does not grow with the data."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.process import Service
from tests.benchmarks.report import Figure, Section, Table, Target, shown
from tests.benchmarks.rules import Rules

_LIMIT = Target("≤", 200e6)
_FLAT = Target("≤", 0.1)


def memory(bench: Bench) -> Section:
    """
    The largest resident set of the whole process, minus that of the same program when it only imports its modules (and
    creates a client). 1536 dimensions, with 8 requests in flight because the server responds after 100 ms and has no
    limits. Small: 20,000 records, median of three runs. Large: 400,000 records in eight files. Then one file whose only
    row group has 300,000 records (1.8 GB), and 100,000 records from S3, where the program that only imports has s3fs,
    too; over gRPC, it has grpcio. The requests in flight alone are 8 times up to 4.2 MB, over gRPC 2 MB. The table of
    point 1 shows the memory that the other contenders need for 50,000 records.
    """
    size = bench.amount(50_000, 5_000)
    wide = bench.data(records=size, dimension=1_536, files=bench.amount(8, 1))
    small = bench.amount(20_000, 5_000)
    one = bench.amount(300_000, 30_000)
    one_row_group = bench.data(records=one, dimension=1_536, one_row_group=True)
    url = bench.index.url
    rules = Rules(latency_s=0.1)
    ours = ["ours", url, "--unpaced"]
    rows: list[tuple[str, int, int, int]] = []

    def measure(what: str, client: Sequence[object], records: int, baseline: int, runs: int = 1) -> float:
        samples = [bench.measure(client, rules, records=records) for _ in range(runs)]
        peak = median(sample.run.peak_bytes for sample in samples)
        in_flight = max(upsert.in_flight for sample in samples for upsert in sample.log.upserts)
        rows.append((what, int(peak), baseline, in_flight))
        return peak - baseline

    imports = bench.import_bytes("ours", url)
    few = measure(f"{small:,} records", [*ours, wide / "part-0.parquet", "--records", small], small, imports, runs=3)
    everything = size * len(list(wide.iterdir()))
    many = measure(f"{everything:,} records", [*ours, wide], everything, imports)
    single = measure(f"one row group of {one:,}", [*ours, one_row_group], one, imports)
    with Service("s3", wide, "--delay", 0.05) as s3:
        paths = [f"bench/{path.name}" for path in sorted(wide.iterdir())[:2]]
        from_s3 = ["ours", url, *paths, "--s3", s3.url, "--unpaced"]
        remote = measure("from S3", from_s3, size * len(paths), bench.import_bytes("ours", url, "--s3", s3.url))
    grpc = [*ours, "--grpc-port", bench.index.grpc_port]
    grpc_imports = bench.import_bytes(*grpc)
    few_grpc = measure(
        f"{small:,} records, gRPC", [*grpc, wide / "part-0.parquet", "--records", small], small, grpc_imports, runs=3
    )
    many_grpc = measure(f"{everything:,} records, gRPC", [*grpc, wide], everything, grpc_imports)
    figures = [
        Figure(f"{small:,} records, over imports", few, "megabytes", _LIMIT),
        Figure(f"{everything:,} records, over imports", many, "megabytes", _LIMIT),
        Figure("difference between these two", _difference(few, many), "share", _FLAT),
        Figure(f"one row group of {one:,}, over imports", single, "megabytes", _LIMIT),
        Figure(f"{size * len(paths):,} from S3, over imports", remote, "megabytes", _LIMIT),
        Figure(f"{small:,} records over gRPC, over imports", few_grpc, "megabytes", _LIMIT),
        Figure(f"{everything:,} records over gRPC, over imports", many_grpc, "megabytes", _LIMIT),
        Figure("difference between these two, gRPC", _difference(few_grpc, many_grpc), "share", _FLAT),
    ]
    head = ["", "peak", "only imports", "most requests in flight"]
    table = Table(head, [[what, shown(p, "megabytes"), shown(b, "megabytes"), str(n)] for what, p, b, n in rows])
    return Section((4,), "Memory", memory, figures, [table])


def _difference(one: float, other: float) -> float:
    return max(one, other) / min(one, other) - 1
