"""Point 14: a column that names the namespace of each record."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.bench import Bench, Sample
from tests.benchmarks.report import Figure, Section, Spread, Table, shown
from tests.benchmarks.rules import Rules

TENANTS = 300
ONE, SORTED, SHUFFLED = "one namespace", "sorted by tenant", "shuffled"


def tenants(bench: Bench) -> Section:
    """
    600,000 records of 256 float32 and metadata in one Parquet file, whose column names one of 300 tenants for each record:
    2,000 records a tenant, sorted by tenant, or in random order, so that records wait in the window of 32 MB for others of
    their namespace. "One namespace" is the sorted file without `namespace_column`. The server has no limits. Whole processes,
    imports included; memory is the peak minus that of the same program when it only imports its modules. The contenders run
    alternately; a ratio is the median of the ratios of each round.
    """
    records = bench.amount(TENANTS * 2_000, TENANTS * 20)
    by_order = {
        SORTED: bench.data(records=records, dimension=256, tenants=TENANTS),
        SHUFFLED: bench.data(records=records, dimension=256, tenants=TENANTS, shuffled=True),
    }
    url = bench.index.url
    clients = {ONE: ["ours", url, by_order[SORTED], "--unpaced"]}
    for order, folder in by_order.items():
        clients[order] = ["ours", url, folder, "--unpaced", "--namespace-column", "tenant"]
    samples = bench.in_turn(clients, Rules(dimension=256), runs=bench.runs, records=records)
    imports = bench.import_bytes("ours", url)
    figures = []
    for order in by_order:
        spread = Spread.of(_seconds(samples[order]), _seconds(samples[ONE]))
        figures.append(Figure(f"{order}: time against one namespace", spread.ratio, "ratio", None, str(spread)))
    head = ["", "requests", "records/s", "CPU", "peak memory over imports"]
    table = Table(head, [[name, *_row(runs, records, imports)] for name, runs in samples.items()])
    return Section((14,), "Many namespaces", tenants, figures, [table])


def _seconds(samples: Sequence[Sample]) -> list[float]:
    return [sample.run.wall_s for sample in samples]


def _row(samples: Sequence[Sample], records: int, imports: int) -> list[str]:
    return [
        shown(median(len(sample.log.upserts) for sample in samples), "count"),
        shown(records / median(_seconds(samples)), "records/s"),
        shown(median(sample.run.cpu_s for sample in samples), "seconds"),
        shown(median(sample.run.peak_bytes for sample in samples) - imports, "megabytes"),
    ]
