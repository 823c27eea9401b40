"""gRPC: the operations, rules, errors and faults of REST. Requests and responses are made and read by protobuf's own library."""

from __future__ import annotations

import grpc
import numpy as np
import orjson
import pytest
from google.protobuf import json_format

from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.emulator.messages import MESSAGES

ROUNDED_TWICE = np.uint32(0x15AE43FD).view(np.float32).item()
"""A float32 whose shortest decimal form rounds to its neighbour."""


def made(name, fields):
    return json_format.ParseDict(fields, MESSAGES[name]())


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(3, metric="dotproduct", grpc_port=0)


@pytest.fixture
def call():
    """Call an operation: ``call(index, "Upsert", {"vectors": […]})`` returns the response in its JSON form."""
    channels = []

    def call(index, name, fields, *, key=None, timeout=10):
        channels.append(channel := grpc.insecure_channel(f"127.0.0.1:{index.grpc_port}"))
        method = channel.unary_unary(
            f"/VectorService/{name}", lambda m: m.SerializeToString(), MESSAGES[f"{name}Response"].FromString
        )
        metadata = [("api-key", index.api_key if key is None else key)]
        request = fields if isinstance(fields, MESSAGES[f"{name}Request"]) else made(f"{name}Request", fields)
        response, done = method.with_call(request, metadata=metadata, timeout=timeout)
        call.metadata = dict(done.trailing_metadata())
        return json_format.MessageToDict(response)

    yield call
    for channel in channels:
        channel.close()


@pytest.fixture
def failure(call):
    """Make a call that fails, and return its status."""

    def failure(*arguments, **options):
        with pytest.raises(grpc.RpcError) as caught:
            call(*arguments, **options)
        return caught.value

    return failure


A = {"id": "a", "values": [1.0, 2.0, 3.0], "metadata": {"year": 2020, "tags": ["x"], "ok": True, "score": 0.5}}
B = {"id": "b", "values": [0.0, 1.0, 0.0], "sparseValues": {"indices": [7, 4_294_967_295], "values": [0.5, 2.0]}}


def test_an_upsert_stores_what_it_stores_over_rest(index, call, http):
    assert call(index, "Upsert", {"vectors": [A, B], "namespace": "grpc"}) == {"upsertedCount": 2}
    assert http.post("/vectors/upsert", json={"vectors": [A, B], "namespace": "rest"}).json() == {"upsertedCount": 2}
    over_grpc, over_rest = list(index.store.rows("grpc")), list(index.store.rows("rest"))
    assert [row[:4] for row in over_grpc] == [row[:4] for row in over_rest]
    assert [row.metadata and orjson.loads(row.metadata) for row in over_grpc] == [
        row.metadata and orjson.loads(row.metadata) for row in over_rest
    ]


def test_a_float32_is_stored_bit_for_bit(index, call):
    values = [ROUNDED_TWICE, -0.0, np.finfo(np.float32).max.item()]
    call(index, "Upsert", MESSAGES["UpsertRequest"](vectors=[MESSAGES["Vector"](id="a", values=values)]))
    assert index.vectors()["a"].values.tobytes() == np.float32(values).tobytes()


def test_a_record_is_read_back_in_every_way(index, call):
    call(index, "Upsert", {"vectors": [A, B]})
    assert call.metadata["x-pinecone-request-lsn"] == "1"
    assert call.metadata["x-pinecone-request-id"]
    assert call(index, "Fetch", {"ids": ["a", "absent"]})["vectors"] == {"a": A}
    assert call(index, "List", {"prefix": "", "limit": 1})["vectors"] == [{"id": "a"}]
    token = call(index, "List", {"limit": 1})["pagination"]["next"]
    assert call(index, "List", {"limit": 1, "paginationToken": token})["vectors"] == [{"id": "b"}]
    query = {"vector": [1, 0, 0], "topK": 1, "includeMetadata": True, "filter": {"year": {"$gte": 2020}}}
    assert call(index, "Query", query)["matches"] == [{"id": "a", "score": 1.0, "metadata": A["metadata"]}]
    assert call.metadata["x-pinecone-max-indexed-lsn"] == "1"
    by_id = call(index, "Query", {"id": "b", "topK": 1, "includeValues": True})["matches"]
    assert by_id == [{**B, "score": 5.25}]


def test_records_are_updated_deleted_and_counted(index, call):
    call(index, "Upsert", {"vectors": [A, B], "namespace": "n"})
    call(index, "Update", {"id": "a", "setMetadata": {"year": 1999}, "values": [3, 2, 1], "namespace": "n"})
    assert index.vectors("n")["a"].metadata == {**A["metadata"], "year": 1999}
    assert index.vectors("n")["a"].values.tolist() == [3, 2, 1]
    stats = call(index, "DescribeIndexStats", {})
    assert stats["namespaces"] == {"n": {"vectorCount": 2}}
    assert (stats["dimension"], stats["metric"], stats["totalVectorCount"]) == (3, "dotproduct", 2)
    call(index, "Delete", {"ids": ["a"], "namespace": "n"})
    assert set(index.vectors("n")) == {"b"}
    call(index, "Delete", {"deleteAll": True, "namespace": "n"})
    assert not index.vectors("n")


REJECTED = {
    "dimension": ("Upsert", "/vectors/upsert", {"vectors": [{"id": "a", "values": [1, 2]}]}),
    "zeros": ("Upsert", "/vectors/upsert", {"vectors": [{"id": "a", "values": [0, 0, 0]}]}),
    "no vector": ("Upsert", "/vectors/upsert", {"namespace": "n"}),
    "metadata": ("Upsert", "/vectors/upsert", {"vectors": [{**A, "metadata": {"x": None}}]}),
    "number as metadata": ("Upsert", "/vectors/upsert", {"vectors": [{**A, "metadata": {"x": [1, 2]}}]}),
    "sparse": (
        "Upsert",
        "/vectors/upsert",
        {"vectors": [{**B, "sparseValues": {"indices": [1, 1], "values": [1, 2]}}]},
    ),
    "id": ("Upsert", "/vectors/upsert", {"vectors": [{**A, "id": "é"}]}),
    "namespace": ("Upsert", "/vectors/upsert", {"vectors": [A], "namespace": "n" * 513}),
    "top_k": ("Query", "/query", {"vector": [1, 2, 3], "topK": 10_001}),
    "filter": ("Delete", "/vectors/delete", {"filter": {"x": {"$no": 1}}}),
    "nothing to delete": ("Delete", "/vectors/delete", {}),
    "unknown namespace": ("Delete", "/vectors/delete", {"deleteAll": True, "namespace": "absent"}),
}


@pytest.mark.parametrize(("name", "path", "fields"), REJECTED.values(), ids=REJECTED)
def test_the_rules_and_the_errors_are_those_of_rest(*, index, failure, http, name, path, fields):
    over_rest = http.post(path, json=fields).json()
    status = failure(index, name, fields)
    assert (status.code().value[0], status.details()) == (over_rest["code"], over_rest["message"])


def test_a_number_that_json_lacks_is_rejected(index, failure):
    record = MESSAGES["Vector"](id="a", values=[1, float("nan"), 1])
    status = failure(index, "Upsert", MESSAGES["UpsertRequest"](vectors=[record]))
    assert status.code() is grpc.StatusCode.INVALID_ARGUMENT
    record = MESSAGES["Vector"](id="a", values=[1, 1, 1])
    record.metadata["x"] = float("inf")
    assert failure(index, "Upsert", MESSAGES["UpsertRequest"](vectors=[record])).code() is status.code()


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_wrong_key(index, failure, key):
    status = failure(index, "Upsert", {"vectors": [A]}, key=key)
    assert (status.code(), status.details()) == (grpc.StatusCode.UNAUTHENTICATED, "Invalid API Key")
    assert not index.vectors()


def test_an_index_of_documents(pinecone_index_factory, failure):
    index = pinecone_index_factory(3, document_schema={"title": {"type": "string"}}, grpc_port=0)
    assert "This index has a document schema" in failure(index, "Upsert", {"vectors": [A]}).details()


def test_the_size_is_that_of_the_message(pinecone_index_factory, call, failure):
    """The JSON of these numbers is four times as long."""
    request = MESSAGES["UpsertRequest"](
        vectors=[MESSAGES["Vector"](id="a", values=np.random.default_rng(1).random(1_000))]
    )
    index = pinecone_index_factory(1_000, grpc_port=0, max_request_bytes=request.ByteSize())
    assert call(index, "Upsert", request) == {"upsertedCount": 1}
    assert [entry.body_bytes for entry in index.requests] == [request.ByteSize()]
    request.namespace = "n"
    assert "exceeds the maximum supported size" in failure(index, "Upsert", request).details()


UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("fault", "code", "is_written"),
    [
        (Fault.status(429, headers={"Retry-After": "7"}), EXHAUSTED, False),
        (Fault.status(503), UNAVAILABLE, False),
        (Fault.body(504, b"timed out"), grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (Fault.body(418, b"a teapot"), grpc.StatusCode.UNKNOWN, False),
        (Fault.body(200, b"<html>"), grpc.StatusCode.INTERNAL, False),
        (Fault.reset(), UNAVAILABLE, False),
        (Fault.lost_ack(), UNAVAILABLE, True),
    ],
)
def test_faults(*, index, call, failure, fault, code, is_written):
    index.faults.next(fault, path="/vectors/upsert")
    status = failure(index, "Upsert", {"vectors": [A]})
    assert status.code() is code
    if code is EXHAUSTED:
        assert dict(status.trailing_metadata())["retry-after"] == "7"
    assert set(index.vectors()) == ({"a"} if is_written else set())
    assert call(index, "Upsert", {"vectors": [A]}) == {"upsertedCount": 1}


def test_a_short_count_and_a_stall(index, call, failure):
    index.faults.next(Fault.short_count(1))
    assert call(index, "Upsert", {"vectors": [A, B]}) == {"upsertedCount": 1}
    assert set(index.vectors()) == {"a"}
    index.faults.next(Fault.stall(60))
    assert failure(index, "Upsert", {"vectors": [A]}, timeout=0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_connection_names_the_port(index):
    assert orjson.loads(index.connection_json())["extra"] == {"grpc_port": index.grpc_port}


def test_a_port_in_use(index):
    with pytest.raises(OSError, match="Choose another --grpc-port"):
        EmulatedIndex(3, grpc_port=index.grpc_port).start()


def test_without_a_port_there_is_no_grpc(pinecone_index):
    assert pinecone_index.grpc_port is None
