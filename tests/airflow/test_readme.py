"""The README: every snippet runs, every command is one that works, every table says what the code says."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeUpsertOperator
from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.hooks.connection_form import EXTRA_FIELDS

from ..api.conftest import reply, serve  # noqa: F401, TID252 - fixtures
from ..api.test_client import certificate, tls_server  # noqa: F401, TID252 - fixtures
from .conftest import HOME
from .test_storage import s3  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def snippet(marker: str) -> str:
    (found,) = [code for code in PYTHON if marker in code]
    return found


def table(heading: str, number: int = 0) -> list[list[str]]:
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)[number].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.fixture
def my_project(monkeypatch):
    """The user's own module that embeds a text."""
    (HOME / "my_project.py").write_text("def embed(text):\n    return [float(len(text))] * 8\n")
    monkeypatch.syspath_prepend(str(HOME))


@pytest.fixture
def my_bucket(s3, monkeypatch, tmp_path):  # noqa: F811
    """The user's bucket, with a folder for each snippet."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="my-bucket")
    vectors = [np.ones(8, np.float32)] * 3
    plain = {"title": ["a", "b", "c"], "price": [1.5, 2.0, None], "released_on": pa.array([1, 2, 3], pa.date32())}
    for key, columns in {
        "embeddings/1.parquet": {"id": ["a", "b", "c"], "values": vectors},
        "products/1.parquet": {"sku": [1, 2, 3], "embedding": vectors, **plain},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / "file")
        client.upload_file(str(tmp_path / "file"), "my-bucket", key)


def test_parquet_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(snippet('"articles", schedule'))
    assert run.state == "success"
    assert set(pinecone_index.vectors("articles")) == {"a", "b", "c"}


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
    """As it stands it waits for the index of the README; with the local index's host it is queued by an upsert."""
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    host = "articles-abc123.svc.aped-4627-b74a.pinecone.io"
    assert host in README.partition("export AIRFLOW_CONN_PINECONE_DEFAULT='")[2].partition("'")[0]
    waits = snippet("refresh_cache").replace(host, pinecone_index.url)
    (HOME / "dags" / "waits.py").write_text(waits.replace("schedule=", "is_paused_upon_creation=False, schedule="))
    upserts = """
from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG("upserts_articles", schedule=None) as dag:
    PineconeUpsertOperator(task_id="upsert", vectors=[("a", [1.0] * 8)], namespace="articles")
"""
    assert run_dag(upserts).state == "success"
    with create_session() as session:
        assert "refresh_cache" in session.scalars(select(AssetDagRunQueue.target_dag_id)).all()


def test_pytest_snippet(tmp_path):
    (tmp_path / "test_snippet.py").write_text(snippet("pytest_plugins"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "1 passed" in done.stdout, done.stdout


def test_every_snippet_is_run_above():
    assert len(PYTHON) == 7


def test_connection_command(monkeypatch):
    exported = README.partition("export AIRFLOW_CONN_PINECONE_DEFAULT='")[2].partition("'")[0]
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", exported)
    from airflow_pinecone_upsert import PineconeHook

    assert PineconeHook().get_conn().host == json.loads(exported)["host"]


@pytest.fixture
def find(pinecone_index_factory, tls_server, monkeypatch):  # noqa: F811
    """Let a connection be tested that is as a row of the table says."""
    from airflow_pinecone_upsert import PineconeHook

    def find(what):
        index = pinecone_index_factory(dimension=256, api_key="right")
        documents = pinecone_index_factory(api_key="right", document_schema={"title": {"type": "string"}})
        wrong = {
            "all is well": {},
            "a wrong key": {"password": "wrong"},
            "no key": {"password": ""},
            "a name that DNS does not know": {"host": ".".join(["a" * 60] * 5)},
            "Pinecone's control plane in place of an index": {"host": "api.pinecone.io"},
            "a certificate that nobody here trusts": {"host": tls_server.url},
            "an index that holds documents, named by its `index_name`": {
                "host": "",
                "extra": {"index_name": "local", "control_plane_url": documents.url},
            },
        }[what]
        connection = {"conn_type": "pinecone_upsert", "host": index.url, "password": "right", **wrong}
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
        if what == "all is well":
            with PineconeHook() as hook:
                hook.upsert(
                    pa.table({"id": list(map(str, range(1_462))), "values": [np.ones(256, np.float32)] * 1_462})
                )
        return PineconeHook().test_connection()

    return find


@pytest.mark.parametrize(("what", "answer"), table("Connect", 1))
def test_the_table_of_what_the_connection_test_answers(find, what, answer):
    worked, message = find(what)
    assert worked is (what == "all is well")
    parts = [re.escape(part) for part in answer.replace("https://", "").split("…")]
    assert re.fullmatch(".*".join(["", *parts]), message)


def test_the_keys_of_the_extra_are_those_of_the_form():
    said = README.partition("Its `extra` may hold ")[2].partition(" A connection")[0]
    assert set(re.findall(r"`(\w+)`", said)) - {"host"} == {field.name for field in EXTRA_FIELDS} | {
        "control_plane_url"
    }


def test_local_index_command():
    (command,) = [line for line in COMMANDS if line.startswith("python -m")]
    arguments = [sys.executable, *shlex.split(command.replace("5080", "0"))[1:]]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert "http://127.0.0.1:" in server.stdout.readline()
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0
        server.stdout.close()


def test_make_demo_answers_its_questions():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, ROOT / "dev" / "demo.py"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = int(re.search(r'"upsertedCount": (\d+)', done.stdout)[1])
    assert count >= 1_400
    assert f"Done: {count:,} records upserted" in done.stdout
    for question in ("garbage collection", "highest precedence", "breakpoint"):
        assert question in done.stdout
    assert "operator-summary#1" in done.stdout


def test_every_command_is_known():
    """`make test` is what runs this; the extras that `pip install` names exist; the others are run above."""
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    inside_json = re.compile(r"^ +\"|^}'$")
    for line in COMMANDS:
        if line.startswith("make "):
            assert f"\n{line.removeprefix('make ')}: " in makefile
        elif line.startswith("pip install"):
            assert set(re.findall(r"\[(\w+)\]", line)) <= extras
        else:
            assert line.startswith(("export AIRFLOW_CONN_PINECONE_DEFAULT=", "python -m")) or inside_json.match(line)


def test_the_table_of_parameters_is_the_operators_signature():
    ours = list(inspect.signature(PineconeUpsertOperator.__init__).parameters.values())[1:-1]
    assert {one.name: one.default for one in ours} == {
        name.strip("`"): json.loads(default.strip("`").replace("None", "null"))
        for name, default, _ in table("Parameters")
    }


def test_the_table_of_limits_is_the_codes():
    assert [int(value.replace(",", "")) for _, value in table("Limits")] == [
        limits.MAX_RECORDS_PER_REQUEST,
        limits.MAX_REQUEST_BYTES,
        limits.MAX_ID_LENGTH,
        limits.MAX_DIMENSION,
        limits.MAX_SPARSE_VALUES,
        limits.MAX_METADATA_BYTES,
        limits.MAX_REQUESTS_PER_SECOND,
        limits.MAX_BYTES_PER_SECOND,
    ]


def test_the_figures_are_those_of_the_benchmarks_report():
    report = (ROOT / "tests" / "benchmarks" / "results" / "results.md").read_text()
    rows = [line for line in README.partition("## Speed and memory")[2].splitlines() if line.startswith("|")]
    assert len(rows[2:]) == 5
    assert all(row in report for row in rows)
    share = re.search(r"it uses ([\d.]+) % of them with nothing refused, also from object storage", README)[1]
    for source in ("bytes bound", "from S3"):
        assert f"share of the allowance, {source} | ≥ 97.0% | **{share}%**" in report
        assert f"throttled, {source} | ≤ 1.0% | **0.0%**" in report


def test_the_targets_that_are_missed_are_told():
    report = (ROOT / "tests" / "benchmarks" / "results" / "results.md").read_text()
    wide, aimed_wide, small, aimed_small, floor_wide, floor_small = re.search(
        r"CPU is ([\d.]+)\nof the SDK's where ([\d.]+) was .* ([\d.]+) at 64 .* where ([\d.]+) was.* ([\d.]+) and ([\d.]+) of",
        README,
    ).groups()
    missed = re.findall(r"≤ ([\d.]+) \| \*\*([\d.]+)\*\* \| \*\*missed\*\*", report)
    assert missed == [(aimed_wide, wide), (aimed_small, small)]
    assert report.count("**missed**") == len(missed)
    sdk, floor = (
        re.findall(rf"^\| {name} \| ([\d.]+) s", report, re.MULTILINE) for name in ("SDK, from DataFrame", "floor")
    )
    shares = [f"{float(one) / float(other):.2f}" for one, other in zip(floor, sdk, strict=True)]
    assert shares == [floor_wide, floor_small]


def test_the_versions_of_airflow_are_those_that_the_tests_run_on():
    pinned = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints-airflow-3.1.txt")]
    newest, oldest = (re.search(r"^apache-airflow==(.+)$", lines, re.MULTILINE)[1] for lines in pinned)
    assert f"the tests run on Airflow {newest} and {oldest}." in README


LINKS = re.findall(r"\]\((?!http)([^)]+)\)", README)


@pytest.mark.parametrize("link", LINKS)
def test_links_lead_to_files(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("picture", [link for link in LINKS if link.endswith(".png")])
def test_pictures_are_small(picture):
    assert (ROOT / picture).stat().st_size < 150_000
