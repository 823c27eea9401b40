"""What others see of an upsert: metrics by real statsd datagrams, a real span, the link in the UI."""

import json
import re
import socket
import subprocess
import sys
from collections import Counter

import pytest

from airflow_pinecone_upsert.links import console_url
from airflow_pinecone_upsert.local.faults import Fault

# A process of its own, because tracer and metrics are set up once in each.
PROGRAM = """
import json, os, sys, tempfile
from pathlib import Path

home = Path(tempfile.mkdtemp())
(home / "dags").mkdir()
os.environ.update(AIRFLOW_HOME=str(home), AIRFLOW__CORE__DAGS_FOLDER=str(home / "dags"))
os.environ.update(AIRFLOW__CORE__LOAD_EXAMPLES="False", AIRFLOW__METRICS__STATSD_ON="True")
os.environ.update(AIRFLOW__METRICS__STATSD_HOST="127.0.0.1", AIRFLOW__METRICS__STATSD_PORT=sys.argv[1])

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

from airflow.utils.db import initdb
initdb()
try:  # as Airflow's task runner does it at its start
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
except ImportError:
    pass  # Airflow before 3.3 does it at the first metric

(home / "dags" / "seen_from_outside.py").write_text('''
from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG("seen_from_outside") as dag:
    vectors = [(str(n), [1.0, n]) for n in range(30)]
    PineconeUpsertOperator(task_id="upsert", vectors=vectors, batch_size=10, namespace="ns")
''')
import runpy
run = runpy.run_path(str(home / "dags" / "seen_from_outside.py"))["dag"].test()
found = [json.loads(span.to_json()) for span in spans.get_finished_spans() if span.name == "pinecone_upsert"]
print("SPANS", json.dumps([{"status": span["status"], "attributes": span["attributes"]} for span in found]))
link = run.get_task_instance("upsert").xcom_pull(task_ids="upsert", key="_link_PineconeConsoleLink")
print("LINK", link)
"""


@pytest.fixture
def seen_from_outside(pinecone_index_factory, use_index):
    """Run a DAG; return the sums of its metrics, its spans and its link."""
    index = use_index(pinecone_index_factory(dimension=2))

    def run(fault, *, times):
        index.faults.next(fault, times=times, path="/vectors/upsert")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            command = [sys.executable, "-c", PROGRAM, str(server.getsockname()[1])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            server.setblocking(False)
            sums = Counter()
            while datagram := _next(server):
                for name, value in re.findall(r"pinecone_upsert\.(\w+)[^:]*:([\d.]+)\|", datagram):
                    sums[name] += 1 if name == "latency" else int(value)
        said = dict(re.findall(r"^(SPANS|LINK) (.*)$", done.stdout, re.MULTILINE))
        return sums, json.loads(said["SPANS"]), said["LINK"]

    return run


def _next(server):
    try:
        return server.recv(65_536).decode()
    except BlockingIOError:
        return ""


def test_metrics_span_and_link_of_a_success(seen_from_outside):
    sums, [span], link = seen_from_outside(Fault.status(429, "slow down"), times=1)
    size = sums.pop("bytes")
    assert sums == {"records": 30, "requests": 4, "retries": 1, "throttled": 1, "latency": 4}
    assert span["attributes"]["pinecone_upsert.upsertedCount"] == 30
    assert span["attributes"]["pinecone_upsert.requestBytes"] == size
    assert span["attributes"]["db.namespace"] == "ns"
    assert link == "https://app.pinecone.io/organizations/-/projects/-/indexes"


def test_metrics_and_span_of_a_failure(seen_from_outside):
    sums, [span], _ = seen_from_outside(Fault.status(404, "gone"), times=3)
    assert sums["requests"] == 3
    assert "records" not in sums
    assert span["status"]["status_code"] == "ERROR"
    assert span["attributes"]["pinecone_upsert.upsertedCount"] == 0


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("https://articles-a1b2c3d.svc.aped-4627-b74a.pinecone.io", "/articles"),
        ("https://my-articles-a1b2c3d.svc.us-east1-gcp.pinecone.io", "/my-articles"),
        ("http://127.0.0.1:5081", ""),
        ("https://pinecone.example.com", ""),
    ],
)
def test_the_link_names_the_index_where_its_host_does(host, page):
    assert console_url(host) == f"https://app.pinecone.io/organizations/-/projects/-/indexes{page}"
