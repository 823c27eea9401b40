"""Point 8: how the number of requests in flight affects the rate at different latencies."""

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
    Records per second from the first read to the last response, at 1536 dimensions, with a server without limits that
    responds after a fixed time. `max_concurrency` goes from 1 to 32, with as many records as take a few seconds; the
    results are medians. The rate at 32, relative to the best rate at the same latency, shows that more concurrency is
    not slower. The possible rate is the lower of `max_concurrency` requests per latency and the highest of all rates,
    which the CPU limits. At 20 ms and with few requests in flight, a thread waits for the interpreter, while another
    record is encoded, about as long as for a response.
    """
    seconds = bench.amount(4, 1)
    max_records = bench.amount(50_000, 5_000)
    path = bench.data(records=max_records, dimension=1_536, files=bench.amount(8, 1)) / "part-0.parquet"
    ours = ["ours", bench.index.url, path, "--unpaced"]

    def rate(latency_s: float, concurrency: int) -> float:
        records = min(max_records, int(seconds * _bound(latency_s, concurrency)))
        client = [*ours, "--max-concurrency", concurrency, "--records", records]
        sample = bench.measure(client, Rules(latency_s=latency_s), records=records)
        return records / float(sample.run.output["duration_s"])

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
        Figure("lowest share of the possible rate", useful, "share"),
        *(
            Figure(f"rate at 32, relative to the best at {at}", line[-1] / max(line), "share", Target("≥", 0.95))
            for at, line in lines
        ),
    ]
    head = ["records/s at max_concurrency", *map(str, _CONCURRENCIES)]
    rows = [[at, *(f"{rate:,.0f}" for rate in line)] for at, line in lines]
    return Section((8,), "Latency", latency, figures, [Table(head, rows)])


def _bound(latency_s: float, concurrency: int) -> float:
    """Return the records per second that this many requests in flight can carry if only latency takes time."""
    return concurrency / latency_s * _RECORDS_PER_REQUEST
