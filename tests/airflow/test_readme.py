"""The README: every snippet runs, every command works, every table matches the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeReindexOperator, PineconeUpsertOperator, ReindexReport, UpsertReport
from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.emulator import EmulatedIndex, Faults
from airflow_pinecone_upsert.hooks.connection_form import EXTRA_FIELDS

from .airflow_home import HOME
from .readme import README, ROOT, commands_of, is_known_command, links_of, readme_table

PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = commands_of(README)


def snippet(marker: str) -> str:
    (found,) = [code for code in PYTHON if marker in code]
    return found


@pytest.fixture
def my_project(monkeypatch):
    """Create the user's module that embeds a text."""
    (HOME / "my_project.py").write_text("def embed(text):\n    return [float(len(text))] * 8\n")
    monkeypatch.syspath_prepend(str(HOME))


@pytest.fixture
def my_bucket(s3, monkeypatch, tmp_path):
    """Create the user's bucket, with a folder for each snippet."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="my-bucket")
    vectors = [np.ones(8, np.float32)] * 3
    plain_columns = {
        "title": ["a", "b", "c"],
        "price": [1.5, 2.0, None],
        "released_on": pa.array([1, 2, 3], pa.date32()),
    }
    for key, columns in {
        "embeddings/1.parquet": {"id": ["a", "b", "c"], "values": vectors},
        "products/1.parquet": {"sku": [1, 2, 3], "embedding": vectors, **plain_columns},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / "file")
        client.upload_file(str(tmp_path / "file"), "my-bucket", key)


def test_parquet_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(snippet('"articles", schedule'))
    assert run.state == "success"
    assert set(pinecone_index.vectors("articles")) == {"a", "b", "c"}


def test_reindex_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(snippet("reindex_articles"))
    assert run.state == "success"
    assert run.output("reindex")["newCount"] == len(pinecone_index.vectors("articles")) == 3
    assert run_dag(snippet("reindex_articles")).output("reindex")["unchangedCount"] == 3


def test_plain_columns_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(snippet("metadata_columns"))
    assert run.state == "success"
    assert pinecone_index.vectors()["1"].metadata == {"title": "a", "price": 1.5, "released_on": "1970-01-02"}
    assert pinecone_index.vectors()["3"].metadata == {"title": "c", "released_on": "1970-01-04"}


def test_xcom_snippet(run_dag, pinecone_index, my_project):
    run = run_dag(snippet("embed_titles"))
    assert run.state == "success"
    assert run.output("report") == "2 titles can be searched."
    assert pinecone_index.vectors("titles")["t1"].metadata == {"title": "Solaris"}


def test_hook_snippet(run_dag, pinecone_index, my_project):
    run = run_dag(snippet("upsert_appendix"))
    assert run.state == "success"
    assert run.output("upsert_appendix") == 3
    assert set(pinecone_index.vectors("appendix")) == set("ABC")


def test_decorator_snippet(run_dag, pinecone_index, my_project):
    run = run_dag(snippet("task.pinecone_upsert"))
    assert run.state == "success"
    assert run.output("embed_chapters", "upsertedCount") == len(pinecone_index.vectors("chapters")) == 1_000


def test_events_snippet(run_dag, pinecone_index):
    """The DAG waits for the README's index. With the emulator's host instead, an upsert queues it."""
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    host = "articles-abc123.svc.aped-4627-b74a.pinecone.io"
    assert host in README.partition("export AIRFLOW_CONN_PINECONE_DEFAULT='")[2].partition("'")[0]
    consumer = snippet("refresh_cache").replace(host, pinecone_index.url)
    consumer = consumer.replace("schedule=", "is_paused_upon_creation=False, schedule=")
    (HOME / "dags" / "consumer.py").write_text(consumer)
    producer = """
from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG("upsert_articles", schedule=None) as dag:
    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="articles")
"""
    assert run_dag(producer).state == "success"
    with create_session() as session:
        assert "refresh_cache" in session.scalars(select(AssetDagRunQueue.target_dag_id)).all()


def test_pytest_snippet(tmp_path):
    (tmp_path / "test_snippet.py").write_text(snippet("def test_upsert"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "1 passed" in result.stdout, result.stdout


def test_dag_run_snippet(tmp_path, my_bucket):
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "my_dag.py").write_text(snippet('"articles", schedule'))
    (tmp_path / "test_snippet.py").write_text(snippet("def test_my_dag"))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "1 passed" in result.stdout, result.stdout


def test_every_snippet_has_a_test():
    assert len(PYTHON) == 9


def test_connection_command(monkeypatch):
    exported = README.partition("export AIRFLOW_CONN_PINECONE_DEFAULT='")[2].partition("'")[0]
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", exported)
    from airflow_pinecone_upsert import PineconeHook

    assert PineconeHook().get_conn().host == json.loads(exported)["host"]


@pytest.fixture
def check_connection(pinecone_index_factory, tls_server, monkeypatch):
    """Run *Test* for the connection that a row of the table describes."""
    from airflow_pinecone_upsert import PineconeHook

    def check(situation):
        index = pinecone_index_factory(dimension=256, api_key="right")
        documents = pinecone_index_factory(api_key="right", document_schema={"title": {"type": "string"}})
        changes = {
            "the connection works": {},
            "the key is wrong": {"password": "wrong"},
            "the key is missing": {"password": ""},
            "DNS does not know the host": {"host": ".".join(["a" * 60] * 5)},
            "the host is Pinecone's control plane, not an index": {"host": "api.pinecone.io"},
            "the host's certificate is not trusted": {"host": tls_server.url},
            "the index, given by its `index_name`, holds documents": {
                "host": "",
                "extra": {"index_name": "local", "control_plane_url": documents.url},
            },
        }[situation]
        connection = {"conn_type": "pinecone_upsert", "host": index.url, "password": "right", **changes}
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
        if situation == "the connection works":
            with PineconeHook() as hook:
                hook.upsert(
                    pa.table({"id": list(map(str, range(1_462))), "values": [np.ones(256, np.float32)] * 1_462})
                )
        return PineconeHook().test_connection()

    return check


@pytest.mark.parametrize(("situation", "expected"), readme_table("Connect", 1))
def test_connection_test_messages(check_connection, situation, expected):
    succeeded, message = check_connection(situation)
    assert succeeded is (situation == "the connection works")
    parts = [re.escape(part) for part in expected.replace("https://", "").split("…")]
    assert re.fullmatch(".*".join(["", *parts]), message)


def test_extra_keys_match_the_connection_form():
    keys = README.partition("Its `extra` may contain ")[2].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", keys)) - {"host"} == {field.name for field in EXTRA_FIELDS} | {
        "control_plane_url",
        "grpc_port",
    }


def test_emulator_command_with_each_option(tmp_path):
    (command,) = [line for line in COMMANDS if line.startswith("python -m")]
    options = " ".join(option.strip("`") for option, _, _ in readme_table("Test your own DAGs"))
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
    parameters = [parameter.strip("`") for _, parameter, _ in readme_table("Test your own DAGs")]
    assert {*parameters} - {"faults.at_random(…)"} <= inspect.signature(EmulatedIndex).parameters.keys()
    assert inspect.isfunction(Faults.at_random)


def test_make_demo_answers_its_questions():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    result = subprocess.run(
        [sys.executable, ROOT / "dev" / "demo.py"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    count = int(re.search(r'"upsertedCount": (\d+)', result.stdout)[1])
    assert count >= 1_400
    assert f"Done: {count:,} records upserted" in result.stdout
    for question in ("garbage collection", "highest precedence", "breakpoint"):
        assert question in result.stdout
    assert "operator-summary#1" in result.stdout


def test_make_airflow_on_a_port_in_use_says_so_at_once():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = subprocess.run(
            [sys.executable, ROOT / "dev" / "airflow_ui.py"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PORT": str(port)},
        )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"FAILED: port {port} is not available: Address already in use. Choose another: make airflow PORT={port + 10}\n"
    )


def test_every_command_exists():
    """`make` targets and the extras of `pip install` exist; the other commands are run by the tests above."""
    inside_json = re.compile(r"^ +\"|^}'$")
    for line in COMMANDS:
        is_run_above = line.startswith(("export AIRFLOW_CONN_PINECONE_DEFAULT=", "python -m"))
        assert is_known_command(line) or is_run_above or inside_json.match(line), line


@pytest.mark.parametrize("operator", [PineconeUpsertOperator, PineconeReindexOperator])
def test_parameters_tables_match_the_operators_signatures(operator):
    parameters = [
        parameter
        for kind in operator.__mro__
        if kind.__module__.startswith("airflow_pinecone_upsert")
        for parameter in inspect.signature(kind.__init__).parameters.values()
    ]
    named = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    upsert, reindex = (
        {name.strip("`"): _value(default) for name, default, _ in readme_table("Parameters", number)}
        for number in (0, 1)
    )
    if operator is PineconeReindexOperator:
        del upsert["durable"]
    assert named == (upsert if operator is PineconeUpsertOperator else upsert | reindex)


def _value(default):
    return inspect.Parameter.empty if default == "required" else json.loads(default.strip("`").replace("None", "null"))


@pytest.mark.parametrize(
    ("report", "start"), [(UpsertReport(), "The task's output is"), (ReindexReport(), "The output also has")]
)
def test_the_output_keys_are_listed(report, start):
    section = README.partition("## Parameters")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", section.partition(start)[2].partition("\n\n")[0]))
    upsert_keys = set() if start.startswith("The task") else set(UpsertReport().as_output())
    assert set(report.as_output()) - upsert_keys <= listed


def test_limits_table_matches_the_code():
    assert [int(value.replace(",", "")) for _, value in readme_table("Limits")] == [
        limits.MAX_RECORDS_PER_REQUEST,
        limits.MAX_REQUEST_BYTES,
        limits.MAX_ID_LENGTH,
        limits.MAX_DIMENSION,
        limits.MAX_SPARSE_VALUES,
        limits.MAX_METADATA_BYTES,
        limits.MAX_REQUESTS_PER_SECOND,
        limits.MAX_BYTES_PER_SECOND,
    ]


def test_figures_match_the_benchmark_report():
    report = (ROOT / "tests" / "benchmarks" / "results" / "results.md").read_text()
    section = README.partition("## Speed and memory")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows[2:]) == 5
    assert all(row in report for row in rows)
    share = re.search(r"it uses ([\d.]+) % of them with no request throttled, also from object\s+storage", README)[1]
    for source in ("bytes bound", "from S3"):
        assert f"share of the allowance, {source} | ≥ 97.0% | **{share}%**" in report
        assert f"throttled, {source} | ≤ 1.0% | **0.0%**" in report


def test_missed_targets_match_the_benchmark_report():
    report = (ROOT / "tests" / "benchmarks" / "results" / "results.md").read_text()
    wide, target_wide, small, target_small, floor_wide, floor_small = re.search(
        r"CPU time is ([\d.]+) of the SDK's \(target: ([\d.]+)\), and ([\d.]+) at 64 dimensions \(target: ([\d.]+)\)\. "
        r"The floor itself takes ([\d.]+) and ([\d.]+)\.",
        " ".join(README.split()),
    ).groups()
    missed = re.findall(r"≤ ([\d.]+) \| \*\*([\d.]+)\*\* \| \*\*missed\*\*", report)
    assert missed == [(target_wide, wide), (target_small, small)]
    assert report.count("**missed**") == len(missed)
    sdk, floor = (
        re.findall(rf"^\| {name} \| ([\d.]+) s", report, re.MULTILINE) for name in ("SDK, from DataFrame", "floor")
    )
    shares = [f"{float(ours) / float(theirs):.2f}" for ours, theirs in zip(floor, sdk, strict=True)]
    assert shares == [floor_wide, floor_small]


def test_airflow_versions_match_the_constraints():
    pinned = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints-airflow-3.1.txt")]
    newest, oldest = (re.search(r"^apache-airflow==(.+)$", lines, re.MULTILINE)[1] for lines in pinned)
    assert f"the tests run on Airflow {newest} and {oldest}." in README


LINKS = links_of(README)


@pytest.mark.parametrize("link", LINKS)
def test_links_point_to_files(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("picture", [link for link in LINKS if link.endswith(".png")])
def test_pictures_are_small(picture):
    assert (ROOT / picture).stat().st_size < 150_000
