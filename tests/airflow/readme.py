"""The README with its tables, and the pages of the documentation with their snippets."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def readme_table(heading: str, number: int = 0) -> list[list[str]]:
    """
    Return the rows of a table, without its header.

    :param heading: Of the section that contains the table.
    :param number: The table's position in the section, counted from 0.
    """
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)[number].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def dags_of(page: str) -> dict[str, str]:
    """Return the snippets of a page in ``docs/`` that are DAG files, by the id of the DAG."""
    text = (ROOT / "docs" / page).read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return {re.search(r'with DAG\(\s*"(\w+)"', code)[1]: code for code in snippets}
