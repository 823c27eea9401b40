"""
How long a load takes, what it costs, and how many tasks and cores keep up with Pinecone's limits: estimates, before a run.

The command ``python -m airflow_pinecone_upsert.capacity --records 100000000 --dimension 1536`` prints them.

Limits and prices are those of :mod:`airflow_pinecone_upsert.api`. What one core does, and how long a record is in a request,
was measured. A namespace is loaded by one task, which uses up to one core, so a load takes as long as the limits of a
namespace allow, or as this core needs, whichever is longer. The time of the network is not in it: requests in parallel hide
it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from airflow_pinecone_upsert.api.cost import USD_PER_MILLION_WRITE_UNITS, write_units
from airflow_pinecone_upsert.api.limits import (
    BYTES_PER_WRITE_UNIT,
    MAX_BYTES_PER_SECOND,
    MAX_DIMENSION,
    MAX_IMPORT_BYTES,
    MAX_IMPORT_NAMESPACES,
    MAX_METADATA_BYTES,
    MAX_RECORDS_PER_REQUEST,
    MAX_REQUEST_BYTES,
    MAX_REQUESTS_PER_SECOND,
    MIN_WRITE_UNITS_PER_REQUEST,
)
from airflow_pinecone_upsert.pipeline.wording import fact_lines, number_of

Transport = Literal["rest", "grpc"]

ID_BYTES: Final = 20
DEFAULT_METADATA_BYTES: Final = 500

IMPORT_SECONDS: Final = 600
"""What a bulk import takes at least (https://docs.pinecone.io/guides/index-data/import-data)."""

_SENT_S: Final[Mapping[Transport, tuple[float, float]]] = {"rest": (9.2e-6, 82e-6), "grpc": (8.7e-6, 45e-6)}
"""Of one core, for a record of 64 and of 1536 dimensions with metadata, imports included."""

_COMPARED_S: Final = (1.6e-6, 7e-6)
"""Likewise, for a record that reindexing reads and finds unchanged."""

_MEASURED_DIMENSIONS: Final = (64, 1_536)
"""Between them, and beyond, a straight line is good enough."""

_BYTES_PER_COMPONENT: Final[Mapping[Transport, float]] = {"rest": 12.5, "grpc": 4.0}
"""As shortest decimal text of a float32 with its comma, measured; as protobuf."""

_FRAME_BYTES: Final = 50
"""Of a record in a request: names, quotes and brackets, or tags and lengths."""


@dataclass(frozen=True)
class Load:
    """
    Records to be sent.

    :param records: How many there are.
    :param dimension: Of the dense vector of each.
    :param namespaces: In how many namespaces they are, evenly.
    :param metadata_bytes: Of each.
    :param changed: The share of them that is sent, above 0 and up to 1, because reindexing found it new or changed.
    :param overwrites: The records are in the index already. Else they are new.
    :param transport: ``rest`` or ``grpc``.
    :raises ValueError: A number is out of its range.
    """

    records: int
    dimension: int
    namespaces: int = 1
    metadata_bytes: int = DEFAULT_METADATA_BYTES
    changed: float = 1.0
    overwrites: bool = False
    transport: Transport = "rest"

    def __post_init__(self) -> None:
        """Check the numbers."""
        ranges = {
            "records": (1, 10**12),
            "dimension": (1, MAX_DIMENSION),
            "namespaces": (1, self.records),
            "metadata_bytes": (0, MAX_METADATA_BYTES),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name):,}. Choose {low:,} to {high:,}.")
        if not 0 < self.changed <= 1:
            raise ValueError(f"changed is {self.changed}. Choose a share above 0 and up to 1.")


@dataclass(frozen=True)
class Estimate:
    """
    What a load needs.

    :param sent: Records that are sent.
    :param record_bytes: Of one record, by the rule of Pinecone's prices.
    :param request_bytes: Of all records, as they are sent.
    :param requests: Each is filled up to the limits.
    :param seconds: With a task for each namespace, and enough cores.
    :param cores: That are enough.
    :param write_units: See :mod:`airflow_pinecone_upsert.api.cost`.
    :param usd: Their price.
    """

    sent: int
    record_bytes: int
    request_bytes: int
    requests: int
    seconds: float
    cores: float
    write_units: int
    usd: float

    def seconds_on(self, cores: float) -> float:
        """Return how long it takes on fewer cores than :attr:`cores`; with more it is not faster."""
        return self.seconds * max(1.0, self.cores / cores)


def estimate(load: Load, usd_per_million_write_units: float = USD_PER_MILLION_WRITE_UNITS) -> Estimate:
    """
    Estimate what a load needs.

    The rate of a namespace counts the bytes that are sent, which is the safe reading of Pinecone's limits: its documentation
    does not say whether JSON or binary size is meant. If it is the latter, REST is up to three times as fast as this.

    :param usd_per_million_write_units: The price of the account's plan.
    """
    sent = ceil(load.records * load.changed)
    wire_bytes = (
        ceil(_BYTES_PER_COMPONENT[load.transport] * load.dimension) + load.metadata_bytes + ID_BYTES + _FRAME_BYTES
    )
    per_request = max(1, min(MAX_RECORDS_PER_REQUEST, MAX_REQUEST_BYTES // wire_bytes))
    in_largest = ceil(sent / load.namespaces)
    cpu_s = sent * _on_line(load.dimension, *_SENT_S[load.transport])
    cpu_s += (load.records - sent) * _on_line(load.dimension, *_COMPARED_S)
    seconds = max(
        in_largest * wire_bytes / MAX_BYTES_PER_SECOND,
        ceil(in_largest / per_request) / MAX_REQUESTS_PER_SECOND,
        cpu_s / load.namespaces,
    )
    record_bytes = 4 * load.dimension + load.metadata_bytes + ID_BYTES
    requests = max(ceil(sent / per_request), min(sent, load.namespaces))
    written_bytes = sent * record_bytes
    units = write_units(written_bytes, written_bytes if load.overwrites else 0)
    units = max(units, MIN_WRITE_UNITS_PER_REQUEST * requests)
    return Estimate(
        sent=sent,
        record_bytes=record_bytes,
        request_bytes=sent * wire_bytes,
        requests=requests,
        seconds=seconds,
        cores=cpu_s / seconds,
        write_units=units,
        usd=units * usd_per_million_write_units / 1e6,
    )


def _on_line(dimension: int, small: float, large: float) -> float:
    low, high = _MEASURED_DIMENSIONS
    return max(0.0, small + (large - small) * (dimension - low) / (high - low))


def describe(load: Load, usd_per_million_write_units: float = USD_PER_MILLION_WRITE_UNITS) -> str:
    """Return the estimate as text, one fact a line."""
    found = estimate(load, usd_per_million_write_units)
    facts = {
        "records sent": f"{found.sent:,} of {load.records:,}, {found.record_bytes:,} bytes each by Pinecone's cost rule",
        "requests": f"{found.requests:,}, {shown_bytes(found.request_bytes)} in all",
        "time": f"{shown_time(found.seconds)}, with {number_of(min(ceil(found.cores), load.namespaces), 'task')} at a time",
        "cores": f"{found.cores:,.1f} for that; on one core {shown_time(found.seconds_on(1))}",
        "write units": f"{found.write_units:,}, {found.usd:,.2f} USD",
        "bulk import": _import_advice(load, found, usd_per_million_write_units),
    }
    return fact_lines(facts)


def _import_advice(load: Load, found: Estimate, usd_per_million_write_units: float) -> str:
    if load.overwrites:
        return "not possible: the namespaces of an import must be new"
    if found.sent * found.record_bytes > MAX_IMPORT_BYTES or load.namespaces > MAX_IMPORT_NAMESPACES:
        return (
            f"needs several: one takes at most {shown_bytes(MAX_IMPORT_BYTES)} and {MAX_IMPORT_NAMESPACES:,} namespaces"
        )
    per_gigabyte = usd_per_million_write_units * 1e9 / BYTES_PER_WRITE_UNIT / 1e6
    time = "may be faster" if found.seconds > IMPORT_SECONDS else "not faster: it takes at least 10 minutes"
    return f"{time}; it is cheaper if your plan's price of imports is below {per_gigabyte:,.2f} USD per GB"


def shown_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def shown_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print an estimate.

    :param arguments: The command line without the program name; by default ``sys.argv[1:]``.
    :return: The exit status: 0, or 2 if an argument is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m airflow_pinecone_upsert.capacity", description="Estimate time, cost and cores of a load."
    )
    parser.add_argument("--records", type=int, required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--namespaces", type=int, default=1, help="that share the records evenly (default: 1)")
    parser.add_argument(
        "--metadata-bytes", type=int, default=DEFAULT_METADATA_BYTES, help="of a record (default: %(default)s)"
    )
    parser.add_argument(
        "--changed",
        type=float,
        help="the share that is sent, 0.02 for a night that changes 2 %%; they overwrite others",
    )
    parser.add_argument("--transport", choices=("rest", "grpc"), default="rest", help="(default: rest)")
    parser.add_argument(
        "--usd-per-million-write-units",
        type=float,
        default=USD_PER_MILLION_WRITE_UNITS,
        help="the price of your plan (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        load = Load(
            records=options.records,
            dimension=options.dimension,
            namespaces=options.namespaces,
            metadata_bytes=options.metadata_bytes,
            changed=1.0 if options.changed is None else options.changed,
            overwrites=options.changed is not None,
            transport=options.transport,
        )
    except ValueError as exc:
        parser.error(str(exc))
    print(describe(load, options.usd_per_million_write_units))  # noqa: T201 - the output of a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
