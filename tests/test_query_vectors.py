"""The forms of vectors that a query takes, against the emulator."""

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest

RECORD = {"id": "a", "values": [1, 0], "sparseValues": {"indices": [5, 7], "values": [2, 1]}}


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2, metric="dotproduct")


@pytest.fixture
def client(index, open_client):
    return open_client(index.url, key=index.api_key)


def column(values):
    return pa.array([values], pa.list_(pa.float32(), len(values)))


def polars_series(values):
    return pytest.importorskip("polars").Series(values)


VECTOR_FORMS = [
    list,
    tuple,
    np.array,
    lambda values: np.array(values, np.float16),
    lambda values: np.array([values, values], ">f4").T[:, 0],  # neither contiguous nor in the machine's byte order
    pd.Series,
    lambda values: pd.Series(values, dtype="float32", index=["x", "y"]),
    lambda values: pd.Series(values, dtype="Float64"),
    polars_series,
    pa.array,
    lambda values: pa.array(values, pa.float32()),
    lambda values: pa.chunked_array([values[:1], values[1:]]),
    lambda values: column(values)[0],
]


@pytest.mark.parametrize("form", VECTOR_FORMS)
def test_a_query_takes_a_vector_in_every_form(client, form):
    client.upsert(UpsertRequest(EncodedRecords(["XCom"], [0], ["a"], [orjson.dumps(RECORD)], [b""], [""]), Envelope()))
    [match] = client.query(vector=form([0.5, 0.25]), include_values=True)
    assert (match.id, match.score) == ("a", 0.5)
    sparse = {"indices": form([5.0, 9.0]), "values": form([0.5, 0.25])}
    [both] = client.query(vector=form([0.5, 0.25]), sparse_vector=sparse)
    assert both.score == 1.5
    assert client.query(vector=match.values, sparse_vector=match.sparse_values)[0].score == 6


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ("12", "vector: .*expected a list of numbers, got str"),
        ([1.0, "2"], "element 1 is '2'"),
        ([[1.0, 2.0], [3.0, 4.0]], "got 2 dimensions"),
        ([1.0, float("nan")], "element 1 is nan"),
        (np.array([np.inf, 1.0]), "element 0 is inf"),
        (pd.Series([1.0, None]), "element 1 is nan, or missing"),
        (pa.array([None, 1.0]), "element 0 is nan, or missing"),
        (column([1.0, 2.0]), "vector"),
    ],
)
def test_an_invalid_vector_of_a_query_is_a_setup_error(index, client, vector, reason):
    with pytest.raises(SetupError, match=reason):
        client.query(vector=vector)
    with pytest.raises(SetupError, match=r"sparse_vector\.values"):
        client.query(sparse_vector={"indices": [1, 2], "values": vector})
    assert "/query" not in [request.path for request in index.requests]
