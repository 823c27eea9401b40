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
    """
    Return the rows of a table, without its header.

    :param heading: Of the section that contains the table.
    :param number: The table's position in the section, counted from 0.
    """
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return tables_of(section)[number]


def dags_of(page: str) -> dict[str, str]:
    """Return the snippets of a page in ``docs/`` that are DAG files, by the id of the DAG."""
    snippets = re.findall(r"```python\n(.*?)```", page_text(page), re.DOTALL)
    return {re.search(r'with DAG\(\s*"(\w+)"', code)[1]: code for code in snippets}
