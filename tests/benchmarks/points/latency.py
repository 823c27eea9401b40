"""Point 8: what the number of requests in flight makes of latency."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Figure, Section, Table, Target
from tests.benchmarks.rules import Rules

_LATENCIES_S = (0.02, 0.15, 0.6)
_CONCURRENCIES = (1, 2, 4, 8, 16, 32)
_RECORDS_PER_REQUEST = 103  # what fits into 2 MB at 1536 dimensions


def latency(bench: Bench) -> Section:
    """
    Records per second from the first read to the last answer, at 1536 dimensions, against a server without limits that
    answers after a fixed time; `max_concurrency` from 1 to 32 in turn, as many records as take some seconds; medians.
    More is not slower: the rate at 32, of the best one at this latency. What is possible is the lesser of
    `max_concurrency` requests per latency and the highest of all rates, which is the CPU's; at 20 ms, and few in
    flight, what a thread waits for the interpreter while another record is encoded is as long as an answer takes.
    """
    seconds = bench.amount(4, 1)
    most = bench.amount(50_000, 5_000)
    path = bench.data(records=most, dimension=1_536, files=bench.amount(8, 1)) / "part-0.parquet"
    ours = ["ours", bench.index.url, path, "--unpaced"]

    def rate(latency_s: float, concurrency: int) -> float:
        records = min(most, int(seconds * _bound(latency_s, concurrency)))
        client = [*ours, "--max-concurrency", concurrency, "--records", records]
        sample = bench.measure(client, Rules(latency_s=latency_s), records=records)
        return records / float(sample.run.said["duration_s"])

    rates: dict[float, list[float]] = {}
    for latency_s in _LATENCIES_S:
        in_turn = [[rate(latency_s, concurrency) for concurrency in _CONCURRENCIES] for _ in range(bench.runs)]
        rates[latency_s] = [median(of_one) for of_one in zip(*in_turn, strict=True)]
    fastest = max(max(line) for line in rates.values())
    useful = min(
        reached / min(fastest, _bound(latency_s, concurrency))
        for latency_s, line in rates.items()
        for concurrency, reached in zip(_CONCURRENCIES, line, strict=True)
    )
    lines = [(f"{latency_s * 1e3:.0f} ms", line) for latency_s, line in rates.items()]
    figures = [
        Figure("the least share of what is possible", useful, "share"),
        *(
            Figure(f"the rate at 32, of the best at {at}", line[-1] / max(line), "share", Target("≥", 0.95))
            for at, line in lines
        ),
    ]
    head = ["records/s at max_concurrency", *map(str, _CONCURRENCIES)]
    rows = [[at, *(f"{rate:,.0f}" for rate in line)] for at, line in lines]
    return Section((8,), "Latency", latency, figures, [Table(head, rows)])


def _bound(latency_s: float, concurrency: int) -> float:
    """Return the records per second that so many requests in flight can carry, if nothing else takes time."""
    return concurrency / latency_s * _RECORDS_PER_REQUEST
