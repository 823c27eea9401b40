"""Query results, compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest

COUNT, DIMENSION = 500, 16


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(1).standard_normal((COUNT, DIMENSION)).astype(np.float32)


def load(http, matrix, **more):
    vectors = [
        {
            "id": f"{n:04}",
            "values": row.tolist(),
            "metadata": {"n": n},
            **{key: value[n] for key, value in more.items()},
        }
        for n, row in enumerate(matrix)
    ]
    assert http.post("/vectors/upsert", json={"vectors": vectors}).status_code == 200


def search(http, **query):
    response = http.post("/query", json=query)
    assert response.status_code == 200, response.text
    return response.json()["matches"]


def expected_scores(metric, matrix, query):
    matrix, query = matrix.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return ((matrix - query) ** 2).sum(axis=1)
    products = matrix @ query
    if metric == "dotproduct":
        return products
    return products / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("metric", ["cosine", "dotproduct", "euclidean"])
def test_scores_and_order_match_numpy(pinecone_index_factory, connect, matrix, metric):
    http = connect(pinecone_index_factory(DIMENSION, metric=metric))
    load(http, matrix)
    query = np.random.default_rng(2).standard_normal(DIMENSION).astype(np.float32)
    scores = expected_scores(metric, matrix, query)
    order = np.argsort(scores if metric == "euclidean" else -scores)[:50]
    matches = search(http, topK=50, vector=query.tolist())
    assert [match["id"] for match in matches] == [f"{n:04}" for n in order]
    np.testing.assert_allclose([match["score"] for match in matches], scores[order], rtol=1e-6)


def test_hybrid_scores_are_the_sum_of_both_products(pinecone_index_factory, connect, matrix):
    rng = np.random.default_rng(3)
    http = connect(pinecone_index_factory(DIMENSION, metric="dotproduct"))
    dense_sparse = rng.standard_normal((COUNT, 30)).astype(np.float32) * (rng.random((COUNT, 30)) < 0.2)
    dense_sparse[:, 0] = 0.5  # A record needs at least one entry to have sparse values at all.
    indices = [np.flatnonzero(row).tolist() for row in dense_sparse]
    load(
        http,
        matrix,
        sparseValues=[{"indices": i, "values": row[i].tolist()} for i, row in zip(indices, dense_sparse, strict=True)],
    )
    query, sparse_query = rng.standard_normal(DIMENSION).astype(np.float32), np.zeros(30, np.float32)
    sparse_query[[25, 0, 7]] = 1.5, -1, 2
    matches = search(
        http, topK=COUNT, vector=query.tolist(), sparseVector={"indices": [25, 0, 7], "values": [1.5, -1, 2]}
    )
    scores = matrix.astype(np.float64) @ query + dense_sparse.astype(np.float64) @ sparse_query
    order = np.argsort(-scores)
    assert [match["id"] for match in matches] == [f"{n:04}" for n in order]
    np.testing.assert_allclose([match["score"] for match in matches], scores[order], rtol=1e-5, atol=1e-6)


def test_a_sparse_query_matches_only_records_that_share_an_index(pinecone_index_factory, connect):
    http = connect(pinecone_index_factory(vector_type="sparse"))
    for name, indices, values in (("a", [1, 9], [1, 1]), ("b", [9, 4_294_967_295], [3, 1]), ("c", [2], [1])):
        body = {"vectors": [{"id": name, "sparseValues": {"indices": indices, "values": values}}]}
        assert http.post("/vectors/upsert", json=body).status_code == 200
    found = search(http, topK=10, sparseVector={"indices": [4_294_967_295, 9], "values": [10, 1]}, includeValues=True)
    assert found == [
        {
            "id": "b",
            "score": 13.0,
            "values": [],
            "sparseValues": {"indices": [9, 4_294_967_295], "values": [3.0, 1.0]},
        },
        {"id": "a", "score": 1.0, "values": [], "sparseValues": {"indices": [1, 9], "values": [1.0, 1.0]}},
    ]
    assert [match["id"] for match in search(http, topK=10, id="a")] == ["b", "a"]


@pytest.fixture
def http(pinecone_index, connect):
    return connect(pinecone_index)


def vector(*head):
    return [*head, *[0.0] * (8 - len(head))]


def upsert(http, **vectors):
    body = {"vectors": [{"id": name, "values": values, "metadata": {"name": name}} for name, values in vectors.items()]}
    assert http.post("/vectors/upsert", json=body).status_code == 200


def test_equal_scores_are_ordered_by_id(pinecone_index_factory, connect):
    http = connect(pinecone_index_factory(7))
    names = [f"{n:03}" for n in np.random.default_rng(4).permutation(300)]
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    http.post("/vectors/upsert", json={"vectors": [{"id": name, "values": values} for name in names]})
    matches = search(http, topK=300, vector=[0.9, 0.1, 0.4, 0.3, 0.3, 0.7, 0.2])
    assert [match["id"] for match in matches] == sorted(names)
    assert len({match["score"] for match in matches}) == 1


def test_a_match_contains_only_the_requested_fields(http):
    upsert(http, a=vector(3.0))
    assert search(http, topK=1, vector=vector(1.0)) == [{"id": "a", "score": 1.0, "values": []}]
    assert search(http, topK=1, vector=vector(1.0), includeValues=True, includeMetadata=True) == [
        {"id": "a", "score": 1.0, "values": vector(3.0), "metadata": {"name": "a"}}
    ]


def test_top_k_may_be_written_as_a_float(http):
    upsert(http, a=vector(1), b=vector(2))
    assert len(search(http, topK=1.0, vector=vector(1))) == 1


def test_search_by_id_finds_the_record_itself_first(http):
    upsert(http, a=vector(1, 1), b=vector(1, 0.9), c=vector(-1))
    assert [match["id"] for match in search(http, topK=2, id="b")] == ["b", "a"]
    assert search(http, topK=2, id="absent") == []


def test_a_filter_is_applied_before_top_k(http):
    upsert(http, a=vector(1), b=vector(0.5, 0.5), c=vector(0, 1))
    found = search(http, topK=1, vector=vector(1), filter={"name": {"$in": ["b", "c"]}})
    assert [match["id"] for match in found] == ["b"]


def test_a_zero_query_scores_zero_by_cosine(http):
    upsert(http, a=vector(1), b=vector(2))
    assert [(match["id"], match["score"]) for match in search(http, topK=2, vector=vector())] == [("a", 0), ("b", 0)]


@pytest.mark.parametrize("metric", ["dotproduct", "euclidean"])
def test_a_score_beyond_float32_is_clipped(pinecone_index_factory, connect, metric):
    http = connect(pinecone_index_factory(8, metric=metric))
    upsert(http, a=vector(3e38))
    [match] = search(http, topK=1, vector=vector(-3e38 if metric == "euclidean" else 3e38))
    assert np.float32(match["score"]) == np.finfo(np.float32).max


def test_an_unknown_namespace_has_no_matches(http):
    assert search(http, topK=1, vector=vector(1), namespace="nowhere") == []


def test_a_write_is_visible_to_the_next_query(http):
    def best():
        return [(match["id"], match["score"]) for match in search(http, topK=5, vector=vector(1))]

    upsert(http, a=vector(1))
    assert best() == [("a", 1)]
    upsert(http, b=vector(2))
    assert best() == [("a", 1), ("b", 1)]
    http.post("/vectors/update", json={"id": "a", "values": vector(-1)})
    assert best() == [("b", 1), ("a", -1)]
    http.post("/vectors/delete", json={"ids": ["b"]})
    assert best() == [("a", -1)]
    http.post("/vectors/delete", json={"filter": {"name": "a"}})
    assert best() == []
    upsert(http, a=vector(1))
    http.post("/vectors/delete", json={"deleteAll": True})
    assert best() == []
