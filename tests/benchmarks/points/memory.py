"""Point 4: memory that does not grow with the data."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.process import Service
from tests.benchmarks.report import Figure, Section, Table, Target, shown
from tests.benchmarks.rules import Rules

_LIMIT = Target("≤", 200e6)


def memory(bench: Bench) -> Section:
    """
    The largest resident set of the whole process, less that of the same program when it only imports (and makes a
    client). 1536 dimensions, 8 in flight, kept so by a server that answers in 100 ms and has no limits. Small: 20,000
    records, the median of three runs; large: 400,000 in eight files; then one file whose only row group holds 300,000
    (1.8 GB); then 100,000 from S3, where the program that only imports has s3fs, too. What the others need for 50,000
    stands in the table of point 1.
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

    def take(what: str, client: Sequence[object], records: int, baseline: int, runs: int = 1) -> float:
        samples = [bench.measure(client, rules, records=records) for _ in range(runs)]
        peak = median(sample.run.peak_bytes for sample in samples)
        in_flight = max(upsert.in_flight for sample in samples for upsert in sample.log.upserts)
        rows.append((what, int(peak), baseline, in_flight))
        return peak - baseline

    imports = bench.import_bytes("ours", url)
    few = take(f"{small:,} records", [*ours, wide / "part-0.parquet", "--records", small], small, imports, runs=3)
    everything = size * len(list(wide.iterdir()))
    many = take(f"{everything:,} records", [*ours, wide], everything, imports)
    single = take(f"one row group of {one:,}", [*ours, one_row_group], one, imports)
    with Service("s3", wide, "--delay", 0.05) as s3:
        paths = [f"bench/{path.name}" for path in sorted(wide.iterdir())[:2]]
        from_s3 = ["ours", url, *paths, "--s3", s3.url, "--unpaced"]
        remote = take("from S3", from_s3, size * len(paths), bench.import_bytes("ours", url, "--s3", s3.url))
    figures = [
        Figure(f"{small:,} records, over imports", few, "megabytes", _LIMIT),
        Figure(f"{everything:,} records, over imports", many, "megabytes", _LIMIT),
        Figure("difference of these two", max(few, many) / min(few, many) - 1, "share", Target("≤", 0.1)),
        Figure(f"one row group of {one:,}, over imports", single, "megabytes", _LIMIT),
        Figure(f"{size * len(paths):,} from S3, over imports", remote, "megabytes", _LIMIT),
    ]
    head = ["", "peak", "only imports", "most requests in flight"]
    table = Table(head, [[what, shown(p, "megabytes"), shown(b, "megabytes"), str(n)] for what, p, b, n in rows])
    return Section((4,), "Memory", memory, figures, [table])
