"""``docs/testing.md``: both tests pass, and the emulator starts with every option."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert.emulator import EmulatedIndex, Faults

from .readme import README, commands_of, page_text, snippets_of, table

PAGE = page_text("testing.md")
SNIPPETS = snippets_of(PAGE)
OPTIONS = table(PAGE, "As a server")


def assert_it_passes(code, folder):
    (folder / "test_snippet.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert "1 passed" in result.stdout, result.stdout


def test_pytest_snippet(tmp_path):
    assert_it_passes(SNIPPETS["test_upsert"], tmp_path)


def test_dag_run_snippet(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "values": [[1.0] * 8] * 2}), tmp_path / "1.parquet")
    (tmp_path / "dags").mkdir()
    dag = snippets_of(README)["articles"].replace("s3://my-bucket/embeddings", str(tmp_path))
    (tmp_path / "dags" / "my_dag.py").write_text(dag)
    assert_it_passes(SNIPPETS["test_my_dag"], tmp_path)


def test_emulator_command_with_each_option(tmp_path):
    (command,) = [line for line in commands_of(PAGE) if line.startswith("python -m")]
    options = " ".join(option.strip("`") for option, _, _ in OPTIONS)
    command = f"{command} {options}".replace("5080", "0").replace("--data folder", f"--data {tmp_path}")
    arguments = [sys.executable, *shlex.split(command)[1:]]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert "http://127.0.0.1:" in server.stdout.readline()
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0
        server.stdout.close()


def test_emulator_parameters_exist():
    parameters = [parameter.strip("`") for _, parameter, _ in OPTIONS]
    assert {*parameters} - {"faults.at_random(…)"} <= inspect.signature(EmulatedIndex).parameters.keys()
    assert inspect.isfunction(Faults.at_random)
