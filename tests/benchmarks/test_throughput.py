"""What is measured over gRPC is what the file has: the messages of the floor, and the counts of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator.messages import MESSAGES
from tests.benchmarks import data
from tests.benchmarks.bench import Bench
from tests.benchmarks.clients import floor_grpc
from tests.benchmarks.grpc_server import count_records
from tests.benchmarks.process import IndexService
from tests.benchmarks.rules import Rules

RECORDS, DIMENSION = 500, 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    data.write(tmp_path / "part-0.parquet", data.batches(RECORDS, DIMENSION, seed=1))
    return tmp_path / "part-0.parquet"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with IndexService() as index:
        yield Bench(index, tmp_path, runs=1, quick=True, say=lambda _: None)


def test_the_floor_writes_the_records_of_the_file(path):
    requests = list(floor_grpc.messages(str(path), 200))
    assert [count_records(request) for request in requests] == [200, 200, 100]
    parsed = [vector for request in requests for vector in MESSAGES["UpsertRequest"].FromString(request).vectors]
    for vector, record in zip(parsed, pq.read_table(path).to_pylist(), strict=True):
        assert vector.id == record["id"]
        assert np.array_equal(vector.values, record["values"])
        assert dict(vector.metadata) == record["metadata"]


def test_a_namespace_is_not_counted_as_a_record():
    message = MESSAGES["UpsertRequest"]
    assert count_records(message(vectors=[{"id": "a" * 200}, {"id": "b"}], namespace="n").SerializeToString()) == 2
    assert count_records(b"") == 0


@pytest.mark.parametrize("program", ["ours", "floor"])
def test_each_program_is_counted_by_the_server(bench, path, program):
    port = bench.index.grpc_port
    clients = {"ours": ["ours", bench.index.url, path, "--grpc-port", port], "floor": ["floor_grpc", port, path]}
    sample = bench.measure(clients[program], Rules(dimension=DIMENSION), records=RECORDS)
    assert sample.run.output["confirmed"] == RECORDS
    assert sample.log.body_bytes == size_of(path)


def test_requests_above_the_limit_are_throttled_over_grpc(bench):
    bench.index.set_rules(Rules(requests_per_second=0.001, burst_s=1_000))
    request = MESSAGES["UpsertRequest"](vectors=[{"id": "a"}] * 300).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{bench.index.grpc_port}") as channel:
        upsert = channel.unary_unary("/VectorService/Upsert")
        response = upsert(request, metadata=[("api-key", "someone")])
        assert MESSAGES["UpsertResponse"].FromString(response).upserted_count == 300
        assert floor_grpc.confirmed_by(response) == 300
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            upsert(request)
    log = bench.index.log()
    assert [(upsert.key, upsert.records, upsert.accepted) for upsert in log.upserts] == [
        ("someone", 300, True),
        ("", 300, False),
    ]


def size_of(path: Path) -> int:
    """Return the bytes of the records as protobuf's own library writes them."""
    return int(MESSAGES["UpsertRequest"](vectors=pq.read_table(path).to_pylist()).ByteSize())
