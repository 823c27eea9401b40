"""The emulator's limits: its own table, which agrees with the client's, and no other code of the package."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import airflow_pinecone_upsert.emulator
from airflow_pinecone_upsert.api import limits as client_limits
from airflow_pinecone_upsert.emulator import limits as emulator_limits

EMULATOR = airflow_pinecone_upsert.emulator.__name__
SOURCE_FILES = sorted(Path(airflow_pinecone_upsert.emulator.__path__[0]).rglob("*.py"))


def constants(module):
    return {name: value for name, value in vars(module).items() if name.isupper()}


SHARED = sorted(constants(emulator_limits).keys() & constants(client_limits).keys())


NOT_OF_THE_CLIENT = {
    "ALIAS_API_VERSION",
    "MAX_ALIASES_PER_INDEX",
    "MAX_RECORDS_PER_FETCH_PAGE",
}
"""Limits of operations that the client does not use, or whose limit it leaves to the service."""


def test_the_emulator_has_the_limits_of_the_client():
    assert {"MAX_DECODED_REQUEST_BYTES", "MAX_METADATA_BYTES", "MAX_RECORDS_PER_REQUEST"} <= set(SHARED)
    assert constants(emulator_limits).keys() <= {*SHARED, *NOT_OF_THE_CLIENT}


@pytest.mark.parametrize("name", SHARED)
def test_the_emulator_and_the_client_have_the_same_limit(name):
    assert getattr(emulator_limits, name) == getattr(client_limits, name)


def imported_names(path):
    """Return the absolute name of everything that a module of the emulator imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), EMULATOR)
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCE_FILES, ids=lambda path: path.stem)
def test_the_emulator_imports_no_other_part_of_the_package(path):
    package = airflow_pinecone_upsert.__name__
    own = {name for name in imported_names(path) if name.partition(".")[0] == package}
    assert {name for name in own if not f"{name}.".startswith(f"{EMULATOR}.")} == set()


def test_all_modules_of_the_emulator_are_checked():
    assert {"app", "limits", "pytest_plugin", "rules", "server"} <= {path.stem for path in SOURCE_FILES}
