"""Namespace aliases, as API version 2026-07 has them: every operation, every reason, and what an alias does to others."""

from __future__ import annotations

import pytest

VERSION = "X-Pinecone-Api-Version"
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]


@pytest.fixture
def aliases(index, connect):
    """Open a client of API version 2026-07."""
    return connect(index, **{VERSION: "2026-07"})


def record(record_id, values=(1, 1, 1), **metadata):
    return {"id": record_id, "values": list(values), "metadata": metadata}


@pytest.fixture(autouse=True)
def namespaces(http, upsert):
    """Create two namespaces with one record each."""
    upsert(http, record("a", (1, 0, 0), g="x"), namespace="v1")
    upsert(http, record("b", (0, 1, 0), g="x"), namespace="v2")


def create(aliases, name="live", target="v1"):
    response = aliases.post("/namespace-aliases", json={"name": name, "target_namespace": target})
    assert response.status_code == 200, response.text
    return response.json()


def rejection(response):
    """Return the status and the reason of an error."""
    assert response.status_code >= 400, response.text
    detail = response.json()["details"][0]
    return response.status_code, detail["reason"]


def query(http, namespace):
    return http.post("/query", json={"topK": 9, "vector": [1, 1, 1], "namespace": namespace}).json()


# Reads


@pytest.mark.parametrize("version", ["", "2025-04", "2026-07"])
def test_reads_through_an_alias_are_served_by_its_target(index, aliases, connect, version):
    create(aliases)
    http = connect(index, **{VERSION: version})
    assert [match["id"] for match in query(http, "live")["matches"]] == ["a"]
    by_filter = http.post("/vectors/fetch_by_metadata", json={"filter": {"g": "x"}, "namespace": "live"}).json()
    fetched = http.get("/vectors/fetch", params={"ids": "a", "namespace": "live"}).json()
    listed = http.get("/vectors/list", params={"namespace": "live"}).json()
    assert list(by_filter["vectors"]) == list(fetched["vectors"]) == [item["id"] for item in listed["vectors"]] == ["a"]
    assert {answer["namespace"] for answer in (query(http, "live"), by_filter, fetched, listed)} == {"v1"}


def test_a_repoint_changes_what_readers_see(http, aliases):
    created = create(aliases)
    repointed = aliases.patch("/namespace-aliases/live", json={"target_namespace": "v2"}).json()
    assert (repointed["name"], repointed["target_namespace"]) == ("live", "v2")
    assert created["created_at"] == created["updated_at"] == repointed["created_at"] < repointed["updated_at"]
    again = aliases.patch("/namespace-aliases/live", json={"target_namespace": "v2"}).json()
    assert again["updated_at"] > repointed["updated_at"]
    assert (query(http, "live")["namespace"], query(http, "live")["matches"][0]["id"]) == ("v2", "b")
    assert aliases.get("/namespace-aliases/live").json() == again


def test_a_deleted_alias_reads_like_a_namespace_that_does_not_exist(http, aliases):
    create(aliases)
    assert aliases.delete("/namespace-aliases/live").json() == {}
    assert (query(http, "live")["namespace"], query(http, "live")["matches"]) == ("live", [])
    assert aliases.delete("/namespace-aliases/live").status_code == 404
    assert aliases.get("/namespace-aliases/live").status_code == 404
    assert aliases.patch("/namespace-aliases/live", json={"target_namespace": "v1"}).status_code == 404
    assert query(http, "v1")["matches"][0]["id"] == "a"


def test_an_alias_of_the_default_namespace(http, aliases):
    assert create(aliases, target="__default__")["target_namespace"] == "__default__"
    assert query(http, "live")["namespace"] == ""


def test_aliases_are_no_namespaces(http, aliases):
    create(aliases)
    assert [entry["name"] for entry in http.get("/namespaces").json()["namespaces"]] == ["v1", "v2"]
    assert set(http.post("/describe_index_stats", json={}).json()["namespaces"]) == {"v1", "v2"}


def test_aliases_survive_a_restart(tmp_path, pinecone_index_factory, connect, upsert):
    index = pinecone_index_factory(3, data=tmp_path)
    upsert(connect(index), record("a"), namespace="v1")
    created = create(connect(index, **{VERSION: "2026-07"}))
    index.close()
    http = connect(pinecone_index_factory(3, data=tmp_path), **{VERSION: "2026-07"})
    assert http.get("/namespace-aliases/live").json() == created


# Writes


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("POST", "/vectors/upsert", {"vectors": [record("a")], "namespace": "live"}), (409, "NAME_IN_USE_BY_ALIAS")),
        (
            ("POST", "/vectors/update", {"id": "a", "setMetadata": {"x": 1}, "namespace": "live"}),
            (400, "WRITE_TO_ALIAS"),
        ),
        (("POST", "/vectors/delete", {"ids": ["a"], "namespace": "live"}), (400, "WRITE_TO_ALIAS")),
        (("POST", "/vectors/delete", {"deleteAll": True, "namespace": "live"}), (400, "WRITE_TO_ALIAS")),
        (("POST", "/namespaces", {"name": "live"}), (409, "NAME_IN_USE_BY_ALIAS")),
        (("GET", "/namespaces/live", None), (400, "NAMESPACE_OPERATION_ON_ALIAS")),
        (("DELETE", "/namespaces/live", None), (400, "NAMESPACE_OPERATION_ON_ALIAS")),
        (("DELETE", "/namespaces/v1", None), (400, "NAMESPACE_TARGETED_BY_ALIAS")),
    ],
)
@pytest.mark.parametrize("version", ["2025-04", "2026-07"])
def test_what_an_alias_forbids(index, aliases, version, call, expected):
    create(aliases)
    lsn = index.store.lsn
    method, path, body = call
    aliases.headers[VERSION] = version
    assert rejection(aliases.request(method, path, json=body)) == expected
    assert index.store.lsn == lsn


def test_the_target_of_an_alias_outlives_its_records(http, index, aliases, upsert):
    create(aliases)
    assert http.post("/vectors/delete", json={"deleteAll": True, "namespace": "v1"}).status_code == 200
    assert http.get("/namespaces/v1").json() == {"name": "v1", "record_count": 0}
    assert query(http, "live")["namespace"] == "v1"
    upsert(http, record("c"), namespace="v1")
    assert query(http, "live")["matches"][0]["id"] == "c"
    aliases.delete("/namespace-aliases/live")
    assert http.delete("/namespaces/v1").status_code == 200


# Reasons


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "new", "target_namespace": "nowhere"}, (400, "TARGET_NAMESPACE_NOT_FOUND")),
        ({"name": "new", "target_namespace": "live"}, (400, "TARGET_IS_ALIAS")),
        ({"name": "new"}, (400, "TARGET_NAMESPACE_REQUIRED")),
        ({"name": "new", "target_namespace": ""}, (400, "TARGET_NAMESPACE_REQUIRED")),
        ({"name": "new", "target_namespace": "n" * 513}, (400, "NAMESPACE_TOO_LONG")),
        ({"name": "new", "target_namespace": "ä"}, (400, "NAMESPACE_INVALID")),
        ({"name": "live", "target_namespace": "v2"}, (409, "ALIAS_ALREADY_EXISTS")),
        ({"name": "v2", "target_namespace": "v1"}, (409, "NAME_IN_USE_BY_NAMESPACE")),
    ],
)
def test_a_create_that_is_rejected(aliases, body, expected):
    create(aliases)
    assert rejection(aliases.post("/namespace-aliases", json=body)) == expected
    if "name" in body and expected[0] == 400 and body["name"] == "new":
        del body["name"]
        assert rejection(aliases.patch("/namespace-aliases/live", json=body)) == expected
    assert aliases.get("/namespace-aliases").json()["total_count"] == 1


def test_a_repeated_create_names_the_current_target(aliases):
    create(aliases)
    response = aliases.post("/namespace-aliases", json={"name": "live", "target_namespace": "v1"})
    assert response.json()["details"][0]["metadata"] == {"target_namespace": "v1"}


@pytest.mark.parametrize("name", ["", "a b", "a\0", "ä", "x" * 513, "__default__", ".", "..", *'/?#%&=\\;+"'[:-1]])
def test_invalid_names(aliases, name):
    body = {"name": name, "target_namespace": "v1"}
    assert rejection(aliases.post("/namespace-aliases", json=body)) == (400, "ALIAS_NAME_INVALID")


def test_valid_names(aliases):
    for character in sorted({*PRINTABLE} - {*"/?#%&=\\;+"}):
        assert create(aliases, name=f"live{character}")["name"] == f"live{character}"


def test_an_index_has_at_most_1000_aliases(aliases):
    for number in range(1_000):
        create(aliases, name=f"{number}")
    response = aliases.post("/namespace-aliases", json={"name": "more", "target_namespace": "v1"})
    assert rejection(response) == (400, "ALIASES_PER_INDEX_EXCEEDED")


@pytest.mark.parametrize(
    "call",
    [
        ("POST", "/namespace-aliases", {"name": "new", "target_namespace": "v1"}),
        ("PATCH", "/namespace-aliases/live", {"target_namespace": "v2"}),
        ("GET", "/namespace-aliases/live", None),
        ("GET", "/namespace-aliases", None),
        ("DELETE", "/namespace-aliases/live", None),
    ],
)
@pytest.mark.parametrize("version", ["", "2025-04", "2026-04"])
def test_older_versions_have_no_aliases(index, connect, aliases, version, call):
    created = create(aliases)
    method, path, body = call
    response = connect(index, **{VERSION: version}).request(method, path, json=body)
    assert rejection(response) == (400, "API_VERSION_TOO_OLD")
    assert aliases.get("/namespace-aliases").json()["namespace_aliases"] == [created]


# Lists


def listed(aliases, **parameters):
    return aliases.get("/namespace-aliases", params=parameters)


@pytest.fixture
def many(aliases):
    """Create aliases of both namespaces."""
    for name, target in (("b-2", "v2"), ("a-1", "v1"), ("a-3", "v1"), ("a-2", "v1"), ("a-4", "v2")):
        create(aliases, name, target)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["a-1", "a-2", "a-3", "a-4", "b-2"]),
        ({"prefix": "a-"}, ["a-1", "a-2", "a-3", "a-4"]),
        ({"target_namespace": "v2"}, ["a-4", "b-2"]),
        ({"prefix": "a-", "target_namespace": "v1"}, ["a-1", "a-2", "a-3"]),
        ({"target_namespace": "a-1"}, []),
    ],
)
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.usefixtures("many")
def test_aliases_are_listed_by_name_in_pages(aliases, filters, expected, repeat):
    names, parameters = [], {"limit": 2, **filters}
    while True:
        page = listed(aliases, **parameters).json()
        assert page["total_count"] == len(expected)
        names += [alias["name"] for alias in page["namespace_aliases"]]
        if "pagination" not in page:
            break
        assert len(page["namespace_aliases"]) == 2
        parameters = {"limit": 2, **(filters if repeat else {}), "paginationToken": page["pagination"]["next"]}
    assert names == expected


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"limit": 0}, "LIST_INVALID_LIMIT"),
        ({"limit": 101}, "LIST_INVALID_LIMIT"),
        ({"paginationToken": "x"}, "INVALID_PAGINATION_TOKEN"),
        ({"target_namespace": ""}, "TARGET_FILTER_EMPTY"),
        ({"prefix": "x" * 513}, "PREFIX_TOO_LONG"),
        ({"prefix": "ä"}, "PREFIX_MUST_BE_ASCII"),
        ({"prefix": "\0"}, "PREFIX_MUST_NOT_CONTAIN_NULL_CHARACTER"),
    ],
)
def test_invalid_listings(aliases, parameters, reason):
    assert rejection(listed(aliases, **parameters)) == (400, reason)


@pytest.mark.parametrize(
    ("first", "next_page", "reason"),
    [
        ({"prefix": "a-"}, {"prefix": "b-"}, "LIST_INVALID_TOKEN_WITH_PREFIX"),
        ({"target_namespace": "v1"}, {"target_namespace": "v2"}, "LIST_INVALID_TOKEN_WITH_TARGET"),
        ({}, {"prefix": "a-"}, "LIST_INVALID_TOKEN_WITH_NEW_PREFIX"),
        ({}, {"target_namespace": "v1"}, "LIST_INVALID_TOKEN_WITH_NEW_TARGET"),
    ],
)
@pytest.mark.usefixtures("many")
def test_filters_do_not_change_during_a_listing(aliases, first, next_page, reason):
    token = listed(aliases, limit=1, **first).json()["pagination"]["next"]
    assert rejection(listed(aliases, paginationToken=token, **next_page)) == (400, reason)


def test_a_token_of_another_listing_is_rejected(aliases):
    token = aliases.get("/namespaces", params={"limit": 1}).json()["pagination"]["next"]
    assert rejection(listed(aliases, paginationToken=token)) == (400, "INVALID_PAGINATION_TOKEN")


def test_an_unknown_parameter_is_rejected(aliases):
    assert listed(aliases, pagination_token="x").json()["message"] == "Unknown query parameter: pagination_token"
