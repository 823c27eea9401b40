"""The pytest plugin, as the tests of a user load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PLUGIN = "airflow_pinecone_upsert.emulator.pytest_plugin"
TEST = """
import httpx

def test_it(pinecone_index, pinecone_index_factory):
    for index in (pinecone_index, pinecone_index_factory(3)):
        assert httpx.get(index.url + "/namespaces", headers={"Api-Key": index.api_key}).status_code == 200
"""


def run_pytest(folder, *arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, *arguments, folder]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_plugin_is_registered():
    (found,) = entry_points(group="pytest11", name="pinecone_upsert")
    assert found.value == PLUGIN


def test_the_plugin_is_registered_once(pytestconfig):
    plugins = [
        plugin for plugin in pytestconfig.pluginmanager.get_plugins() if getattr(plugin, "__name__", "") == PLUGIN
    ]
    assert plugins == [pytestconfig.pluginmanager.get_plugin("pinecone_upsert")]


def test_importing_the_plugin_imports_only_pytest_and_the_standard_library():
    script = f"""
import json, sys
import pytest
before = set(sys.modules)
import {PLUGIN}
print(json.dumps(sorted(sys.modules.keys() - before)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    added = {name for name in json.loads(done.stdout) if name.partition(".")[0] not in sys.stdlib_module_names}
    assert added == {"airflow_pinecone_upsert", "airflow_pinecone_upsert.emulator", PLUGIN}


def test_a_plain_test_file_can_use_the_fixtures(tmp_path):
    (tmp_path / "test_it.py").write_text(TEST)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_plugin_can_be_loaded_without_entry_points(tmp_path):
    (tmp_path / "conftest.py").write_text(f"pytest_plugins = [{PLUGIN!r}]")
    (tmp_path / "test_it.py").write_text(TEST)
    done = run_pytest(tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("missing", [["starlette"], ["uvicorn"], ["starlette", "uvicorn"]])
def test_a_missing_extra_is_named(tmp_path, missing):
    (tmp_path / "conftest.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))")
    (tmp_path / "test_it.py").write_text(TEST + "\ndef test_without_fixtures():\n    pass\n")
    done = run_pytest(tmp_path)
    assert "1 passed, 1 error" in done.stdout, done.stdout
    assert (
        f"\nThe Pinecone emulator needs {' and '.join(missing)}. Run: pip install 'airflow-pinecone-upsert[emulator]'\n"
    ) in done.stdout
