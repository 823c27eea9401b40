"""The official SDK for API version 2025-04 (``pinecone==7.3.0``) works with the emulator as with the real service."""

from __future__ import annotations

import numpy as np
import pinecone
import pytest
from pinecone.exceptions import NotFoundException, PineconeApiException, UnauthorizedException


@pytest.fixture
def emulator(pinecone_index_factory):
    return pinecone_index_factory(3, metric="dotproduct")


@pytest.fixture
def index(emulator):
    with pinecone.Pinecone(api_key=emulator.api_key).Index(host=emulator.url) as client:
        yield client


def test_the_sdk_version_is_that_of_api_2025_04():
    assert pinecone.__version__ == "7.3.0"


def test_upsert_and_fetch(emulator, index):
    response = index.upsert([("a", [0.1, 0.2, 0.3], {"genre": "drama", "year": 2020})], namespace="n")
    assert response.upserted_count == 1
    fetched = index.fetch(["a", "absent"], namespace="n")
    assert list(fetched.vectors) == ["a"]
    assert np.float32(fetched.vectors["a"].values).tobytes() == np.float32([0.1, 0.2, 0.3]).tobytes()
    assert fetched.vectors["a"].metadata == {"genre": "drama", "year": 2020}
    assert set(emulator.vectors("n")) == {"a"}


def test_upsert_in_batches(emulator, index):
    vectors = [{"id": f"{n:03}", "values": [float(n), 1.0, 1.0]} for n in range(250)]
    assert index.upsert(vectors, batch_size=100, show_progress=False).upserted_count == 250
    assert [request.record_count for request in emulator.requests] == [100, 100, 50]


def test_query_with_a_filter(index):
    index.upsert(
        [("a", [1.0, 0.0, 0.0], {"year": 2020}), ("b", [2.0, 0.0, 0.0], {"year": 2021}), ("c", [3.0, 0.0, 0.0], {})]
    )
    found = index.query(vector=[1.0, 0.0, 0.0], top_k=2, filter={"year": {"$gte": 2020}}, include_metadata=True)
    assert [(match.id, match.score, match.metadata) for match in found.matches] == [
        ("b", 2.0, {"year": 2021}),
        ("a", 1.0, {"year": 2020}),
    ]
    by_id = index.query(id="c", top_k=1, include_values=True)
    assert [(match.id, match.score, match.values) for match in by_id.matches] == [("c", 9.0, [3.0, 0.0, 0.0])]


def test_hybrid_query(index):
    index.upsert(
        [
            {"id": "a", "values": [1.0, 1.0, 1.0], "sparse_values": {"indices": [7], "values": [10.0]}},
            {"id": "b", "values": [2.0, 2.0, 2.0], "sparse_values": {"indices": [8], "values": [10.0]}},
        ]
    )
    found = index.query(
        vector=[1.0, 1.0, 1.0], sparse_vector={"indices": [7], "values": [0.5]}, top_k=2, include_values=True
    )
    assert [(match.id, match.score) for match in found.matches] == [("a", 8.0), ("b", 6.0)]
    assert found.matches[0].sparse_values.indices == [7]


def test_sparse_index(pinecone_index_factory):
    emulator = pinecone_index_factory(vector_type="sparse")
    with pinecone.Pinecone(api_key=emulator.api_key).Index(host=emulator.url) as index:
        index.upsert([{"id": "a", "sparse_values": {"indices": [1, 5], "values": [0.5, 2.0]}}])
        assert index.fetch(["a"]).vectors["a"].sparse_values.values == [0.5, 2.0]
        found = index.query(sparse_vector={"indices": [5], "values": [2.0]}, top_k=1)
        assert [(match.id, match.score) for match in found.matches] == [("a", 4.0)]
        assert index.describe_index_stats().vector_type == "sparse"


def test_update(index):
    index.upsert([("a", [1.0, 2.0, 3.0], {"genre": "drama"})])
    index.update(id="a", values=[3.0, 2.0, 1.0], set_metadata={"year": 1999})
    vector = index.fetch(["a"]).vectors["a"]
    assert vector.values == [3.0, 2.0, 1.0]
    assert vector.metadata == {"genre": "drama", "year": 1999}


def test_list_pages(index):
    index.upsert([(f"doc1#{n:03}", [1.0, 1.0, 1.0]) for n in range(150)] + [("doc2#0", [1.0, 1.0, 1.0])])
    pages = list(index.list(prefix="doc1#", limit=60))
    assert [len(page) for page in pages] == [60, 60, 30]
    assert [record_id for page in pages for record_id in page] == [f"doc1#{n:03}" for n in range(150)]


def test_delete(index):
    index.upsert([(name, [1.0, 1.0, 1.0], {"name": name}) for name in "abcd"])
    index.delete(ids=["a"])
    index.delete(filter={"name": "b"})
    assert [item for page in index.list() for item in page] == ["c", "d"]
    index.delete(delete_all=True)
    assert index.describe_index_stats().total_vector_count == 0
    with pytest.raises(NotFoundException, match="Namespace not found"):
        index.delete(delete_all=True)


def test_stats(index):
    index.upsert([("a", [1.0, 1.0, 1.0])])
    index.upsert([("a", [1.0, 1.0, 1.0]), ("b", [1.0, 1.0, 1.0])], namespace="n")
    stats = index.describe_index_stats()
    assert (stats.dimension, stats.metric, stats.total_vector_count) == (3, "dotproduct", 3)
    assert {name: summary.vector_count for name, summary in stats.namespaces.items()} == {"": 1, "n": 2}


def test_namespaces(index):
    for name in ("", "n1", "n2"):
        index.upsert([("a", [1.0, 1.0, 1.0])], namespace=name)
    names = [namespace.name for namespace in index.list_namespaces(limit=2)]
    assert names == ["__default__", "n1", "n2"]
    assert index.describe_namespace(namespace="n1").record_count == 1
    index.delete_namespace(namespace="n1")
    with pytest.raises(NotFoundException):
        index.describe_namespace(namespace="n1")


def test_control_plane(emulator):
    client = pinecone.Pinecone(api_key=emulator.api_key, host=emulator.url)
    description = client.describe_index("local")
    assert description.status.ready
    assert (description.dimension, description.metric, description.host) == (3, "dotproduct", emulator.url)
    with pytest.raises(NotFoundException):
        client.describe_index("other")


def test_errors_reach_the_caller(emulator, index):
    with pytest.raises(PineconeApiException, match="Vector dimension 2 does not match the dimension of the index 3"):
        index.upsert([("a", [1.0, 1.0])])
    with (
        pinecone.Pinecone(api_key="wrong").Index(host=emulator.url) as unauthorized,
        pytest.raises(UnauthorizedException, match="Invalid API Key"),
    ):
        unauthorized.describe_index_stats()
