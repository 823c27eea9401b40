"""Metrics as real statsd datagrams, spans over real OTLP, and the link in the UI."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from airflow_pinecone_upsert.emulator.faults import Fault
from airflow_pinecone_upsert.links import console_url

from .supervised import running_worker

# It runs in its own process, because tracer and metrics can be set up only once in a process.
PROGRAM = """
import json, os, sys, tempfile
from pathlib import Path

home = Path(tempfile.mkdtemp())
(home / "dags").mkdir()
os.environ.update(AIRFLOW_HOME=str(home), AIRFLOW__CORE__DAGS_FOLDER=str(home / "dags"))
os.environ.update(AIRFLOW__CORE__LOAD_EXAMPLES="False", AIRFLOW__METRICS__STATSD_ON="True")
os.environ.update(AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True")  # shows tags
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
try:  # as Airflow's task runner does when it starts
    from airflow.sdk.observability.metrics import stats_utils
    from airflow.sdk.observability.stats import initialize
    initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
except ImportError:
    pass  # Airflow before 3.3 does this itself: 3.1 with the first metric, 3.2 with its serializers

(home / "dags" / "telemetry.py").write_text('''
from airflow.sdk import DAG, task
from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, PineconeUpsertOperator

with DAG("telemetry") as dag:
    vectors = [(str(n), [1.0, n]) for n in range(30)]

    @task
    def call_hook():
        PineconeHook().upsert(vectors, batch_size=15, namespace="called")

    nights = [
        PineconeReindexOperator(
            task_id=task_id, vectors=records, namespace="nights", manifest_path=__file__ + ".manifest", dry_run=dry_run
        )
        for task_id, records, dry_run in (
            ("first_night", vectors, False), ("dry_run", vectors[:25], True), ("second_night", vectors[:25], False)
        )
    ]
    upsert = PineconeUpsertOperator(task_id="upsert", vectors=vectors, batch_size=10, namespace="ns")
    upsert >> call_hook() >> nights[0] >> nights[1] >> nights[2]
''')
import runpy
run = runpy.run_path(str(home / "dags" / "telemetry.py"))["dag"].test()
names = ("pinecone_upsert", "pinecone_reindex")
found = [json.loads(span.to_json()) for span in spans.get_finished_spans() if span.name in names]
print("SPANS", json.dumps([{"status": span["status"], "attributes": span["attributes"]} for span in found]))
link = run.get_task_instance("upsert").xcom_pull(task_ids="upsert", key="_link_PineconeConsoleLink")
print("LINK", link)
"""


@pytest.fixture(scope="module")
def statsd():
    """Start a UDP server. The test reads the datagrams later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.setblocking(False)
        yield server


@pytest.fixture
def run_program(pinecone_index_factory, use_index, statsd):
    """Run a DAG with a fault. Return the sums of its metrics, its spans and its link."""
    index = use_index(pinecone_index_factory(dimension=2))

    def run(fault, *, times):
        index.faults.next(fault, times=times, path="/vectors/upsert")
        command = [sys.executable, "-c", PROGRAM, str(statsd.getsockname()[1])]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        printed = dict(re.findall(r"^(SPANS|LINK) (.*)$", result.stdout, re.MULTILINE))
        return _sums(statsd), json.loads(printed["SPANS"]), printed["LINK"]

    return run


def _sums(statsd):
    """Add up by task the metrics that arrived since the last call. Latencies are counted."""
    sums = defaultdict(Counter)
    while datagram := _next(statsd):
        for name, task, value in re.findall(r"pinecone_upsert\.(\w+),[^:]*task_id=(\w+)[^:]*:([\d.]+)\|", datagram):
            sums[task][name] += 1 if name == "latency" else int(value)
    return sums


def _next(server):
    try:
        return server.recv(65_536).decode()
    except BlockingIOError:
        return ""


def test_metrics_spans_and_link_of_operator_and_hook(run_program):
    sums, [span, hook_span, *nights], link = run_program(Fault.status(429, "slow down"), times=1)
    size = sums["upsert"].pop("bytes")
    assert sums["upsert"] == {"records": 30, "requests": 4, "retries": 1, "throttled": 1, "latency": 4}
    assert span["attributes"]["pinecone_upsert.upsertedCount"] == 30
    assert span["attributes"]["pinecone_upsert.requestBytes"] == size
    assert span["attributes"]["db.namespace"] == "ns"
    assert link == "https://app.pinecone.io/organizations/-/projects/-/indexes"
    size = sums["call_hook"].pop("bytes")
    assert sums["call_hook"] == {"records": 30, "requests": 2, "latency": 2}
    assert hook_span["attributes"]["pinecone_upsert.requestBytes"] == size
    assert hook_span["attributes"]["db.namespace"] == "called"
    assert sums["first_night"].pop("bytes") > 0
    assert sums["first_night"] == {"records": 30, "requests": 1, "latency": 1}
    assert sums["second_night"] == {"deleted": 5}
    assert "dry_run" not in sums
    assert [span["attributes"]["db.operation.name"] for span in nights] == ["reindex"] * 3
    assert nights[2]["attributes"]["pinecone_upsert.deletedCount"] == 5
    assert nights[2]["attributes"]["pinecone_upsert.unchangedCount"] == 25


def test_metrics_and_span_of_a_failure(run_program):
    sums, [span], _ = run_program(Fault.status(404, "gone"), times=3)
    assert sums["upsert"]["requests"] == 3
    assert "records" not in sums["upsert"]
    assert span["status"]["status_code"] == "ERROR"
    assert span["attributes"]["pinecone_upsert.upsertedCount"] == 0


class _Collector(BaseHTTPRequestHandler):
    """Receives spans by OTLP over HTTP, https://opentelemetry.io/docs/specs/otlp/#otlphttp."""

    def do_POST(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.spans.extend(
            span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans
        )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def collector():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.spans = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def worker(airflow_db, collector, statsd):
    """Start a worker whose task processes export metrics and spans."""
    yield from running_worker(
        AIRFLOW__TRACES__OTEL_ON="True",
        OTEL_TRACES_EXPORTER="otlp_proto_http",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
        OTEL_TRACES_SAMPLER="always_on",  # the tests create the DAG run without a trace
        AIRFLOW__METRICS__STATSD_ON="True",
        AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True",
        AIRFLOW__METRICS__STATSD_HOST="127.0.0.1",
        AIRFLOW__METRICS__STATSD_PORT=str(statsd.getsockname()[1]),
    )


@pytest.fixture
def run_task(task_processes, pinecone_index_factory, collector, statsd):
    """Run one try in a task process. Return its state, the sums of its metrics, our span and the task's span."""
    index = pinecone_index_factory(dimension=2)

    def run(fault, *, more=""):
        index.faults.next(fault, path="/vectors/upsert")
        collector.spans.clear()
        task = f"""
        vectors = [(str(n), [1.0, n]) for n in range(30)]
        PineconeUpsertOperator(task_id="upsert", vectors=vectors, batch_size=10, namespace="ns", {more})
        """
        state = task_processes(task, index=index).try_once()
        spans = {span.name: span for span in collector.spans}
        return SimpleNamespace(
            state=state, sums=_sums(statsd)["upsert"], span=spans["pinecone_upsert"], task_span=spans["worker.upsert"]
        )

    return run


def _attributes(span):
    values = ((attribute.key, attribute.value) for attribute in span.attributes)
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values}


@pytest.mark.slow
def test_the_span_is_a_child_of_the_tasks_span(run_task):
    observed = run_task(Fault.status(429, "slow down"))
    assert observed.state == "success"
    assert observed.sums["records"] == 30
    assert (observed.sums["requests"], observed.sums["latency"], observed.sums["throttled"]) == (4, 4, 1)
    assert observed.span.trace_id == observed.task_span.trace_id
    assert observed.span.parent_span_id == observed.task_span.span_id
    attributes = _attributes(observed.span)
    assert attributes["pinecone_upsert.upsertedCount"] == 30
    assert attributes["pinecone_upsert.requestBytes"] == observed.sums["bytes"]
    assert attributes["db.namespace"] == "ns"
    assert observed.span.status.code == observed.span.status.STATUS_CODE_UNSET


@pytest.mark.slow
def test_a_failed_task_process_exports_metrics_and_a_span(run_task):
    observed = run_task(Fault.status(404, "gone"), more="max_concurrency=1")
    assert observed.state == "failed"
    assert observed.sums["requests"] == 1
    assert observed.span.status.code == observed.span.status.STATUS_CODE_ERROR
    assert _attributes(observed.span)["pinecone_upsert.requestCount"] == 1


@pytest.mark.slow
def test_a_task_process_that_times_out_exports_an_error(run_task):
    observed = run_task(Fault.stall(3_600), more="execution_timeout=timedelta(seconds=8)")
    assert observed.state == "up_for_retry"
    assert observed.span.status.code == observed.span.status.STATUS_CODE_ERROR
    assert "AirflowTaskTimeout" in observed.span.status.message


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("https://articles-a1b2c3d.svc.aped-4627-b74a.pinecone.io", "/articles"),
        ("https://my-articles-a1b2c3d.svc.us-east1-gcp.pinecone.io", "/my-articles"),
        ("http://127.0.0.1:5081", ""),
        ("https://pinecone.example.com", ""),
    ],
)
def test_the_link_points_to_the_index_if_its_host_names_it(host, page):
    assert console_url(host) == f"https://app.pinecone.io/organizations/-/projects/-/indexes{page}"
