"""Limits that are found on the emulator, over real HTTP, in both readings of what Pinecone documents."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.emulator import Fault
from tests.pipeline.held import Held
from tests.pipeline.read import peak_memory
from tests.state_store import InMemoryStateStore, checkpoint_of

UPSERT = "/vectors/upsert"
COUNT, DIMENSION = 3_600, 512
PARAMETERS = {"batch_size": 1_000, "max_concurrency": 2}
"""A record has 2,063 bytes in binary, and about 5.6 KB in JSON."""


@pytest.fixture
def index_measuring(pinecone_index_factory):
    return lambda measure: pinecone_index_factory(DIMENSION, measure=measure, grpc_port=0)


@pytest.fixture
def write_vectors(write):
    def write_vectors(count, dimension, **more):
        components = pa.array(np.random.default_rng(0).random(count * dimension, np.float32))
        vectors = pa.FixedSizeListArray.from_arrays(components, dimension)
        return write({"id": [f"r{row}" for row in range(count)], "values": vectors, **more})

    return write_vectors


@pytest.fixture
def path(write_vectors):
    return write_vectors(COUNT, DIMENSION)


def refused(requests):
    return [request for request in requests if request.status == 400]


def test_requests_grow_until_their_records_have_two_megabytes_in_binary(index_measuring, run, upserts, path):
    index = index_measuring("binary")
    report = run(index, path, **PARAMETERS)
    sizes = [request.body_bytes for request in upserts(index)]
    assert (report.upserted_count, len(index.vectors()), report.counts.retries) == (COUNT, COUNT, 0)
    assert not refused(upserts(index))
    assert report.as_output()["learned"]["requestBytes"] == max(sizes) > 3_800_000
    assert max(sizes) <= 4_194_304


def test_a_server_that_counts_json_refuses_one_request_and_no_record_of_a_task(index_measuring, run, upserts, path):
    index, store = index_measuring("json"), InMemoryStateStore()
    index.faults.next(Fault.stall(0.0), times=3, path=UPSERT)  # these succeed, so that the next one fails
    invalid_key = Fault.status(401, "Invalid API Key")
    index.faults.next(Held(invalid_key, until=lambda: len(index.vectors()) >= COUNT / 2), path=UPSERT)
    with pytest.raises(exceptions.AuthenticationError):
        run(index, path, state=store, **PARAMETERS)
    first_try = len(upserts(index))
    assert len(refused(upserts(index))) == 1
    learned = {"requestBytes": 2_000_000, "bytesPerSecond": 50_000_000}
    assert checkpoint_of(store)["learned"] == {**learned, "final": ["requestBytes"]}

    report = run(index, path, state=store, **PARAMETERS)
    assert report.resumed_count > 0
    assert not refused(upserts(index)[first_try:])
    assert report.as_output()["learned"] == learned
    assert len(index.vectors()) == COUNT


def test_one_request_is_refused_for_all_namespaces(index_measuring, run, upserts, write_vectors):
    index = index_measuring("json")
    path = write_vectors(COUNT, DIMENSION, tenant=["abc"[row % 3] for row in range(COUNT)])
    report = run(index, path, namespace_column="tenant", **PARAMETERS)
    sizes = sorted(request.body_bytes for request in upserts(index))
    assert len(refused(upserts(index))) == 1
    assert sizes[-2] <= 2_000_000 < sizes[-1]
    assert report.as_output()["namespaces"] == dict.fromkeys("abc", COUNT // 3)
    assert report.as_output()["learned"] == {"requestBytes": 2_000_000, "bytesPerSecond": 50_000_000}


@pytest.mark.parametrize(
    ("parameters", "largest"), [({"max_request_bytes": 2_500_000}, 2_500_000), ({"transport": "grpc"}, 2_000_000)]
)
def test_numbers_are_ceilings_and_messages_do_not_grow(*, index_measuring, run, upserts, path, parameters, largest):
    index = index_measuring("binary")
    report = run(index, path, **PARAMETERS, **parameters)
    assert largest - 10_000 < max(request.body_bytes for request in upserts(index)) <= largest
    assert (report.upserted_count, report.as_output()["learned"]["requestBytes"]) == (COUNT, largest)


@pytest.mark.slow
def test_the_largest_requests_take_little_memory(pinecone_index_factory, upserts, write_vectors):
    """About 85 MB over the imports, however many records; with requests of 2 MB it is 63 MB."""
    index = pinecone_index_factory(1_536, measure="binary")
    command = [sys.executable, peak_memory.__file__, index.url, index.api_key, str(write_vectors(12_000, 1_536))]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert max(request.body_bytes for request in upserts(index)) > 4_100_000
    assert result["upserted"] == 12_000
    assert result["mb"] <= 200
