"""The README: it is short, every snippet runs, every command works, and every figure is in a report."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .readme import (
    README,
    ROOT,
    commands_of,
    exported_connection,
    is_known_command,
    links_of,
    page_text,
    snippets_of,
)

SNIPPETS = snippets_of(README)
REPORT = (ROOT / "tests" / "benchmarks" / "results" / "results.md").read_text()


def test_it_is_short():
    assert len(README.splitlines()) <= 150


@pytest.fixture
def my_bucket(s3, monkeypatch, tmp_path):
    """Create the user's bucket."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="my-bucket")
    pq.write_table(pa.table({"id": ["a", "b", "c"], "values": [np.ones(8, np.float32)] * 3}), tmp_path / "file")
    client.upload_file(str(tmp_path / "file"), "my-bucket", "embeddings/1.parquet")


def test_parquet_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(SNIPPETS["articles"])
    assert run.state == "success"
    assert set(pinecone_index.vectors("articles")) == {"a", "b", "c"}


def test_reindex_snippet(run_dag, pinecone_index, my_bucket):
    run = run_dag(SNIPPETS["reindex_articles"])
    assert run.state == "success"
    assert run.output("reindex")["newCount"] == len(pinecone_index.vectors("articles")) == 3
    assert run_dag(SNIPPETS["reindex_articles"]).output("reindex")["unchangedCount"] == 3


def test_every_snippet_has_a_test():
    assert set(SNIPPETS) == {"articles", "reindex_articles"}


@pytest.mark.parametrize("text", [README, page_text("connection.md")], ids=["README", "connection"])
def test_connection_command(text, monkeypatch):
    exported = exported_connection(text)
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", exported)
    from airflow_pinecone_upsert import PineconeHook

    hook, expected = PineconeHook(), json.loads(exported)
    assert hook.get_conn().host == expected["host"]
    assert hook.default_namespace == expected.get("extra", {}).get("namespace", "")


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
    """The connection is imported by a test above."""
    commands = commands_of(README)
    assert commands
    assert [line for line in commands if not is_known_command(line)] == []


def numbers_in(pattern: str, text: str) -> tuple[str, ...]:
    """Return the numbers that a pattern finds in a text, whose lines may be broken anywhere."""
    found = re.search(pattern, " ".join(text.split()))
    assert found, pattern
    return found.groups()


NUMBER = r"([\d.,]*\d)"
OURS, SDK, OFFICIAL = (
    numbers_in(rf"\| {name} \| {NUMBER} s \| \S+ s \| {NUMBER} MB \| {NUMBER} B", REPORT)
    for name in ("this project", "SDK, from DataFrame", "official operator")
)


def memory(case: str) -> tuple[str, ...]:
    """Return the megabytes beyond the imports."""
    return numbers_in(rf"4\. Memory: {case}, over imports \| ≤ \d+ MB \| \*\*{NUMBER} MB\*\*", REPORT)


@pytest.mark.parametrize(
    ("claim", "measured"),
    [
        (rf"with metadata take {NUMBER} s of one core\. Pinecone's SDK takes {NUMBER} s,", (OURS[0], SDK[0])),
        (rf"the official operator {NUMBER} s\.", OFFICIAL[:1]),
        (rf"is sent in {NUMBER} bytes instead of {NUMBER}\.", (OURS[2], SDK[2])),
        (rf"20,000 records take {NUMBER} MB beyond the imports,", memory("20,000 records")),
        (rf"beyond the imports, 400,000 take {NUMBER} MB,", memory("400,000 records")),
        (rf"and one row group of 300,000 takes {NUMBER} MB\.", memory("one row group of 300,000")),
        (rf"The SDK's peak for 50,000 is {NUMBER} MB\.", SDK[1:2]),
        (
            rf"it uses {NUMBER} % with {NUMBER} % of the requests throttled;",
            numbers_in(rf"\| bytes bound \| {NUMBER}% \| {NUMBER}%", REPORT),
        ),
        (
            rf"the SDK uses {NUMBER} % with {NUMBER} % throttled\.",
            numbers_in(rf"\| SDK, bytes bound \| {NUMBER}% \| {NUMBER}%", REPORT),
        ),
        (
            rf"reindexing takes {NUMBER} write units\. Sending all of them again takes {NUMBER}\.",
            (
                *numbers_in(rf"\| 2 % changed, incremental \| {NUMBER}", page_text("reindexing.md")),
                *numbers_in(rf"\| every record again, in place .*? \| {NUMBER}", page_text("reindexing.md")),
            ),
        ),
        (
            rf"wait {NUMBER} s between rendering and execution; those of the official operator wait {NUMBER} s\.",
            numbers_in(
                rf"between render and execute \|[^|]*\| \*\*{NUMBER} s\*\* \| met \| official: {NUMBER} s", REPORT
            ),
        ),
    ],
)
def test_a_claim_is_what_was_measured(claim, measured):
    assert numbers_in(claim, README) == measured


def test_the_share_of_the_rate_matches_the_benchmark_report():
    claim = rf"uses {NUMBER} % of the 50 MB/s in a run of \d+ s, with {NUMBER} % of the requests throttled"
    assert numbers_in(claim, PERFORMANCE) == numbers_in(rf"\| bytes bound \| {NUMBER}% \| {NUMBER}%", REPORT)


def test_the_time_of_many_namespaces_matches_the_benchmark_report():
    claim = rf"takes {NUMBER} times as long if the file is sorted by tenant, and {NUMBER} times if it is shuffled"
    orders = ("sorted by tenant", "shuffled")
    rows = rf".*?{'.*?'.join(rf'{order}: time against one namespace .*?{NUMBER}' for order in orders)}"
    assert numbers_in(claim, page_text("many-namespaces.md")) == numbers_in(rows, REPORT)


PERFORMANCE = page_text("performance.md")
MISSED = re.findall(rf"\| [≤≥] {NUMBER}[^|]* \| \*\*{NUMBER}[^|*]*\*\* \| \*\*missed\*\*", REPORT)
"""The bound and the measured value of each."""

COUNTED = (
    "Every target is met",
    "One target is missed",
    *(
        f"{count} targets are missed"
        for count in ["Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]
    ),
)


def test_each_missed_target_is_stated_with_its_value():
    assert f"{COUNTED[len(MISSED)]}." in " ".join(README.split())
    assert f"{COUNTED[len(MISSED)]}{':' if MISSED else '.'}" in " ".join(PERFORMANCE.split())
    assert REPORT.count("**missed**") == len(MISSED)
    for bound, measured in MISSED:
        assert numbers_in(rf"({re.escape(measured)})\b[^()]* \(target: ({re.escape(bound)})\)", PERFORMANCE)
    assert PERFORMANCE.count("(target:") == len(MISSED)


@pytest.mark.parametrize("text", [README, PERFORMANCE], ids=["README", "performance"])
def test_grpc_is_compared_with_rest_as_soon_as_it_was_measured(text):
    """A complete run that replaces an older report adds the rows."""
    claim = rf"over gRPC (?:take|takes) {NUMBER} s and {NUMBER} bytes a record; the SDK's gRPC client takes {NUMBER} s"
    ours, sdk = (
        re.search(rf"\| {name}, gRPC \| {NUMBER} s \| \S+ s \| {NUMBER} MB \| {NUMBER} B", REPORT)
        for name in ("this project", "SDK, from DataFrame")
    )
    if ours and sdk:
        assert numbers_in(claim, text) == (ours[1], ours[3], sdk[1])
    else:
        assert not re.search(claim, " ".join(text.split()))


def test_the_share_of_the_floor_matches_the_benchmark_report():
    sdk, floor = (
        re.findall(rf"^\| {name} \| ([\d.]+) s", REPORT, re.MULTILINE) for name in ("SDK, from DataFrame", "floor")
    )
    shares = tuple(f"{float(ours) / float(theirs):.2f}" for ours, theirs in zip(floor, sdk, strict=True))
    assert numbers_in(rf"The floor itself takes {NUMBER} and {NUMBER}\.", PERFORMANCE) == shares


def test_airflow_versions_match_the_constraints():
    texts = [path.read_text() for path in ROOT.glob("constraints*.txt")]
    pinned = [re.search(r"^apache-airflow==(.+)$", text, re.MULTILINE)[1] for text in texts]
    *newer, oldest = sorted(pinned, reverse=True)
    assert f"the tests run on Airflow {', '.join(newer)} and {oldest}." in README


LINKS = links_of(README)


@pytest.mark.parametrize("link", LINKS)
def test_links_point_to_files(link):
    assert (ROOT / link).exists()


def test_there_is_one_picture():
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert (ROOT / picture).exists()


@pytest.mark.parametrize(
    "picture", sorted((ROOT / "tests" / "airflow" / "screenshots").glob("*.png")), ids=lambda path: path.stem
)
def test_screenshots_are_small(picture):
    assert picture.stat().st_size < 150_000
