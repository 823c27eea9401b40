"""Every operation of the data plane, over real HTTP."""

from __future__ import annotations

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.emulator import EmulatedIndex, IndexSpec


def record(record_id, values=(1, 1, 1), **more):
    return {"id": record_id, "values": list(values), **more}


def listed(http, **parameters):
    page = http.get("/vectors/list", params=parameters).json()
    return [item["id"] for item in page["vectors"]], page.get("pagination", {}).get("next")


# upsert and fetch


def test_upsert_and_fetch(http, upsert):
    assert upsert(http, record("a", metadata={"n": 1, "t": ["x", "y"], "b": True}), record("b")).json() == {
        "upsertedCount": 2
    }
    assert http.get("/vectors/fetch", params={"ids": ["b", "a", "absent"]}).json() == {
        "vectors": {
            "a": {"id": "a", "values": [1.0, 1.0, 1.0], "metadata": {"n": 1, "t": ["x", "y"], "b": True}},
            "b": {"id": "b", "values": [1.0, 1.0, 1.0]},
        },
        "namespace": "",
        "usage": {"readUnits": 1},
    }


def test_an_upsert_replaces_the_whole_record(http, index, upsert):
    upsert(http, record("a", metadata={"x": 1}))
    upsert(http, record("a", (4, 5, 6)))
    stored = index.vectors()["a"]
    assert stored.values.tolist() == [4, 5, 6]
    assert stored.metadata is None


def test_the_last_record_of_an_id_wins_and_all_are_counted(http, index, upsert):
    response = upsert(http, record("a", (1, 0, 0)), record("b"), record("a", (0, 0, 2)))
    assert response.json() == {"upsertedCount": 3}
    assert index.vectors()["a"].values.tolist() == [0, 0, 2]


def test_null_and_protobuf_field_names_are_accepted(http, index, upsert):
    upsert(http, {"id": "a", "values": [1, 1, 1], "sparse_values": None, "metadata": None})
    assert index.vectors()["a"].metadata is None


def test_empty_metadata_are_no_metadata(http, index, upsert):
    upsert(http, record("a", metadata={}))
    assert "metadata" not in http.get("/vectors/fetch", params={"ids": "a"}).json()["vectors"]["a"]
    assert http.post("/vectors/update", json={"id": "a", "setMetadata": {}}).status_code == 200
    assert index.vectors()["a"].metadata is None


def test_integers_in_metadata_are_stored_as_doubles(http, index, upsert):
    upsert(http, record("a", metadata={"exact": 2**53, "rounded": 2**53 + 1}))
    assert index.vectors()["a"].metadata == {"exact": 2**53, "rounded": 2.0**53}


@pytest.fixture(scope="module")
def shared_http():
    with EmulatedIndex(3) as index, httpx.Client(base_url=index.url, headers={"Api-Key": "k"}) as client:
        yield client


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3).filter(any))
def test_float32_values_are_returned_bit_for_bit(shared_http, values):
    vector = np.array(values, np.float32)
    body = orjson.dumps({"vectors": [{"id": "a", "values": vector}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert shared_http.post("/vectors/upsert", content=body).status_code == 200
    fetched = orjson.loads(shared_http.get("/vectors/fetch", params={"ids": "a"}).content)
    assert np.array(fetched["vectors"]["a"]["values"], np.float32).tobytes() == vector.tobytes()


@given(st.floats(min_value=1e-30, max_value=3e38))
def test_doubles_are_rounded_like_numpy(shared_http, value):
    body = orjson.dumps({"vectors": [{"id": "a", "values": [value, -value, 1.0]}]})
    assert shared_http.post("/vectors/upsert", content=body).status_code == 200
    fetched = orjson.loads(shared_http.get("/vectors/fetch", params={"ids": "a"}).content)
    expected = np.array([value, -value, 1.0], np.float32)
    assert np.array(fetched["vectors"]["a"]["values"], np.float32).tobytes() == expected.tobytes()


# namespaces


@pytest.mark.parametrize(("written", "read"), [("", "__default__"), ("__default__", ""), ("n", "n")])
def test_the_default_namespace_has_two_names(http, written, read, upsert):
    upsert(http, record("a"), namespace=written)
    assert list(http.get("/vectors/fetch", params={"ids": "a", "namespace": read}).json()["vectors"]) == ["a"]


def test_namespaces_are_separate(http, upsert):
    upsert(http, record("a", (1, 0, 0)), namespace="n")
    upsert(http, record("a", (2, 0, 0)), namespace="m")
    assert http.get("/vectors/fetch", params={"ids": "a", "namespace": "n"}).json()["vectors"]["a"]["values"][0] == 1
    assert http.get("/vectors/fetch", params={"ids": "a"}).json()["vectors"] == {}


def test_stats_and_namespaces_use_different_default_names(http, upsert):
    upsert(http, record("a"))
    upsert(http, record("a"), record("b"), namespace="n/1")
    assert http.post("/describe_index_stats", json={}).json() == {
        "namespaces": {"": {"vectorCount": 1}, "n/1": {"vectorCount": 2}},
        "dimension": 3,
        "indexFullness": 0,
        "totalVectorCount": 3,
        "metric": "cosine",
        "vectorType": "dense",
    }
    assert http.get("/namespaces").json() == {
        "namespaces": [{"name": "__default__", "record_count": 1}, {"name": "n/1", "record_count": 2}]
    }
    assert http.get("/namespaces/n%2F1").json() == {"name": "n/1", "record_count": 2}
    assert http.get("/namespaces/__default__").json() == {"name": "__default__", "record_count": 1}


def test_namespaces_are_paginated(http, upsert):
    for name in ("b", "", "a", "c"):
        upsert(http, record("x"), namespace=name)
    first = http.get("/namespaces", params={"limit": 3}).json()
    assert [entry["name"] for entry in first["namespaces"]] == ["__default__", "a", "b"]
    rest = http.get("/namespaces", params={"limit": 3, "paginationToken": first["pagination"]["next"]}).json()
    assert [entry["name"] for entry in rest["namespaces"]] == ["c"]
    assert "pagination" not in rest


def test_delete_a_namespace(http, index, upsert):
    upsert(http, record("a"), namespace="n")
    assert http.delete("/namespaces/n").json() == {}
    assert index.vectors("n") == {}
    assert http.delete("/namespaces/n").status_code == 404


# list


def test_list_is_sorted_by_bytes_and_paginated(http, upsert):
    upsert(http, *(record(name) for name in ("b", "B", "a#2", "a#10", "a", "~", " ")))
    assert listed(http) == ([" ", "B", "a", "a#10", "a#2", "b", "~"], None)
    names, token = listed(http, limit=3)
    assert names == [" ", "B", "a"]
    assert listed(http, limit=100, paginationToken=token)[0] == ["a#10", "a#2", "b", "~"]


def test_list_by_prefix(http, upsert):
    upsert(http, *(record(name) for name in ("a#1", "a#2", "a#3", "a", "b#1", "a%", "A#1")))
    names, token = listed(http, prefix="a#", limit=2)
    assert names == ["a#1", "a#2"]
    assert listed(http, prefix="a#", limit=2, paginationToken=token) == (["a#3"], None)
    assert listed(http, prefix="%") == ([], None)


def test_a_full_last_page_has_no_token(http, upsert):
    upsert(http, *(record(f"{n:03}") for n in range(100)))
    names, token = listed(http)
    assert len(names) == 100
    assert token is None


# update


def test_update_replaces_values_and_merges_metadata(http, index, upsert):
    upsert(http, record("a", metadata={"x": 1, "y": 2}))
    body = {"id": "a", "values": [7, 8, 9], "setMetadata": {"y": 3, "z": ["q"]}}
    assert http.post("/vectors/update", json=body).json() == {}
    assert index.vectors()["a"].values.tolist() == [7, 8, 9]
    assert index.vectors()["a"].metadata == {"x": 1, "y": 3, "z": ["q"]}


def test_update_of_metadata_alone_keeps_the_values(http, index, upsert):
    upsert(http, record("a", (1, 2, 3)))
    http.post("/vectors/update", json={"id": "a", "setMetadata": {"x": 1}})
    assert index.vectors()["a"].values.tolist() == [1, 2, 3]
    assert index.vectors()["a"].metadata == {"x": 1}


def test_update_of_an_unknown_id_is_ignored(http, index):
    assert http.post("/vectors/update", json={"id": "a", "values": [1, 2, 3]}).json() == {}
    assert index.vectors() == {}


def test_update_of_sparse_values(pinecone_index_factory, connect, upsert):
    index = pinecone_index_factory(3, metric="dotproduct")
    http = connect(index)
    upsert(http, record("a"))
    http.post("/vectors/update", json={"id": "a", "sparseValues": {"indices": [4, 2], "values": [0.5, 1]}})
    assert index.vectors()["a"].sparse_indices.tolist() == [4, 2]
    assert index.vectors()["a"].sparse_values.tolist() == [0.5, 1]


# delete


def test_delete_by_ids(http, index, upsert):
    upsert(http, record("a"), record("b"))
    assert http.post("/vectors/delete", json={"ids": ["a", "absent"]}).json() == {}
    assert set(index.vectors()) == {"b"}


def test_delete_everything_in_one_namespace(http, index, upsert):
    upsert(http, record("a"))
    upsert(http, record("a"), namespace="n")
    assert http.post("/vectors/delete", json={"deleteAll": True, "namespace": "n"}).json() == {}
    assert index.vectors("n") == {}
    assert set(index.vectors()) == {"a"}


def test_delete_by_filter(http, index, upsert):
    upsert(http, record("a", metadata={"g": "x"}), record("b", metadata={"g": "y"}), record("c"))
    assert http.post("/vectors/delete", json={"filter": {"g": {"$ne": "y"}}}).json() == {}
    assert set(index.vectors()) == {"b"}


# headers, keys, the control plane


def test_writes_and_queries_report_lsns(http, upsert):
    first = int(upsert(http, record("a"), record("b")).headers["x-pinecone-request-lsn"])
    lsns = [first]
    for path, body in (
        ("/vectors/update", {"id": "a", "values": [2, 2, 2]}),
        ("/vectors/delete", {"ids": ["a"]}),
        ("/vectors/delete", {"filter": {"x": 1}}),
    ):
        lsns.append(int(http.post(path, json=body).headers["x-pinecone-request-lsn"]))
        query = http.post("/query", json={"topK": 1, "vector": [1, 1, 1]})
        assert int(query.headers["x-pinecone-max-indexed-lsn"]) == lsns[-1]
    assert lsns == sorted(set(lsns))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/vectors/fetch?ids=a"),
        ("GET", "/vectors/list"),
        ("POST", "/describe_index_stats"),
        ("GET", "/namespaces"),
        ("GET", "/namespaces/__default__"),
    ],
)
def test_other_reads_report_no_position(http, method, path, upsert):
    upsert(http, record("a"))
    response = http.request(method, path)
    assert response.status_code == 200
    assert not [name for name in response.headers if "lsn" in name]


def test_every_response_has_a_unique_request_id(http):
    responses = [http.get("/vectors/list"), http.get("/nowhere"), http.post("/query", content=b"{"), http.get("/query")]
    assert [response.status_code for response in responses] == [200, 404, 400, 405]
    assert len({response.headers["x-pinecone-request-id"] for response in responses}) == 4


@pytest.mark.parametrize("headers", [{}, {"Api-Key": ""}, {"Api-Key": "wrong"}, {"Api-Key": "schlüssel".encode()}])
@pytest.mark.parametrize("path", ["/vectors/upsert", "/query", "/vectors/delete"])
def test_a_wrong_key_is_rejected(index, headers, path):
    response = httpx.post(index.url + path, headers=headers, json={})
    assert (response.status_code, response.text) == (401, "Invalid API Key")
    assert response.headers["content-type"].startswith("text/plain")


def test_an_index_without_a_key_accepts_any_key(pinecone_index_factory):
    index = pinecone_index_factory(api_key=None)
    assert httpx.get(f"{index.url}/namespaces", headers={"Api-Key": "anything"}).status_code == 200
    assert httpx.get(f"{index.url}/namespaces").status_code == 401


def test_the_control_plane_describes_the_index(http, index):
    assert http.get("/indexes/local").json() == {
        "name": "local",
        "host": index.url,
        "dimension": 3,
        "metric": "cosine",
        "vector_type": "dense",
        "status": {"ready": True, "state": "Ready"},
        "deletion_protection": "disabled",
        "spec": {"serverless": {"cloud": "local", "region": "local"}},
    }
    new = http.get("/indexes/local", headers={"X-Pinecone-API-Version": "2026-07"}).json()
    assert "dimension" not in new
    assert new["schema"]["fields"] == {
        "_values": {"type": "dense_vector", "dimension": 3, "metric": "cosine"},
        "_sparse_values": {"type": "sparse_vector"},
    }
    response = http.get("/indexes/other")
    assert response.status_code == 404
    assert response.json() == {"error": {"code": "NOT_FOUND", "message": "Resource other not found"}, "status": 404}


def test_a_sparse_index_has_no_dimension(pinecone_index_factory, connect):
    http = connect(pinecone_index_factory(vector_type="sparse"))
    assert "dimension" not in http.get("/indexes/local").json()
    assert "dimension" not in http.post("/describe_index_stats", json={}).json()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dimension": None}, "dimension must be"),
        ({"dimension": 20_001}, "dimension must be"),
        ({"dimension": 0}, "dimension must be"),
        ({"dimension": 3, "metric": "manhattan"}, "metric must be"),
        ({"dimension": 3, "vector_type": "fuzzy"}, "vector_type must be"),
        ({"dimension": None, "vector_type": "sparse", "metric": "cosine"}, "has the metric dotproduct"),
        ({"dimension": 3, "vector_type": "sparse", "metric": "dotproduct"}, "has no dimension"),
    ],
)
def test_an_unsupported_index_is_rejected(options, reason):
    with pytest.raises(ValueError, match=reason):
        IndexSpec(**options)
