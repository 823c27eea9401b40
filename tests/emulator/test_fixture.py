"""The public interface of ``EmulatedIndex``, as a user's tests use it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import airflow_pinecone_upsert.emulator as package
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.emulator.store import DataFolderError

PROJECT = Path(__file__).parents[2]
UPSERT = "/vectors/upsert"


def test_the_fixture_is_an_empty_index_with_8_dimensions(pinecone_index):
    assert pinecone_index.dimension == 8
    assert pinecone_index.url.startswith("http://127.0.0.1:")
    assert pinecone_index.vectors() == {}
    assert pinecone_index.requests == []
    assert pinecone_index.max_in_flight == 0


def test_indexes_of_one_factory_are_separate(pinecone_index_factory, connect):
    first, second = pinecone_index_factory(2), pinecone_index_factory(2)
    connect(first).post(UPSERT, json={"vectors": [{"id": "a", "values": [1, 2]}]})
    assert set(first.vectors()) == {"a"}
    assert second.vectors() == {}


def test_vectors_returns_arrays(pinecone_index_factory, connect):
    index = pinecone_index_factory(2, metric="dotproduct")
    record = {"id": "a", "values": [0.1, 2], "sparseValues": {"indices": [7], "values": [0.5]}, "metadata": {"x": [""]}}
    connect(index).post(UPSERT, json={"vectors": [record], "namespace": "n"})
    stored = index.vectors("n")["a"]
    assert stored.values.dtype == np.float32
    assert stored.values.tolist() == np.float32([0.1, 2]).tolist()
    assert (stored.sparse_indices.dtype, stored.sparse_indices.tolist()) == (np.uint32, [7])
    assert (stored.sparse_values.dtype, stored.sparse_values.tolist()) == (np.float32, [0.5])
    assert stored.metadata == {"x": [""]}


def test_connection_json_is_an_airflow_connection(pinecone_index):
    connection = json.loads(pinecone_index.connection_json())
    assert f"{connection.pop('host')}:{connection.pop('port')}" == pinecone_index.url
    assert connection == {"conn_type": "pinecone_upsert", "password": pinecone_index.api_key}


def test_requests_are_logged(pinecone_index, connect):
    http = connect(pinecone_index, **{"User-Agent": "me/1"})
    body = {"vectors": [{"id": name, "values": [1] * 8} for name in "ab"], "namespace": "n"}
    http.post(UPSERT, json=body)
    http.get("/vectors/fetch", params={"ids": ["a", "b"], "namespace": "m"})
    http.post("/vectors/delete", json={"ids": ["a"]})
    http.post(UPSERT, content=b"no json")
    upsert, fetch, delete, broken = pinecone_index.requests
    assert (upsert.method, upsert.path, upsert.status, upsert.http_version) == ("POST", UPSERT, 200, "1.1")
    assert (upsert.ids, upsert.record_count, upsert.namespace) == (("a", "b"), 2, "n")
    assert upsert.body_bytes == int(upsert.headers["content-length"])
    assert upsert.user_agent == "me/1"
    assert upsert.started_at <= upsert.finished_at <= fetch.finished_at
    assert (fetch.method, fetch.ids, fetch.namespace) == ("GET", ("a", "b"), "m")
    assert (delete.ids, delete.namespace) == (("a",), "")
    assert (broken.ids, broken.status, broken.body_bytes) == ((), 400, 7)


def test_the_key_is_not_logged(pinecone_index, connect):
    connect(pinecone_index).get("/namespaces")
    assert pinecone_index.api_key not in repr(pinecone_index.requests)


def test_requests_with_faults_are_logged(pinecone_index, connect):
    http = connect(pinecone_index)
    for fault in (Fault.status(503), Fault.reset(), Fault.lost_ack()):
        pinecone_index.faults.next(fault)
    body = {"vectors": [{"id": "a", "values": [1] * 8}]}
    assert http.post(UPSERT, json=body).status_code == 503
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            http.post(UPSERT, json=body)
    assert [(request.status, request.ids) for request in pinecone_index.requests] == [
        (503, ("a",)),
        (None, ("a",)),
        (None, ("a",)),
    ]


def test_max_in_flight_counts_concurrent_requests(pinecone_index, connect):
    http = connect(pinecone_index)
    pinecone_index.faults.next(Fault.stall(0.3), times=3)
    barrier = threading.Barrier(3)

    def call(_):
        barrier.wait()
        return http.get("/namespaces").status_code

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(call, range(3))) == [200] * 3
    assert pinecone_index.max_in_flight == 3
    http.get("/namespaces")
    assert pinecone_index.max_in_flight == 3


def test_requests_are_not_logged_by_default():
    with EmulatedIndex(2) as index:
        httpx.get(f"{index.url}/namespaces", headers={"Api-Key": "k"})
        assert index.requests == []


def test_close_frees_the_port_and_ends_the_thread():
    threads = set(threading.enumerate())
    with EmulatedIndex(2) as index:
        port = int(index.url.rsplit(":", 1)[1])
    index.close()
    assert set(threading.enumerate()) <= threads  # those of earlier tests may have ended, too
    with EmulatedIndex(2, port=port) as successor:
        assert successor.url == index.url


def test_a_port_in_use_raises_oserror(pinecone_index):
    port = int(pinecone_index.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        EmulatedIndex(2, port=port).start()


def test_concurrent_clients(pinecone_index_factory, connect):
    index = pinecone_index_factory(2)
    http = connect(index)

    def load(n):
        vectors = [{"id": f"{n}-{m}", "values": [n + 1, m + 1]} for m in range(50)]
        return http.post(UPSERT, json={"vectors": vectors}).json()["upsertedCount"]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(load, range(40))) == 2000
    assert len(index.vectors()) == 2000


def test_records_in_a_data_folder_are_kept(tmp_path):
    for count in range(3):
        with EmulatedIndex(2, data=tmp_path / "data") as index:
            assert len(index.vectors()) == count
            httpx.post(
                index.url + UPSERT,
                json={"vectors": [{"id": f"{count}", "values": [1, 2]}]},
                headers={"Api-Key": "k"},
            )
            assert index.store.lsn == count + 1


def test_a_data_folder_belongs_to_one_kind_of_index(tmp_path):
    with EmulatedIndex(2, data=tmp_path):
        pass
    for options in ({"dimension": 3}, {"dimension": 2, "metric": "euclidean"}, {"vector_type": "sparse"}):
        with pytest.raises(DataFolderError, match="contains a dense index, 2 dimensions, cosine, not a"):
            EmulatedIndex(**options, data=tmp_path)
    with EmulatedIndex(2, data=tmp_path):
        pass


def test_a_data_folder_is_used_by_one_process_at_a_time(tmp_path):
    with EmulatedIndex(2, data=tmp_path), pytest.raises(DataFolderError, match="database is locked"):
        EmulatedIndex(2, data=tmp_path)


def test_a_file_that_is_not_a_database_is_rejected(tmp_path):
    (tmp_path / "index.sqlite3").write_bytes(b"something else entirely" * 100)
    with pytest.raises(DataFolderError, match="not a database"):
        EmulatedIndex(2, data=tmp_path)


def test_public_names():
    assert set(package.__all__) == {
        "Fault",
        "Faults",
        "IndexSpec",
        "EmulatedIndex",
        "RequestRecord",
        "Store",
        "StoredRecord",
        "create_app",
    }
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_imports_are_light_and_free_of_airflow_and_arrow():
    script = """
import sys
sys.modules["airflow"] = sys.modules["pyarrow"] = None
import airflow_pinecone_upsert.emulator
assert not {"numpy", "starlette", "uvicorn", "sqlite3"} & sys.modules.keys()
import airflow_pinecone_upsert.emulator.__main__, airflow_pinecone_upsert.emulator.pytest_plugin
"""
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)
