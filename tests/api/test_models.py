"""The models accept unknown keys in the server's responses, and reject a user's records that are not valid."""

import numpy as np
import pytest
from pydantic import ValidationError

from airflow_pinecone_upsert.api.models import (
    FetchResponse,
    IndexDescription,
    IndexSchema,
    IndexStats,
    Match,
    Record,
    SparseValues,
    UpsertResponse,
)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5], np.float16),
        np.array([1, 2.5], np.float32),
        [np.float32(1), np.float64(2.5)],
    ],
)
def test_a_vector_is_converted_to_float64(values):
    vector = Record(id="a", values=values).values
    assert vector.dtype == np.float64
    assert vector.tolist() == [1, 2.5]


def test_an_array_is_not_copied():
    values = np.ones(3)
    assert Record(id="a", values=values).values is values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("12", "expected a list of numbers, got str"),
        (b"12", "expected a list of numbers, got bytes"),
        (1.5, "expected a list of numbers, got float"),
        (iter([1.0]), "expected a list of numbers"),
        ([[1.0], [2.0]], "got 2 dimensions"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        (np.float32(1), "expected a list of numbers, got float32"),
        ([1.0, "2"], "element 1 is '2'"),
        ([True, False], "element 0 is True"),
        ([1.0, 0.0, True], "element 2 is True"),
        ((0.5, False, 1), "element 1 is False"),
        ([np.bool_(1), 2.0], "element 0 is of type bool"),
        ([1.0, None], "element 1 is None"),
        ([1j], "element 0 is 1j"),
        (np.array(["a"]), "element 0"),
    ],
)
def test_an_invalid_vector_is_rejected_with_the_reason(values, message):
    with pytest.raises(ValidationError, match=message) as caught:
        Record(id="a", values=values)
    assert [error["loc"] for error in caught.value.errors()] == [("values",)]


@pytest.mark.parametrize(
    ("given", "expected"), [("a", "a"), (7, "7"), (np.int64(7), "7"), (np.uint8(7), "7"), (-1, "-1")]
)
def test_an_id_is_a_string_or_the_digits_of_an_integer(given, expected):
    assert Record(id=given).id == expected


@pytest.mark.parametrize("given", [True, None, 1.5, [], "\ud800"])
def test_an_id_of_another_type_is_rejected(given):
    with pytest.raises(ValidationError):
        Record(id=given)


@pytest.mark.parametrize("indices", [[0, 2**32 - 1], np.array([0, 2**32 - 1], np.uint32), [0.0, 4294967295.0]])
def test_indices_are_int64(indices):
    sparse = SparseValues(indices=indices, values=[0.5, 0.25])
    assert sparse.indices.dtype == np.int64
    assert sparse.indices.tolist() == [0, 2**32 - 1]


@pytest.mark.parametrize("indices", [[0.5], [float("nan")], [float("inf")], ["1"]])
def test_indices_that_are_not_whole_numbers_are_rejected(indices):
    with pytest.raises(ValidationError, match="not a"):
        SparseValues(indices=indices, values=[0.5])


def test_keys_are_camel_case_in_json_and_snake_case_in_python():
    sparse = {"indices": [1], "values": [0.5]}
    for record in (Record(id="a", sparse_values=sparse), Record.model_validate({"id": "a", "sparseValues": sparse})):
        assert record.sparse_values.indices.tolist() == [1]
        assert record.model_dump(by_alias=True, exclude_none=True) == {"id": "a", "sparseValues": sparse}


def test_responses_of_the_real_service():
    stats = b'{"namespaces":{"":{"vectorCount":5}},"dimension":1024,"indexFullness":0,"totalVectorCount":5,"metric":"cosine"}'
    assert IndexStats.model_validate_json(stats).namespaces[""].vector_count == 5
    assert IndexStats.model_validate_json(b"{}").dimension is None
    assert UpsertResponse.model_validate_json(b'{"upsertedCount":3}').upserted_count == 3
    assert UpsertResponse.model_validate_json(b"{}").upserted_count == 0  # the JSON form of protobuf may omit a zero
    fetched = FetchResponse.model_validate_json(
        b'{"vectors":{"a":{"id":"a","values":[1,2]}},"namespace":"","usage":{}}'
    )
    assert fetched.vectors["a"].values.tolist() == [1, 2]
    described = IndexDescription.model_validate_json(
        b'{"name":"docs","host":"docs-abc.svc.pinecone.io","dimension":3,"metric":"cosine","vector_type":"dense","spec":{}}'
    )
    assert (described.host, described.index_schema) == ("docs-abc.svc.pinecone.io", None)


@pytest.mark.parametrize(
    ("fields", "documents"),
    [
        ({"embedding": {"type": "dense_vector", "dimension": 3, "metric": "cosine"}}, True),
        ({"sparse_embedding": {"type": "sparse_vector"}}, True),
        ({"body": {"type": "string", "full_text_search": {"language": "en"}}, "genre": {"filterable": True}}, True),
        ({"_values": {"type": "dense_vector"}, "_sparse_values": {"type": "sparse_vector"}}, False),
        ({"_sparse_values": {"type": "sparse_vector"}, "genre": {"type": "string", "filterable": True}}, False),
        ({"text": {"type": "semantic_text", "model": "multilingual-e5-large"}}, False),
        ({"genre": {"filterable": True}}, False),
        ({}, False),
    ],
)
def test_the_schema_shows_whether_the_index_holds_documents(fields, documents):
    assert IndexSchema(fields=fields).is_of_documents is documents


def test_unknown_keys_of_a_response_are_ignored():
    assert Match.model_validate_json(b'{"id":"a","score":1,"novelty":{"x":[1]}}').id == "a"


def test_an_invalid_response_is_not_quoted():
    """A server may echo the API key."""
    with pytest.raises(ValidationError) as caught:
        UpsertResponse.model_validate_json(b'{"upsertedCount":"secret"}')
    assert "secret" not in str(caught.value)
