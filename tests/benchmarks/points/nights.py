"""Points 10 to 13: nights of reindexing, in which nothing, a little or everything has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from airflow_pinecone_upsert.api.cost import USD_PER_MILLION_WRITE_UNITS
from tests.benchmarks import chart
from tests.benchmarks.bench import Bench, Sample
from tests.benchmarks.process import Run, run
from tests.benchmarks.report import Figure, Section, Spread, Table, Target, range_of, shown
from tests.benchmarks.rules import Rules

UPSERT, OURS, LANGCHAIN = "upsert", "this project", "LangChain"
FIRST = "first night"
NOTHING, ONE_PERCENT, TEN_PERCENT = "0 % changed", "1 % changed", "10 % changed"
_EVERY = {FIRST: None, NOTHING: None, ONE_PERCENT: 100, TEN_PERCENT: 10}
"""By night, how many records there are for each one that has changed since the first night; None if none has."""

_AT_MOST_HALF_MORE = Target("≤", 1.5)
_AT_MOST_ITS_SHARE = Target("≤", 0.015)


@dataclass(frozen=True)
class Contender:
    """
    A program that remembers what it has sent.

    :param client: Its module and what comes before the path.
    :param option: The option that names where it remembers.
    :param file: The name of that in its folder; empty for the folder itself.
    """

    client: Sequence[object]
    option: str
    file: str = ""

    def command(self, path: Path, state: Path) -> list[object]:
        return [*self.client, path, self.option, state / self.file]


def nights(bench: Bench, rivals: Sequence[str] = (LANGCHAIN,)) -> Section:
    """
    50,000 records of 1536 float32 and metadata in one Parquet file. In the first night, the namespace and the manifest
    are empty. Then the same file again, and files in which every 100th or every 10th record has another vector and
    another title. Each run is a whole process on one core, imports included, and starts with what its first night has
    left. "upsert" is what the upsert operator does every night. LangChain is its `index()` with its `SQLRecordManager`
    on SQLite, `cleanup="full"` and 100 documents in a batch; its text is the title, its embeddings are those of the
    file and cost nothing. A changed text has another id there, so it is written, and the old one is deleted; what has
    changed in one batch of documents is one request. It compares no vectors, and verifies nothing. This project
    compares vectors and metadata, and fetches a sample of 100 records of each kind in the end; these fetches and the
    statistics are the other requests. Requests and bytes are those of upserts and deletions, bytes those of the bodies.
    The contenders run alternately; a ratio is the median of the ratios of each round.
    """
    records = bench.amount(50_000, 1_000)
    url, files = bench.index.url, bench.amount(8, 1)
    contenders = {OURS: Contender(["night", url], "--manifest")}
    if LANGCHAIN in rivals:
        contenders[LANGCHAIN] = Contender(["langchain_index", url], "--database", "records.sqlite")
    samples: dict[str, list[Sample]] = {}
    core = max(os.sched_getaffinity(0))
    for _ in range(bench.runs):
        path = bench.data(records=records, dimension=1_536, files=files) / "part-0.parquet"
        upsert = bench.measure(["ours", url, path, "--unpaced"], Rules(), records=records, core=core)
        samples.setdefault(UPSERT, []).append(upsert)
        for night, every in _EVERY.items():
            if every:
                path = bench.data(records=records, dimension=1_536, changed=every) / "part-0.parquet"
            sent = records if night == FIRST else records // every if every else 0
            for name, contender in contenders.items():
                state = _state(bench, name, night)
                rules = Rules(stored=str(path))
                found = bench.measure(contender.command(path, state), rules, records=sent, core=core)
                samples.setdefault(f"{name}, {night}", []).append(found)
    return Section((10,), "Nights", nights, _figures(samples, contenders), [_table(samples)])


def _state(bench: Bench, contender: str, night: str) -> Path:
    """Return a folder with what a contender remembers at the beginning of a night."""
    first, later = (bench.cache / f"{contender}-{kind}" for kind in ("first", "later"))
    if night == FIRST:
        shutil.rmtree(first, ignore_errors=True)
        first.mkdir()
        return first
    shutil.rmtree(later, ignore_errors=True)
    shutil.copytree(first, later)
    return later


def _figures(samples: Mapping[str, Sequence[Sample]], contenders: Mapping[str, Contender]) -> list[Figure]:
    figures = []
    for night in (NOTHING, ONE_PERCENT, TEN_PERCENT):
        ours = samples[f"{OURS}, {night}"]
        target = _AT_MOST_ITS_SHARE if night == ONE_PERCENT else None
        for what, amounts in {"requests": _requests, "bytes": _bytes}.items():
            ratio = median(amounts(ours)) / median(amounts(samples[UPSERT]))
            figures.append(Figure(f"{night}: {what} against an upsert", ratio, "share", target))
        for other in (UPSERT, *(f"{name}, {night}" for name in contenders if name != OURS)):
            spread = Spread.of(_cpu(ours), _cpu(samples[other]))
            note = f"{median(_cpu(ours)):.1f} s against {median(_cpu(samples[other])):.1f} s; {spread}"
            name = "an upsert" if other == UPSERT else LANGCHAIN
            figures.append(Figure(f"{night}: CPU against {name}", spread.ratio, "ratio", None, note))
    return figures


def _cpu(samples: Sequence[Sample]) -> list[float]:
    return [sample.run.cpu_s for sample in samples]


def _requests(samples: Sequence[Sample]) -> list[int]:
    return [len(sample.log.upserts) + sample.log.calls.get("/vectors/delete", 0) for sample in samples]


def _bytes(samples: Sequence[Sample]) -> list[int]:
    return [sample.log.body_bytes + sample.log.deletion_bytes for sample in samples]


def _table(samples: Mapping[str, Sequence[Sample]]) -> Table:
    head = ["", "CPU", "time", "peak memory", "requests", "bytes", "other requests"]
    return Table(head, [[name, *_row(runs)] for name, runs in samples.items()])


def _row(samples: Sequence[Sample]) -> list[str]:
    requests = median(_requests(samples))
    calls = median(sum(sample.log.calls.values()) + len(sample.log.upserts) for sample in samples)
    return [
        shown(median(_cpu(samples)), "seconds"),
        shown(median(sample.run.wall_s for sample in samples), "seconds"),
        shown(median(sample.run.peak_bytes for sample in samples), "megabytes"),
        shown(requests, "count"),
        shown(median(_bytes(samples)), "bytes"),
        shown(calls - requests, "count"),
    ]


def unchanged(bench: Bench) -> Section:
    """
    A night in which nothing has changed, against a bare loop that reads every value of the same files with Arrow and
    drops it (`tests/benchmarks/clients/plain_read.py`), on one core. CPU and memory are those of the whole process,
    minus those of the same program when it only imports its modules. 400,000 records of 1536 dimensions in eight
    files, and 500,000 of 64 dimensions in one, where ids and metadata are most of the work. Nothing is fetched in
    the end, which takes the same time for any number of records: point 10 includes it. The manifest takes
    25 bytes of memory a record, so both should need about the same memory, though their records differ in size.
    """
    few, many = bench.amount(50_000, 1_000), bench.amount(500_000, 5_000)
    wide = _Unchanged.measure(bench, bench.data(records=few, dimension=1_536, files=bench.amount(8, 1)), 1_536)
    small = _Unchanged.measure(bench, bench.data(records=many, dimension=64), 64)
    figures = [
        wide.figure(_AT_MOST_HALF_MORE),
        small.figure(_AT_MOST_HALF_MORE),
        Figure(
            "memory over imports, difference between these two",
            abs(wide.peak_bytes - small.peak_bytes),
            "megabytes",
            Target("≤", 10e6),
            f"{shown(wide.peak_bytes, 'megabytes')} against {shown(small.peak_bytes, 'megabytes')}",
        ),
    ]
    head = ["", "CPU of the night", "CPU of reading", "peak memory over imports"]
    return Section((11,), "An unchanged night", unchanged, figures, [Table(head, [wide.row, small.row])])


@dataclass(frozen=True)
class _Unchanged:
    """Nights without changes and plain reads, in turn; each without what importing takes."""

    dimension: int
    night_s: Sequence[float]
    read_s: Sequence[float]
    peak_bytes: float

    @classmethod
    def measure(cls, bench: Bench, folder: Path, dimension: int) -> _Unchanged:
        manifest = bench.cache / f"manifest-{dimension}"
        shutil.rmtree(manifest, ignore_errors=True)
        url, core = bench.index.url, max(os.sched_getaffinity(0))
        rules = Rules(dimension=dimension)
        night = ["night", url, folder, "--manifest", manifest, "--verify-sample", 0]
        bench.measure(night, rules)
        night_s, read_s, peaks = [], [], []
        for _ in range(bench.runs):
            imports, whole = (_one(core, "night", url), bench.measure(night, rules, records=0, core=core).run)
            night_s.append(whole.cpu_s - imports.cpu_s)
            peaks.append(whole.peak_bytes - imports.peak_bytes)
            read_s.append(_one(core, "plain_read", folder).cpu_s - _one(core, "plain_read").cpu_s)
        return cls(dimension, night_s, read_s, median(peaks))

    def figure(self, target: Target) -> Figure:
        spread = Spread.of(self.night_s, self.read_s)
        note = f"{median(self.night_s):.1f} s against {median(self.read_s):.1f} s; {spread}"
        return Figure(f"CPU against reading, {self.dimension} dimensions", spread.ratio, "ratio", target, note)

    @property
    def row(self) -> list[str]:
        times = [shown(median(seconds), "seconds") for seconds in (self.night_s, self.read_s)]
        return [f"{self.dimension} dimensions", *times, shown(self.peak_bytes, "megabytes")]


def _one(core: int, client: str, *arguments: object) -> Run:
    return run(f"clients.{client}", *arguments, core=core)


def manifest(bench: Bench) -> Section:
    """
    A manifest of 10 million records: it is loaded, each of its records is compared with it, 4,096 at a time, and after
    one new record it is compacted, as a night does. Nothing is read from a source: what that takes, point 11 shows.
    Memory is the largest resident set of the whole process with its imports. Loading and compaction are wall-clock time
    on one core.
    """
    records = bench.amount(10_000_000, 20_000)
    folder = bench.cache / "manifest-of-ids"
    shutil.rmtree(folder, ignore_errors=True)
    bench.say(f"writing a manifest of {records:,} records")
    run("clients.manifest", "make", folder, "--records", records)
    runs = []
    for _ in range(bench.runs):
        runs.append(_one(max(os.sched_getaffinity(0)), "manifest", "use", folder))
        bench.say(f"manifest: {runs[-1].output}")
    compared_s = [one.output["compare_s"] / one.output["records"] for one in runs]
    around_s = [one.output["load_s"] + one.output["compaction_s"] for one in runs]
    figures = [
        Figure(f"peak of {records:,} records", median(one.peak_bytes for one in runs), "megabytes", Target("≤", 600e6)),
        Figure(
            "comparison of a record",
            median(compared_s),
            "microseconds",
            Target("≤", 0.5e-6),
            range_of(compared_s, "microseconds"),
        ),
        Figure("loading and compaction", median(around_s), "seconds", Target("≤", 30), range_of(around_s, "seconds")),
    ]
    return Section((12,), "A large manifest", manifest, figures)


def cost(bench: Bench) -> Section:
    """
    What a night costs in write units, by the rule in `airflow_pinecone_upsert/api/cost.py`, and in USD at the price of
    the plan Standard. Each point is a dry run of 5,000 records of 1536 dimensions with metadata, scaled to a million
    records: files in which from none to all of the records have changed, everything sent into the same namespace
    (`full=True`), and everything sent into a fresh namespace. These are estimates: Pinecone does not say how it counts
    metadata and rounds.
    """
    records = bench.amount(5_000, 1_000)
    state = bench.cache / "manifest-for-cost"
    shutil.rmtree(state, ignore_errors=True)
    base = bench.data(records=records, dimension=1_536)

    def units(path: Path, folder: Path, *options: object) -> float:
        """Return the write units for a million records, in millions."""
        dry = ["night", bench.index.url, path, "--manifest", folder, "--dry-run", *options]
        return float(bench.measure(dry, Rules(), records=0).run.output["write_units"]) / records

    fresh = units(base, bench.cache / "no-manifest")
    bench.measure(["night", bench.index.url, base, "--manifest", state, "--verify-sample", 0], Rules(), records=records)
    rewritten = units(base, state, "--full")
    changed = {0.0: units(base, state)}
    for every in (100, 10, 1) if bench.quick else (100, 50, 20, 10, 5, 2, 1):
        path = bench.data(records=records, dimension=1_536, changed=every)
        changed[100 / every] = units(path, state)
    figures = [
        Figure(f"{share:g} % changed, against rewriting", value / rewritten, "share", None, _price(value))
        for share, value in changed.items()
    ]
    table = Table(
        ["of a million records", "write units", "cost"],
        [
            ["everything, in place", *_prices(rewritten)],
            ["everything, into a fresh namespace", *_prices(fresh)],
            *[[f"{share:g} % changed", *_prices(value)] for share, value in changed.items()],
        ],
    )
    svg = chart.lines(
        "A night of 1,000,000 records x 1536, by the share that has changed",
        "write units · USD",
        {
            "this project": ("ours", list(changed.items())),
            "rewrite in place": ("other", [(0.0, rewritten), (100.0, rewritten)]),
            "rewrite into a fresh namespace": ("allowed", [(0.0, fresh), (100.0, fresh)]),
        },
        x_label="{:.0f} %".format,
        y_label=lambda millions: f"{millions:.0f} M · {millions * USD_PER_MILLION_WRITE_UNITS:.0f} USD",
    )
    return Section((13,), "Cost", cost, figures, [table], {"cost.svg": svg})


def _prices(millions: float) -> tuple[str, str]:
    return f"{millions:.2f} M", f"{millions * USD_PER_MILLION_WRITE_UNITS:.2f} USD"


def _price(millions: float) -> str:
    return " = ".join(_prices(millions))
