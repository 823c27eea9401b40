"""How counts and facts are put into words, in logs and on the command line."""

from __future__ import annotations

from collections.abc import Mapping


def number_of(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its unit, in the singular where it is 1."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def fact_lines(facts: Mapping[str, str]) -> str:
    """Return facts as text, one a line, with their names in a column."""
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in facts.items())
