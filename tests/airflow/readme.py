"""The README, the pages in ``docs/`` and what they contain: tables, snippets, commands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def page_text(name: str) -> str:
    """Return the text of a page in ``docs/``."""
    return (ROOT / "docs" / name).read_text()


def commands_of(text: str) -> list[str]:
    """Return the lines that a text shows for a shell."""
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def links_of(text: str) -> list[str]:
    """Return the targets of links that are not on another site."""
    return re.findall(r"\]\((?!http)([^)]+)\)", text)


def tables_of(text: str) -> list[list[list[str]]]:
    """Return the rows of each table, without its header."""
    tables = (table.splitlines() for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE))
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]] for rows in tables]


def readme_table(heading: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a table of the README; see :func:`table`."""
    return table(README, heading, number)


def table(text: str, heading: str, number: int = 0) -> list[list[str]]:
    """
    Return the rows of a table, without its header.

    :param text: Markdown.
    :param heading: Of the section that contains the table.
    :param number: The table's position in the section, counted from 0.
    """
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return tables_of(section)[number]


def dags_of(page: str) -> dict[str, str]:
    """Return the snippets of a page in ``docs/`` that are DAG files, by the id of the DAG."""
    snippets = re.findall(r"```python\n(.*?)```", page_text(page), re.DOTALL)
    return {re.search(r'with DAG\(\s*"(\w+)"', code)[1]: code for code in snippets}


def is_known_command(line: str) -> bool:
    """Return whether a line of a shell is a target of `make`, or a `pip install` of extras that exist."""
    if line.startswith("make "):
        return f"\n{line.removeprefix('make ')}: " in (ROOT / "Makefile").read_text()
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    return line.startswith("pip install") and set(re.findall(r"\[(\w+)\]", line)) <= extras
