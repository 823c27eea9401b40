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


def table(text: str, heading: str, number: int = 0) -> list[list[str]]:
    """
    Return the rows of a table, without its header.

    :param text: Markdown.
    :param heading: Of the section that contains the table.
    :param number: The table's position in the section, counted from 0.
    """
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return tables_of(section)[number]


def snippets_of(text: str) -> dict[str, str]:
    """Return the Python code that a text shows, by the id of the DAG or the name of the test that it defines."""
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    named = {re.search(r'with DAG\(\s*"(\w+)"|^def (test_\w+)', code, re.MULTILINE): code for code in snippets}
    return {match[1] or match[2]: code for match, code in named.items()}


def dags_of(page: str) -> dict[str, str]:
    """Return the snippets of a page in ``docs/``; see :func:`snippets_of`."""
    return snippets_of(page_text(page))


def exported_connection(text: str) -> str:
    """Return the connection that the command of a text exports, as JSON."""
    return text.partition("export AIRFLOW_CONN_PINECONE_DEFAULT='")[2].partition("'")[0]


def is_known_command(line: str) -> bool:
    """
    Return whether a line of a shell is a target of `make`, a `pip install` of extras that exist, or part of the command
    that exports a connection, which the tests of the text import.
    """
    if re.match(r"export AIRFLOW_CONN_PINECONE_DEFAULT='| +\"|}'$", line):
        return True
    if line.startswith("make "):
        return f"\n{line.removeprefix('make ')}: " in (ROOT / "Makefile").read_text()
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    return line.startswith("pip install") and set(re.findall(r"\[(\w+)\]", line)) <= extras
