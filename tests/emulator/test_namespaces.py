"""Namespaces and metadata filters, as API version 2025-10 has them."""

from __future__ import annotations

import pytest

VERSION = "X-Pinecone-Api-Version"
OLD, NEW = {VERSION: "2025-04"}, {VERSION: "2025-10"}


def record(record_id, **metadata):
    return {"id": record_id, "values": [1, 1, 1], "metadata": metadata}


def names(response):
    return [entry["name"] for entry in response.json()["namespaces"]]


# create, list, describe


def test_a_created_namespace_exists_without_records(http, index, upsert):
    schema = {"fields": {"genre": {"filterable": True}}}
    assert http.post("/namespaces", json={"name": "n", "schema": schema}).json() == {
        "name": "n",
        "record_count": 0,
        "schema": schema,
    }
    upsert(http, record("a"), namespace="n")
    http.post("/vectors/delete", json={"ids": ["a"], "namespace": "n"})
    assert http.get("/namespaces/n").json() == {"name": "n", "record_count": 0, "schema": schema}
    assert http.delete("/namespaces/n").status_code == 200
    assert http.get("/namespaces/n").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"name": ""}, 400, "Namespace name must not be empty"),
        ({"name": "ä"}, 400, "Namespace must be ASCII, but got 'ä'"),
        ({"name": "__default__"}, 400, "'__default__' is reserved: it always exists and cannot be created"),
        ({"name": "created"}, 409, "Namespace 'created' already exists"),
        ({"name": "written"}, 409, "Namespace 'written' already exists"),
        ({"name": "x", "schema": {}}, 400, "The schema of a namespace must have fields"),
        (
            {"name": "x", "schema": {"fields": {"genre": {"filterable": False}}}},
            400,
            "Field 'genre' is set to filterable: false. Only filterable: true is supported.",
        ),
    ],
)
def test_invalid_namespaces_are_not_created(http, upsert, body, status, message):
    http.post("/namespaces", json={"name": "created"})
    upsert(http, record("a"), namespace="written")
    response = http.post("/namespaces", json=body)
    assert (response.status_code, response.json()["message"]) == (status, message)


def test_created_namespaces_survive_a_restart(tmp_path, pinecone_index_factory, connect):
    index = pinecone_index_factory(3, data=tmp_path)
    connect(index).post("/namespaces", json={"name": "n"})
    index.close()
    http = connect(pinecone_index_factory(3, data=tmp_path))
    assert http.get("/namespaces/n").json() == {"name": "n", "record_count": 0}


def test_namespaces_are_listed_by_prefix(http, upsert):
    for name in ("a-1", "a-2", "a-3", "b"):
        upsert(http, record("x"), namespace=name)
    first = http.get("/namespaces", params={"prefix": "a-", "limit": 2}, headers=NEW)
    assert names(first) == ["a-1", "a-2"]
    assert first.json()["total_count"] == 3
    token = first.json()["pagination"]["next"]
    rest = http.get("/namespaces", params={"prefix": "a-", "limit": 2, "paginationToken": token}, headers=NEW)
    assert names(rest) == ["a-3"]
    assert "pagination" not in rest.json()
    older = http.get("/namespaces", params={"prefix": "a-"}, headers=OLD)
    assert names(older) == ["a-1", "a-2", "a-3", "b"]
    assert "total_count" not in older.json()


@pytest.mark.parametrize(("version", "count"), [("2025-04", 2), ("2026-04", 2), ("2026-07", "2"), ("2027-01", "2")])
def test_counts_are_decimal_strings_from_2026_07_on(http, upsert, version, count):
    upsert(http, record("a"), record("b"), namespace="n")
    described = {"name": "n", "record_count": count}
    assert http.get("/namespaces/n", headers={VERSION: version}).json() == described
    assert http.get("/namespaces", headers={VERSION: version}).json()["namespaces"] == [described]


# fetch and update by metadata


def test_fetch_by_metadata(http, upsert):
    upsert(http, *(record(f"{n}", even=n % 2 == 0) for n in range(9)), namespace="n")
    body = {"filter": {"even": True}, "namespace": "n", "limit": 3}
    first = http.post("/vectors/fetch_by_metadata", json=body).json()
    assert first["vectors"]["0"] == {"id": "0", "values": [1, 1, 1], "metadata": {"even": True}}
    assert (list(first["vectors"]), first["namespace"]) == (["0", "2", "4"], "n")
    body["paginationToken"] = first["pagination"]["next"]
    rest = http.post("/vectors/fetch_by_metadata", json=body).json()
    assert list(rest["vectors"]) == ["6", "8"]
    assert "pagination" not in rest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "A filter must be given"),
        ({"filter": {}}, "A filter must be given"),
        ({"filter": {"x": 1}, "limit": 0}, "limit must be between 1 and 10000, but got 0"),
        ({"filter": {"x": 1}, "limit": 10_001}, "limit must be between 1 and 10000, but got 10001"),
        ({"filter": {"x": {"$near": 1}}}, "$near is not a valid operator"),
    ],
)
def test_invalid_fetches_by_metadata(http, body, message):
    response = http.post("/vectors/fetch_by_metadata", json=body)
    assert (response.status_code, response.json()["message"]) == (400, message)


def test_update_by_filter(http, index, upsert):
    upsert(http, record("a", g="x", year=1), record("b", g="x"), record("c", g="y"), namespace="n")
    body = {"filter": {"g": "x"}, "setMetadata": {"year": 2}, "namespace": "n"}
    lsn = index.store.lsn
    assert http.post("/vectors/update", json={**body, "dryRun": True}).json() == {"matchedRecords": 2}
    assert (index.store.lsn, index.vectors("n")["a"].metadata) == (lsn, {"g": "x", "year": 1})
    assert http.post("/vectors/update", json=body).json() == {"matchedRecords": 2}
    assert {name: stored.metadata for name, stored in index.vectors("n").items()} == {
        "a": {"g": "x", "year": 2},
        "b": {"g": "x", "year": 2},
        "c": {"g": "y"},
    }
    assert http.post("/vectors/update", json={**body, "filter": {"g": "z"}}).json() == {"matchedRecords": 0}


@pytest.mark.parametrize(
    "field", [{"id": "a"}, {"values": [1, 2, 3]}, {"sparseValues": {"indices": [1], "values": [1]}}]
)
def test_an_update_by_filter_changes_only_metadata(http, field):
    response = http.post("/vectors/update", json={"filter": {"x": 1}, "setMetadata": {"x": 2}, **field})
    message = f"An update by filter changes only metadata, and cannot be combined with {next(iter(field))}"
    assert (response.status_code, response.json()["message"]) == (400, message)
