"""Eventual consistency on demand: what readers see before and after a write becomes visible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.emulator import IndexSpec, Store
from airflow_pinecone_upsert.emulator.records import Row
from tests.clock import Clock

LAG_S = 2.0


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def index(pinecone_index_factory, clock):
    return pinecone_index_factory(3, lag_s=LAG_S, clock=clock)


def record(record_id, values=(1, 1, 1), **metadata):
    return {"id": record_id, "values": list(values), "metadata": metadata}


def query(http, **more):
    return http.post("/query", json={"topK": 9, "vector": [1, 1, 1], "includeMetadata": True, **more})


def seen(http):
    """Return what each kind of reader sees of the default namespace."""
    stats = http.post("/describe_index_stats", json={}).json()
    return {
        "query": sorted(match["id"] for match in query(http).json()["matches"]),
        "fetch": sorted(http.get("/vectors/fetch", params={"ids": ["a", "b"]}).json()["vectors"]),
        "filter": sorted(http.post("/vectors/fetch_by_metadata", json={"filter": {"x": 1}}).json()["vectors"]),
        "list": [item["id"] for item in http.get("/vectors/list").json()["vectors"]],
        "stats": stats["namespaces"].get("", {}).get("vectorCount"),
    }


NOTHING = {"query": [], "fetch": [], "filter": [], "list": [], "stats": None}
BOTH = {"query": ["a", "b"], "fetch": ["a", "b"], "filter": ["a", "b"], "list": ["a", "b"], "stats": 2}


def test_a_write_becomes_visible_to_all_readers_at_once(http, index, clock, upsert):
    upsert(http, record("a", x=1), record("b", x=1))
    assert seen(http) == NOTHING
    assert set(index.vectors()) == {"a", "b"}
    clock.now += LAG_S - 0.001
    assert seen(http) == NOTHING
    clock.now += 0.001
    assert seen(http) == BOTH
    http.post("/vectors/delete", json={"ids": ["a", "b"]})
    assert seen(http) == BOTH
    clock.now += LAG_S
    assert seen(http) == NOTHING


def test_a_query_reports_the_last_visible_write(http, clock, upsert):
    lsns = []
    for name in "abc":
        lsns.append(upsert(http, record(name)).headers["x-pinecone-request-lsn"])
        clock.now += 1
    for visible in (2, 3):
        response = query(http)
        assert response.headers["x-pinecone-max-indexed-lsn"] == lsns[visible - 1]
        assert len(response.json()["matches"]) == visible
        clock.now += 1


def test_updates_and_deletes_by_filter_see_the_records_that_are_not_visible_yet(http, index, clock, upsert):
    upsert(http, record("a", x=1), record("b", x=2), record("c", x=1))
    update = {"filter": {"x": 1}, "setMetadata": {"y": 1}}
    assert http.post("/vectors/update", json=update).json() == {"matchedRecords": 2}
    http.post("/vectors/delete", json={"filter": {"x": 2}})
    http.post("/vectors/update", json={"id": "c", "setMetadata": {"x": 3}})
    assert seen(http)["list"] == []
    clock.now += LAG_S
    metadata = {match["id"]: match["metadata"] for match in query(http).json()["matches"]}
    assert metadata == {name: stored.metadata for name, stored in index.vectors().items()}
    assert metadata == {"a": {"x": 1, "y": 1}, "c": {"x": 3, "y": 1}}


def test_a_namespace_exists_before_its_records_are_visible(http, clock, upsert):
    upsert(http, record("a"), namespace="n")
    assert http.get("/namespaces/n").json() == {"name": "n", "record_count": 0}
    clock.now += LAG_S
    assert http.get("/namespaces/n").json() == {"name": "n", "record_count": 1}
    assert http.post("/vectors/delete", json={"deleteAll": True, "namespace": "n"}).status_code == 200
    assert http.get("/namespaces/n").status_code == 404
    assert http.post("/describe_index_stats", json={}).json()["namespaces"] == {"n": {"vectorCount": 1}}


def test_all_records_are_visible_after_a_restart(tmp_path, pinecone_index_factory, connect, upsert):
    index = pinecone_index_factory(3, lag_s=float("inf"), data=tmp_path)
    upsert(connect(index), record("a", x=1), record("b", x=1))
    assert seen(connect(index)) == NOTHING
    index.close()
    assert seen(connect(pinecone_index_factory(3, lag_s=float("inf"), data=tmp_path))) == BOTH


steps = st.one_of(
    st.tuples(st.just("upsert"), st.sampled_from("abcd"), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.sampled_from("abcd"), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([0.5, 1.0, 2.0])),
)


@given(st.lists(steps, max_size=30))
def test_readers_see_the_state_after_the_last_visible_write(script):
    clock = Clock(100.0)
    store = Store(IndexSpec(1), lag_s=LAG_S, clock=clock)
    state, history = {}, [(clock.now, {})]
    for action, name, number in script:
        if action == "wait":
            clock.now += number
            continue
        if action == "upsert":
            store.upsert("n", [Row(name, bytes([number] * 4))])
            state = {**state, name: bytes([number] * 4)}
        elif action == "delete":
            store.delete("n", [name])
            state = {key: value for key, value in state.items() if key != name}
        else:
            store.delete_all("n")
            state = {}
        history.append((clock.now + LAG_S, state))
        visible = [past for at, past in history if at <= clock.now]
        assert {row.id: row.values for row in store.fetch("n", "abcd")} == visible[-1]
        assert store.visible_lsn == len(visible) - 1
        assert {row.id: row.values for row in store.rows("n")} == state
    store.close()
