"""Points 5 to 7: at the limit, from object storage, and when the limit changes or is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks import chart
from tests.benchmarks.bench import Bench, Sample
from tests.benchmarks.process import Log, Program, RunError, Service
from tests.benchmarks.report import Figure, Section, Table, Target, range_of, shown
from tests.benchmarks.rules import Dip, Rules, Upsert

BYTES_PER_SECOND = 50_000_000
REQUESTS_PER_SECOND = 100
_WARM_UP_S = 2.0
_SENDERS = [f"sender-{number}" for number in range(4)]
_HEAD = ["", "share of the allowance", "throttled", "records/s", "records accepted", "requests", "CPU", "time"]

LIMIT = Rules(latency_s=0.15, bytes_per_second=BYTES_PER_SECOND, requests_per_second=REQUESTS_PER_SECOND)
"""A server that has Pinecone's limits and responds after 150 ms."""


def at_limit(bench: Bench) -> Section:
    """
    The server allows 50 MB/s and 100 requests/s with token buckets that hold 0.25 s of that. It responds after 150 ms,
    and with 429 to requests above the limits. The share of the allowance is what was accepted from 2 s after the first
    request until the last one, relative to what was allowed in that time, in bytes or requests, depending on which is
    nearer to its limit. "Throttled" is the share of all requests that got a 429. First 1536 dimensions, where the limit
    on bytes applies, alternating with the SDK (100 records in a request), medians of up to three runs; then once with
    buckets that hold a whole second, which suit the SDK better. Then 64 dimensions with 200 records in a request, where
    the limit on requests applies; 100 requests/s at 150 ms are 15 requests in flight, so `max_concurrency` is 32.
    """
    url, runs = bench.index.url, min(3, bench.runs)
    records = bench.amount(30_000, 12_000)
    path = bench.data(records=records, dimension=1_536) / "part-0.parquet"
    ours, theirs = ["ours", url, path], ["sdk", "dataframe", url, path]
    full_second = replace(LIMIT, burst_s=1.0)
    many = bench.amount(200_000, 50_000)
    narrow = bench.data(records=many, dimension=64) / "part-0.parquet"
    narrow_ours = ["ours", url, narrow, "--batch-size", 200, "--max-concurrency", 32]
    rows: dict[str, list[Sample]] = {
        "bytes bound": [],
        "SDK, bytes bound": [],
        "with buckets of 1 s": [bench.measure(ours, full_second, records=records)],
        "SDK, with buckets of 1 s": [bench.measure(theirs, full_second)],
        "requests bound": [bench.measure(narrow_ours, replace(LIMIT, dimension=64), records=many) for _ in range(runs)],
    }
    for _ in range(runs):
        rows["bytes bound"].append(bench.measure(ours, LIMIT, records=records))
        rows["SDK, bytes bound"].append(bench.measure(theirs, LIMIT))
    figures = [
        *_figures("bytes bound", rows["bytes bound"], f"SDK: {_shares(rows['SDK, bytes bound'])}"),
        *_figures("requests bound", rows["requests bound"]),
        _reach_of_sdk("", rows["bytes bound"], rows["SDK, bytes bound"]),
        _reach_of_sdk(", with buckets of 1 s", rows["with buckets of 1 s"], rows["SDK, with buckets of 1 s"]),
    ]
    return Section((5,), "At the limit", at_limit, figures, [_table(rows)])


def _reach_of_sdk(what: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Figure:
    possible = BYTES_PER_SECOND * median(sample.log.records / sample.log.body_bytes for sample in ours)
    reached = median(_records_per_s(sample.log) for sample in theirs) / possible
    return Figure(f"the SDK's records/s, relative to the rate possible with shortest floats{what}", reached, "ratio")


def from_object_storage(bench: Bench) -> Section:
    """
    As point 5, with the file on an S3 server that waits 50 ms before it responds to a request
    (`tests/benchmarks/s3.py`). Time is measured from the first request to the index; reading before that does not
    count.
    """
    records = bench.amount(30_000, 12_000)
    folder = bench.data(records=records, dimension=1_536)
    with Service("s3", folder, "--delay", 0.05) as s3:
        client = ["ours", bench.index.url, "bench/part-0.parquet", "--s3", s3.url]
        samples = [bench.measure(client, LIMIT, records=records) for _ in range(min(3, bench.runs))]
    figures = _figures("from S3", samples)
    return Section((6,), "From object storage", from_object_storage, figures, [_table({"from S3": samples})])


def moving_limit(bench: Bench) -> Section:
    """
    As point 5, but 8 s after the first request the server's allowance falls to a fifth for 8 s. The share is that of
    the whole run, from the first request to the last. The rate has recovered at the start of the first second in which
    90 % of the full allowance is accepted. The SDK runs once under the same conditions, for the chart.
    """
    length_s = bench.amount(8, 3)
    dip = Dip(length_s, 2 * length_s, 0.2)
    rules = replace(LIMIT, dips=[dip])
    # 50,000 records are 970 MB: 400 before the dip, 80 in it, the rest after it.
    records = bench.amount(50_000, 20_000)
    path = bench.data(records=records, dimension=1_536, files=bench.amount(8, 1)) / "part-0.parquet"
    ours = bench.measure(["ours", bench.index.url, path], rules, records=records)
    theirs = bench.measure(["sdk", "dataframe", bench.index.url, path], rules)

    def share(log: Log) -> float:
        return _share(log.accepted, rules, 0, log.accepted[-1].at_s)

    figures = [
        Figure("share of the allowance", share(ours.log), "share", Target("≥", 0.85), f"SDK: {share(theirs.log):.1%}"),
        Figure("throttled", ours.log.throttled_share, "share", Target("≤", 0.03), f"SDK: {_throttled([theirs])}"),
        Figure("recovered after", _recovery_s(ours.log, dip), "seconds", Target("≤", 5)),
    ]
    charts = {"moving-limit.svg": _chart(rules, dip, ours.log, theirs.log)}
    table = _table({"this project": [ours], "SDK": [theirs]}, share)
    return Section((7,), "When the limit moves", moving_limit, figures, [table], charts)


def shared_limit(bench: Bench) -> Section:
    """
    Four processes with default limits upsert 40,000 records each into the namespace of point 5 at the same time. The
    share of the allowance is that of all of them together, from 2 s after the last process sent its first request until
    the first process ends; the rate of each sender is measured in the same period. "Throttled" is the share of all
    requests. How the allowance is distributed is partly random, so the table shows up to three runs, and the figures
    are their medians.
    """
    records = bench.amount(40_000, 8_000)
    path = bench.data(records=records, dimension=1_536) / "part-0.parquet"
    runs = [_share_limit(bench, path, records) for _ in range(min(3, bench.runs))]
    shares = [run.share for run in runs]
    throttled = [run.throttled for run in runs]
    unevenness = [run.unevenness for run in runs]
    most = "largest part of a sender, relative to the smallest"
    figures = [
        Figure("share of the allowance", median(shares), "share", Target("≥", 0.9), range_of(shares, "share")),
        Figure("throttled", median(throttled), "share", Target("≤", 0.05), range_of(throttled, "share")),
        Figure(most, median(unevenness), "ratio", Target("≤", 2), range_of(unevenness, "ratio")),
    ]
    head = ["", *_SENDERS, "all active for"]
    rows = [[f"run {number}", *run.accepted, shown(run.seconds, "seconds")] for number, run in enumerate(runs, 1)]
    return Section((7,), "Four senders", shared_limit, figures, [Table(head, rows)])


class _Shared(NamedTuple):
    """
    Several senders on one namespace.

    :param share: Share of the allowance that all of them used together.
    :param throttled: Share of all requests that were throttled.
    :param unevenness: The largest part of a sender, relative to the smallest.
    :param accepted: The rate of each sender, formatted.
    :param seconds: How long all of them were active.
    """

    share: float
    throttled: float
    unevenness: float
    accepted: list[str]
    seconds: float


def _share_limit(bench: Bench, path: Path, records: int) -> _Shared:
    bench.index.set_rules(LIMIT)
    with ExitStack() as stack:
        programs = [
            stack.enter_context(Program("clients.ours", bench.index.url, path, "--key", key)) for key in _SENDERS
        ]
        confirmed = sum(program.wait().output["confirmed"] for program in programs)
    log = bench.index.log()
    if {confirmed, log.records} != {len(_SENDERS) * records}:
        raise RunError(f"{confirmed:,} records were confirmed, but {log.records:,} were accepted.")
    by_key = [[upsert for upsert in log.accepted if upsert.key == key] for key in _SENDERS]
    start_s = max(upserts[0].at_s for upserts in by_key) + _WARM_UP_S
    end_s = min(upserts[-1].at_s for upserts in by_key)
    if start_s >= end_s:
        raise RunError(f"The senders did not overlap: the first one ended after {end_s:.1f} s.")
    parts = [sum(upsert.body_bytes for upsert in upserts if start_s < upsert.at_s <= end_s) for upserts in by_key]
    return _Shared(
        _share(log.accepted, LIMIT, start_s, end_s),
        log.throttled_share,
        max(parts) / max(1, min(parts)),
        [shown(part / (end_s - start_s), "megabytes") + "/s" for part in parts],
        end_s - start_s,
    )


def _share(upserts: Iterable[Upsert], rules: Rules, start_s: float, end_s: float) -> float:
    """Return the share of the allowance that was used between two moments: of bytes or requests, the larger one."""
    taken = [upsert.body_bytes for upsert in upserts if start_s <= upsert.at_s <= end_s]
    seconds = rules.full_rate_s(start_s, end_s)
    return max(sum(taken) / BYTES_PER_SECOND, len(taken) / REQUESTS_PER_SECOND) / seconds


def _settled_share(log: Log) -> float:
    return _share(log.accepted, LIMIT, _WARM_UP_S, log.accepted[-1].at_s)


def _records_per_s(log: Log) -> float:
    return log.records / log.accepted[-1].at_s


def _throttled(samples: Sequence[Sample]) -> str:
    return f"{median(sample.log.throttled_share for sample in samples):.1%} throttled"


def _shares(samples: Sequence[Sample]) -> str:
    return f"{median(_settled_share(sample.log) for sample in samples):.1%} of the allowance, {_throttled(samples)}"


def _figures(what: str, samples: Sequence[Sample], note: str = "") -> list[Figure]:
    shares = [_settled_share(sample.log) for sample in samples]
    throttled = [sample.log.throttled_share for sample in samples]
    return [
        Figure(f"share of the allowance, {what}", median(shares), "share", Target("≥", 0.97), note),
        Figure(f"throttled, {what}", median(throttled), "share", Target("≤", 0.01), f"at most {max(throttled):.1%}"),
    ]


def _recovery_s(log: Log, dip: Dip) -> float:
    """Return the seconds from the end of the dip to the first second with 90 % of the full rate, or to the last upsert."""
    after = [upsert for upsert in log.accepted if upsert.at_s >= dip.end_s]
    for first in after:
        second = [upsert.body_bytes for upsert in after if first.at_s <= upsert.at_s < first.at_s + 1]
        if sum(second) >= 0.9 * BYTES_PER_SECOND:
            return first.at_s - dip.end_s
    return log.accepted[-1].at_s - dip.end_s


def _table(rows: Mapping[str, Sequence[Sample]], share: Callable[[Log], float] = _settled_share) -> Table:
    return Table(_HEAD, [[name, *_row(samples, share)] for name, samples in rows.items()])


def _row(samples: Sequence[Sample], share: Callable[[Log], float]) -> list[str]:
    return [
        shown(median(share(sample.log) for sample in samples), "share"),
        shown(median(sample.log.throttled_share for sample in samples), "share"),
        shown(median(_records_per_s(sample.log) for sample in samples), "records/s"),
        shown(median(sample.log.records for sample in samples), "count"),
        shown(median(len(sample.log.upserts) for sample in samples), "count"),
        shown(median(sample.run.cpu_s for sample in samples), "seconds"),
        shown(median(sample.run.wall_s for sample in samples), "seconds"),
    ]


def _chart(rules: Rules, dip: Dip, ours: Log, theirs: Log) -> str:
    end_s = int(max(ours.accepted[-1].at_s, theirs.accepted[-1].at_s)) + 1
    possible = BYTES_PER_SECOND * ours.records / ours.body_bytes
    moments = [0, dip.start_s, dip.end_s, end_s]
    allowed = [(start, possible * rules.full_rate_s(start, start + 0.001) * 1_000) for start in moments]
    return chart.lines(
        "Records accepted while the allowance falls to a fifth and comes back",
        "records/s",
        {
            "allowed, in shortest floats": ("allowed", chart.stairs(allowed)),
            "this project": ("ours", _rates(ours)),
            "SDK": ("other", _rates(theirs)),
        },
    )


def _rates(log: Log) -> list[tuple[float, float]]:
    """Sum the accepted records of each second."""
    seconds = Counter[int]()
    for upsert in log.accepted:
        seconds[int(upsert.at_s)] += upsert.records
    return [(second + 0.5, seconds[second]) for second in range(int(log.accepted[-1].at_s))]
