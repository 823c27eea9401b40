"""The client over real HTTP: each of its operations against the emulator."""

import gc
import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.hosts import index_url
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.api.limits import MAX_ID_LENGTH
from airflow_pinecone_upsert.client import describe_index
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.emulator.bodies import read_body, replay
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, Envelope, UpsertRequest
from tests.pipeline.held import Held

NO_FAULT = Fault.stall(0.0)


class Waits:
    """
    A ``sleep`` that does not wait. One backoff is several short waits, so they are added up.

    :ivar seconds: The sum of the waits after each attempt, by the number of the attempt.
    """

    def __init__(self, index):
        self.seconds = defaultdict(float)
        self._index = index

    def __call__(self, seconds):
        self.seconds[len(self._index.requests)] += seconds


@dataclass(frozen=True)
class RejectedId(Fault):
    """A rejection of the requests that contain this id."""

    record_id: str

    async def play(self, app, scope, receive, send):
        body = await read_body(receive)
        fault = Fault.status(400, "Invalid id") if self.record_id in orjson.loads(body)["ids"] else NO_FAULT
        await fault.play(app, scope, replay(body, receive), send)


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2, metric="dotproduct", name="docs")


@pytest.fixture
def client(index, open_client):
    return open_client(index.url)


@pytest.fixture
def waits(index):
    return Waits(index)


def upsert_request(*records, namespace=""):
    ids, bodies = [record["id"] for record in records], [orjson.dumps(record) for record in records]
    encoded = EncodedRecords(
        ["XCom"] * len(records), list(range(len(records))), ids, bodies, [b""] * len(ids), [""] * len(ids)
    )
    return UpsertRequest(encoded, Envelope(namespace))


def upsert(client, *records, namespace=""):
    return client.upsert(upsert_request(*records, namespace=namespace)).upserted_count


def numbered(count):
    return [{"id": f"r{n:04}", "values": [1, n], "metadata": {"n": n}} for n in range(count)]


def unknown_ids(count):
    return [f"u{n:04}" for n in range(count)]


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Upsert -----------------------------------------------------------------------------------------


def test_upsert_returns_what_the_server_confirmed(index, client):
    assert upsert(client, *numbered(3), namespace="ns") == 3
    assert list(index.vectors("ns")) == ["r0000", "r0001", "r0002"]


@pytest.mark.parametrize("fault", [None, Fault.status(503), Fault.body(200, b"?"), Fault.reset()], ids=repr)
def test_a_body_is_released_with_its_response(index, client, fault):
    """Two megabytes per request must not wait for the garbage collector."""
    request = upsert_request(*numbered(3))
    body = request.body
    if fault is not None:
        index.faults.next(fault)
    gc.collect()
    gc.disable()
    try:
        references = sys.getrefcount(request), sys.getrefcount(body)
        try:
            client.upsert(request)
        except exceptions.PineconeUpsertError:
            assert fault is not None
        assert (sys.getrefcount(request), sys.getrefcount(body)) == references
    finally:
        gc.enable()


def test_upsert_sends_one_request_and_does_not_retry(index, client):
    index.faults.next(Fault.status(503))
    with pytest.raises(exceptions.ServerError):
        upsert(client, *numbered(1))
    assert len(index.requests) == 1


# Reads ------------------------------------------------------------------------------------------


def test_describe_index_stats(client):
    upsert(client, *numbered(3), namespace="ns")
    stats = client.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count, stats.namespaces["ns"].vector_count) == (2, 3, 3)


def test_fetch_returns_any_number_of_records_by_id(index, client):
    upsert(client, *numbered(250))
    found = client.fetch([f"r{n:04}" for n in range(250)] + ["unknown"])
    assert sorted(found) == list(index.vectors())
    assert found["r0007"].values.tolist() == [1, 7]
    assert found["r0007"].metadata == {"n": 7}
    assert client.fetch([]) == {}
    assert client.fetch(["r0007"], namespace="other") == {}


def test_fetch_accepts_ids_of_any_characters(client):
    ids = ["a&b=c", "a/b", "a?b#c", "a b", "a+b", "%41", '"\\']
    upsert(client, *({"id": one, "values": [1, 2]} for one in ids), namespace="a&b/c")
    assert sorted(client.fetch(ids, namespace="a&b/c")) == sorted(ids)


def test_fetch_accepts_the_longest_ids(client):
    ids = [f"{number:&>{MAX_ID_LENGTH}}" for number in range(100)]
    upsert(client, *({"id": one, "values": [1, 2]} for one in ids))
    assert sorted(client.fetch(ids)) == sorted(ids)


def test_list_ids_reads_all_pages(client):
    upsert(client, *numbered(250))
    assert list(client.list_ids()) == [f"r{n:04}" for n in range(250)]
    assert list(client.list_ids(prefix="r000")) == [f"r{n:04}" for n in range(10)]
    assert list(client.list_ids(namespace="other")) == []


def test_query(client):
    upsert(client, *numbered(20), namespace="ns")
    [best, second] = client.query(vector=np.array([0.0, 1.0], np.float32), top_k=2, namespace="ns")
    assert (best.id, best.score, second.id) == ("r0019", 19.0, "r0018")
    assert best.metadata is None
    assert best.values is None or best.values.size == 0  # Pinecone sends an empty list
    [full] = client.query(
        id="r0001", top_k=1, filter={"n": {"$lt": 3}}, include_values=True, include_metadata=True, namespace="ns"
    )
    assert (full.id, full.values.tolist(), full.metadata) == ("r0002", [1, 2], {"n": 2})


def test_query_with_a_sparse_vector(client):
    record = {"id": "a", "values": [1, 0], "sparseValues": {"indices": [5], "values": [2]}}
    upsert(client, record)
    [match] = client.query(vector=[1.0, 0.0], sparse_vector={"indices": [5], "values": [3.0]}, include_values=True)
    assert match.score == 7
    assert match.sparse_values.indices.tolist() == [5]


# Delete -----------------------------------------------------------------------------------------


def test_delete_by_any_number_of_ids(index, client):
    for start in range(0, 2_500, 500):
        upsert(client, *numbered(2_500)[start : start + 500])
    client.delete(ids=[f"r{n:04}" for n in range(2_499)])
    assert list(index.vectors()) == ["r2499"]
    client.delete(ids=[])
    assert list(index.vectors()) == ["r2499"]


def test_delete_by_filter_and_all_of_a_namespace(index, client):
    upsert(client, *numbered(10), namespace="ns")
    client.delete(filter={"n": {"$gte": 3}}, namespace="ns")
    assert len(index.vectors("ns")) == 3
    client.delete(delete_all=True, namespace="ns")
    assert index.vectors("ns") == {}
    with pytest.raises(exceptions.NotFoundError, match="Namespace not found"):
        client.delete(delete_all=True, namespace="unknown")


@pytest.mark.parametrize("arguments", [{}, {"ids": ["a"], "delete_all": True}, {"ids": [], "filter": {}}])
def test_delete_requires_exactly_one_of_ids_filter_and_delete_all(index, client, arguments):
    with pytest.raises(exceptions.SetupError, match="exactly one of ids, filter and delete_all"):
        client.delete(**arguments)
    assert not index.requests


def test_ids_are_deleted_1000_per_request_in_one_namespace(index, client):
    upsert(client, *numbered(2), namespace="ns")
    upsert(client, *numbered(2))
    ids = ["r0001", *unknown_ids(2_000)]
    client.delete(ids=ids, namespace="ns")
    assert (list(index.vectors("ns")), list(index.vectors())) == (["r0000"], ["r0000", "r0001"])
    deletes = [request for request in index.requests if request.path == "/vectors/delete"]
    assert sorted(request.record_count for request in deletes) == [1, 1_000, 1_000]
    assert {request.namespace for request in deletes} == {"ns"}
    assert sorted(one for request in deletes for one in request.ids) == sorted(ids)


def test_ids_are_deleted_by_parallel_requests(index, open_client):
    """One request is answered after the other two. If those waited for it, it would time out and be sent again."""
    index.faults.next(Held(NO_FAULT, until=lambda: len(index.requests) == 2))
    ids = unknown_ids(3_000)
    open_client(index.url, timeout_s=20.0).delete(ids=ids)
    assert sorted(request.ids[0] for request in index.requests) == ids[::1_000]
    assert index.max_in_flight >= 2


def test_ids_of_a_generator_are_read_while_others_are_deleted(index, client):
    ids = unknown_ids(4_000)

    def generate():
        yield from ids[:2_000]
        wait_until(lambda: index.requests)
        yield from ids[2_000:]

    client.delete(ids=generate())
    assert sorted(request.ids[0] for request in index.requests) == ids[::1_000]


@pytest.mark.parametrize("fault", [Fault.status(503), Fault.status(429), Fault.reset(), Fault.lost_ack()], ids=repr)
def test_a_delete_of_ids_is_retried_after_a_transient_failure(index, client, fault):
    upsert(client, *numbered(3))
    index.faults.next(fault)
    client.delete(ids=["r0000", *unknown_ids(1_000), "r0001"])
    assert list(index.vectors()) == ["r0002"]
    deletes = [request.record_count for request in index.requests if request.path == "/vectors/delete"]
    assert sorted(deletes) in ([2, 2, 1_000], [2, 1_000, 1_000])


def test_a_delete_fails_after_the_requests_in_flight_have_ended(index, client):
    upsert(client, *numbered(1))
    index.faults.next(Held(NO_FAULT, until=lambda: any(request.status == 401 for request in index.requests)))
    index.faults.next(Fault.status(401, "Invalid API Key"))

    def generate():
        yield from ["r0000", *unknown_ids(999)]
        wait_until(lambda: index.faults.pending == 1)  # the first request is held
        yield "unknown"

    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        client.delete(ids=generate())
    assert [request.status for request in index.requests] == [200, 401, 200]
    assert index.vectors() == {}


def test_a_rejected_id_fails_a_delete_after_the_others_are_deleted(index, client):
    upsert(client, *numbered(5))
    index.faults.next(RejectedId("r0002"), times=100)
    with pytest.raises(exceptions.BadRequestError, match="Invalid id"):
        client.delete(ids=[f"r{n:04}" for n in range(5)])
    assert list(index.vectors()) == ["r0002"]


def test_a_cancelled_delete_sends_no_further_request(index, client):
    upsert(client, *numbered(2))
    cancellation = CancellationToken()

    def generate():
        yield from ["r0000", *unknown_ids(999)]
        cancellation.cancel()
        yield "r0001"

    with pytest.raises(exceptions.IncompleteUpsertError, match="was cancelled"):
        client.delete(ids=generate(), cancellation=cancellation)
    assert list(index.vectors()) == ["r0001"]


def test_a_cancelled_delete_does_not_wait_for_a_retry(index, client):
    cancellation = CancellationToken()
    unavailable = Fault.status(503, headers={"Retry-After": "100"})
    index.faults.next(Held(unavailable, until=lambda: cancellation.cancel() is None))
    with pytest.raises(exceptions.IncompleteUpsertError, match="was cancelled"):
        client.delete(ids=["a"], cancellation=cancellation)
    assert len(index.requests) == 1


# Namespaces -------------------------------------------------------------------------------------


def test_namespaces_are_listed_and_deleted(index, client):
    for name in ("a", "b/c", ""):
        upsert(client, *numbered(2), namespace=name)
    listed = {namespace.name: namespace.record_count for namespace in client.list_namespaces()}
    assert listed in ({"a": 2, "b/c": 2, "__default__": 2}, {"a": 2, "b/c": 2, "": 2})
    client.delete_namespace("b/c")
    client.delete_namespace("")
    assert (len(index.vectors("a")), index.vectors("b/c"), index.vectors("")) == (2, {}, {})
    with pytest.raises(exceptions.NotFoundError):
        client.delete_namespace("unknown")


def test_list_namespaces_reads_all_pages(client):
    for n in range(120):
        upsert(client, *numbered(1), namespace=f"ns{n:03}")
    assert [namespace.name for namespace in client.list_namespaces()] == [f"ns{n:03}" for n in range(120)]


# The control plane ------------------------------------------------------------------------------


def test_describe_index_finds_the_host(index):
    settings = ClientSettings(api_key=index.api_key)
    found = describe_index("docs", settings, control_plane_url=index.url)
    assert found.name == "docs"
    assert index_url(f"http://{found.host}" if "://" not in found.host else found.host) == index.url
    with pytest.raises(exceptions.NotFoundError):
        describe_index("no such/index", settings, control_plane_url=index.url)
    assert index.requests[-1].path.startswith("/indexes/no such")


def test_describe_index_rejects_an_index_that_holds_documents(pinecone_index_factory):
    fields = {"title": {"type": "string", "full_text_search": {}}, "embedding": {"type": "dense_vector"}}
    index = pinecone_index_factory(name="docs", document_schema=fields)
    with pytest.raises(exceptions.UnsupportedIndexError, match=r"'docs' has a document schema \(title, embedding\)"):
        describe_index("docs", ClientSettings(api_key=index.api_key), control_plane_url=index.url)


@pytest.mark.parametrize(("version", "sent"), [("2025-04", "2026-07"), ("2026-10", "2026-10")])
def test_describe_index_uses_a_version_that_reports_the_schema(index, version, sent):
    settings = ClientSettings(api_key=index.api_key, api_version=version)
    assert describe_index("docs", settings, control_plane_url=index.url).index_schema
    assert index.requests[-1].headers["x-pinecone-api-version"] == sent


def test_describe_index_is_retried(index, waits):
    index.faults.next(Fault.status(500), times=2)
    describe_index("docs", ClientSettings(api_key=index.api_key), control_plane_url=index.url, sleep=waits)
    assert len(index.requests) == 3
    assert list(waits.seconds) == [1, 2]


# Retries ----------------------------------------------------------------------------------------


def test_transient_failures_are_retried_after_growing_waits(index, open_client, waits):
    index.faults.next(Fault.status(503), times=2)
    index.faults.next(Fault.status(429, headers={"Retry-After": "7"}))
    index.faults.next(Fault.reset())
    assert open_client(index.url, sleep=waits).describe_index_stats().dimension == 2
    assert list(waits.seconds) == [1, 2, 3, 4]
    seconds = waits.seconds
    assert seconds[1] <= 1
    assert seconds[2] <= 2
    assert math.isclose(seconds[3], 7)
    assert seconds[4] <= 8


def test_attempts_are_bounded(index, open_client, waits):
    index.faults.next(Fault.status(503, "still starting"), times=5)
    with pytest.raises(exceptions.ServerError, match="still starting"):
        open_client(index.url, sleep=waits).describe_index_stats()
    assert (len(waits.seconds), len(index.requests)) == (4, 5)


def test_a_final_error_is_not_retried(index, open_client):
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        open_client(index.url, key="wrong", sleep=pytest.fail).describe_index_stats()
    assert len(index.requests) == 1


@pytest.mark.parametrize("method", ["fetch", "delete"])
def test_a_string_is_not_taken_for_a_list_of_ids(index, client, method):
    """Its characters would be: ``delete(ids="12")`` would delete the records 1 and 2."""
    with pytest.raises(exceptions.SetupError, match=r"ids is a string, '12'\. Pass a list of ids, such as \['12'\]"):
        getattr(client, method)(ids="12")
    assert not index.requests


@pytest.mark.parametrize("namespace", [".", ".."])
def test_a_namespace_that_no_url_can_name_is_not_deleted(index, client, namespace):
    with pytest.raises(exceptions.SetupError, match="a URL cannot contain it"):
        client.delete_namespace(namespace)
    assert not index.requests


def test_a_query_sees_what_a_write_reported(client):
    before = client.max_indexed_lsn("a")
    written = client.send(upsert_request({"id": "a", "values": [1, 2]}))
    assert client.max_indexed_lsn("a") >= written.lsn > before
    assert client.send(DeleteRequest(["a"])).lsn > written.lsn


@pytest.mark.parametrize("header", [None, "", "soon", "-1"])
def test_a_position_that_is_absent_or_no_number_is_none(serve, reply, open_client, header):
    headers = {} if header is None else {"x-pinecone-max-indexed-lsn": header}
    server = serve(reply(body=b'{"matches":[]}', headers=headers))
    assert open_client(server.url).max_indexed_lsn("a") is None


# Bulk imports -----------------------------------------------------------------------------------


@pytest.fixture
def import_folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "n").mkdir()
    pq.write_table(pa.table({"id": ["a", "b"], "values": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "n" / "0.parquet")
    return str(tmp_path)


def test_an_import_is_started_described_listed_and_cancelled(index, client, import_folder):
    started = client.start_import(import_folder)
    described = client.describe_import(started)
    assert (described.status, described.records_imported, described.is_finished) == ("Completed", 2, True)
    assert str(described) == f"Import {started} is Completed: 100.0 %, 2 records imported"
    (request,) = [one for one in index.requests if one.method == "POST" and one.path == "/bulk/imports"]
    assert request.headers["x-pinecone-api-version"] == "2025-04"
    failed = client.start_import(import_folder, integration_id="i", error_mode="continue")
    client.cancel_import(failed)
    assert [(one.id, one.status) for one in client.list_imports()] == [(started, "Completed"), (failed, "Failed")]
    assert "already exists" in client.describe_import(failed).error
    with pytest.raises(exceptions.NotFoundError):
        client.cancel_import("404")


def test_imports_are_listed_page_by_page(client):
    ids = [client.start_import(f"/nowhere/{number}") for number in range(101)]
    assert [one.id for one in client.list_imports()] == ids


def test_an_import_is_started_with_one_attempt(index, client, import_folder):
    index.faults.next(Fault.status(503), path="/bulk/imports")
    with pytest.raises(exceptions.ServerError):
        client.start_import(import_folder)
    assert len(index.requests) == 1
