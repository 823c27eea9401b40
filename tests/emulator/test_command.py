"""The command ``python -m airflow_pinecone_upsert.emulator``, run as a process."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = (sys.executable, "-m", "airflow_pinecone_upsert.emulator")
PROJECT = Path(__file__).parents[2]
KEY = {"Api-Key": "k"}


@contextmanager
def running(*arguments):
    """Run the command; yield its process, its output line and its URL."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, line, re.search(r"http://\S+", line)[0]
        finally:
            process.kill()


def run_failing(*arguments):
    done = subprocess.run([*COMMAND, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    return done.returncode, done.stderr


def upsert(url, *ids):
    body = {"vectors": [{"id": record_id, "values": [1, 2]} for record_id in ids]}
    assert httpx.post(f"{url}/vectors/upsert", json=body, headers=KEY).status_code == 200


def ids(url):
    return [item["id"] for item in httpx.get(f"{url}/vectors/list", headers=KEY).json()["vectors"]]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_prints_one_line_when_ready_and_stops_cleanly(signal_number):
    with running("--dimension", "2") as (process, line, url):
        assert line == f"local: dense index, 2 dimensions, cosine, listening on {url}\n"
        upsert(url, "a")
        process.send_signal(signal_number)
        assert process.wait(10) == 0
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""


def test_names_the_port_of_grpc():
    with running("--dimension", "2", "--grpc-port", "0") as (_, line, url):
        port = re.fullmatch(rf"local: .*, listening on {url} and on port (\d+) for gRPC\n", line)[1]
        with socket.create_connection(("127.0.0.1", int(port))):
            pass
        status, message = run_failing("--dimension", "2", "--port", "0", "--grpc-port", port)
        assert status == 1
        assert message.endswith(f"Cannot listen on 127.0.0.1:{port} for gRPC. Choose another --grpc-port.\n")


def test_help_describes_every_option():
    done = subprocess.run([*COMMAND, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    options = re.findall(r"^  (?:-h, )?(--[a-z-]+)(?: \S+)?\s+\S", done.stdout, flags=re.MULTILINE)
    assert options == [
        "--help",
        "--port",
        "--grpc-port",
        "--host",
        "--dimension",
        "--metric",
        "--vector-type",
        "--name",
        "--api-key",
        "--data",
        "--max-request-bytes",
        "--measure",
        "--lag",
        "--import-duration",
        "--fault",
        "--seed",
    ]


def test_options():
    arguments = ("--vector-type", "sparse", "--name", "words", "--api-key", "k", "--max-request-bytes", "10")
    with running(*arguments) as (_, line, url):
        assert line.startswith("words: sparse index, dotproduct")
        description = httpx.get(f"{url}/indexes/words", headers=KEY).json()
        assert (description["vector_type"], description["metric"]) == ("sparse", "dotproduct")
        assert httpx.get(f"{url}/indexes/words", headers={"Api-Key": "other"}).status_code == 401
        assert "exceeds" in httpx.post(f"{url}/query", content=b" " * 11, headers=KEY).text


def test_a_lag_hides_new_records():
    with running("--dimension", "2", "--lag", "inf") as (_, _, url):
        upsert(url, "a")
        assert ids(url) == []


def test_random_faults_depend_on_the_seed():
    def statuses(url):
        body = {"vectors": [{"id": "a", "values": [1, 2]}]}
        return [httpx.post(f"{url}/vectors/upsert", json=body, headers=KEY).status_code for _ in range(40)]

    runs = []
    for seed in ("1", "1", "2"):
        with running("--dimension", "2", "--fault", "429:0.3,503:0.3", "--seed", seed) as (_, _, url):
            runs.append(statuses(url))
            assert ids(url) == ["a"]  # only upserts fail
    assert set(runs[0]) == {200, 429, 503}
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_data_folder_survives_a_stop_and_a_kill(tmp_path, signal_number):
    arguments = ("--dimension", "2", "--data", str(tmp_path))
    with running(*arguments) as (process, _, url):
        upsert(url, "a", "b")
        process.send_signal(signal_number)
        process.wait(10)
    with running(*arguments) as (_, _, url):
        assert ids(url) == ["a", "b"]


def test_records_in_memory_are_lost_after_a_restart():
    with running("--dimension", "2") as (_, _, url):
        upsert(url, "a")
    with running("--dimension", "2") as (_, _, url):
        assert ids(url) == []


def test_a_port_in_use_is_reported_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run_failing("--dimension", "2", "--port", str(port)) == (
            1,
            f"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port.\n",
        )


def test_a_folder_of_another_index_is_reported_in_one_line(tmp_path):
    with running("--dimension", "2", "--data", str(tmp_path)) as (process, _, _):
        status, message = run_failing("--dimension", "2", "--port", "0", "--data", str(tmp_path))
        assert (status, message.count("\n")) == (1, 1)
        assert "database is locked" in message
        process.terminate()
        process.wait(10)
    status, message = run_failing("--dimension", "3", "--port", "0", "--data", str(tmp_path))
    assert status == 1
    assert message == (
        f"{tmp_path} cannot be used: it contains a dense index, 2 dimensions, cosine, "
        "not a dense index, 3 dimensions, cosine. Choose another folder.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: --dimension is missing. Give that of your embedding model, such as --dimension 1536, or "),
        (("--dimension", "0"), "dimension must be between 1 and 20000, not 0."),
        (("--dimension", "3", "--vector-type", "sparse"), "A sparse index has no dimension."),
        (("--dimension", "3", "--metric", "taxicab"), "invalid choice: 'taxicab'"),
        (("--dimension", "3", "--lag", "-1"), "The lag must not be negative, but is -1 seconds."),
        (
            ("--dimension", "3", "--import-duration", "-1"),
            "The duration of an import must not be negative, but is -1 seconds.",
        ),
        (("--dimension", "3", "--fault", "429"), "'429' is not a fault with a rate; write it as in 429:0.05."),
    ],
)
def test_invalid_options(arguments, message):
    status, text = run_failing(*arguments)
    assert status == 2
    assert message in text
