"""Figures, whether they meet their targets, and the report that lists them."""

from __future__ import annotations

import inspect
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

Unit = Literal["ratio", "share", "seconds", "bytes", "megabytes", "records/s", "microseconds", "count"]

_PACKAGES = (
    "airflow-pinecone-upsert",
    "pinecone",
    "apache-airflow-providers-pinecone",
    "langchain-classic",
    "apache-airflow",
)
_LIBRARIES = ("pyarrow", "numpy", "orjson", "grpcio", "xxhash", "httpx", "pandas", "s3fs")


class Target(NamedTuple):
    """
    The condition that a figure must meet.

    :param sign: ``≤`` or ``≥``.
    :param bound: The bound, in the figure's unit.
    """

    sign: Literal["≤", "≥"]
    bound: float

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.sign == "≤" else value >= self.bound


@dataclass(frozen=True)
class Figure:
    """
    One measured number.

    :param what: What was measured.
    :param value: The value, in its unit.
    :param unit: How the value is formatted.
    :param target: The condition to meet; None if there is none.
    :param note: The spread, and values to compare with.
    """

    what: str
    value: float
    unit: Unit
    target: Target | None = None
    note: str = ""

    @property
    def is_missed(self) -> bool:
        return self.target is not None and not self.target.is_met(self.value)


@dataclass(frozen=True)
class Table:
    """Rows of text below a header row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Section:
    """
    The result of measuring one or more points.

    :param points: The numbers of the points.
    :param title: A short title.
    :param measured_by: The function that measured it; its docstring says how.
    :param figures: Figures with and without targets.
    :param tables: The numbers that the figures are based on.
    :param charts: SVG by file name.
    """

    points: Sequence[int]
    title: str
    measured_by: Callable[..., Section]
    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    charts: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return f"{' and '.join(map(str, self.points))}. {self.title}"


class Spread(NamedTuple):
    """
    How two contenders compare over interleaved runs. Ratios are taken run by run, because the speed of a shared machine
    varies over time, for both of them.

    :param ratio: The median of the ratios.
    :param least: The lowest ratio.
    :param most: The highest ratio.
    """

    ratio: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Spread:
        pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
        return cls(median(pairs), min(pairs), max(pairs))

    def __str__(self) -> str:
        return f"{self.least:.2f} to {self.most:.2f} run by run"


_FORMATS: Mapping[Unit, Callable[[float], str]] = {
    "ratio": "{:.2f}".format,
    "share": "{:.1%}".format,
    "seconds": lambda value: f"{value:.3f} s" if value < 1 else f"{value:.1f} s",
    "bytes": "{:,.0f} B".format,
    "megabytes": lambda value: f"{value / 1e6:,.0f} MB",
    "records/s": "{:,.0f} records/s".format,
    "microseconds": lambda value: f"{value * 1e6:.2f} µs",
    "count": "{:,.0f}".format,
}


def shown(value: float, unit: Unit) -> str:
    """Format a number with its unit."""
    return _FORMATS[unit](value)


def range_of(values: Sequence[float], unit: Unit) -> str:
    """Format the lowest and the highest value of several runs."""
    return f"{shown(min(values), unit)} to {shown(max(values), unit)} run by run"


def summary(sections: Sequence[Section]) -> Table:
    """Put all figures into one table."""
    rows = [
        [
            f"{section.head}: {figure.what}",
            f"{figure.target.sign} {shown(figure.target.bound, figure.unit)}" if figure.target else "",
            f"**{shown(figure.value, figure.unit)}**",
            "" if not figure.target else "**missed**" if figure.is_missed else "met",
            figure.note,
        ]
        for section in sections
        for figure in section.figures
    ]
    return Table(["what", "target", "measured", "", "for comparison"], rows)


def machine() -> str:
    """Describe the machine and the versions of the packages."""
    cpu_info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", cpu_info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = ", ".join(f"{name} {version(name)}" for name in (*_PACKAGES, *_LIBRARIES))
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else platform.machine()}), "
        f"{memory / 2**30:.0f} GiB of memory, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {versions}."
    )


def as_markdown(sections: Sequence[Section], *, quick: bool, runs: int) -> str:
    """Format the whole report."""
    extent = "a quick run with less data, whose figures are not meaningful" if quick else "a complete run"
    parts = [
        "# Benchmarks",
        f"Written by `make bench`: {extent}. Medians are those of {runs} alternating runs of each contender.",
        machine(),
        str(summary(sections)),
    ]
    for section in sections:
        parts += [f"## {section.head}", inspect.getdoc(section.measured_by) or ""]
        parts += [f"![{section.title}]({name})" for name in section.charts]
        parts += map(str, section.tables)
    return "\n\n".join(parts) + "\n"


def as_text(table: Table) -> str:
    """Format a table for a terminal."""
    plain = [[cell.replace("**", "") for cell in row] for row in [table.head, *table.rows]]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in plain)
