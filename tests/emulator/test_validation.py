"""The emulator rejects what the real service rejects, with the same messages, and stores nothing of the request."""

from __future__ import annotations

import socket

import orjson
import pytest

from airflow_pinecone_upsert.emulator.bodies import MAX_READ_BYTES

SPARSE_UNSUPPORTED = (
    "Index configuration does not support sparse values - "
    "only indexes that are sparse or using dotproduct are supported"
)
METADATA_TYPES = "Metadata value must be a string, number, boolean or list of strings, got "


def post_rejected(http, path, body):
    """Post a request that is rejected, and return the error message, which is plain text or JSON."""
    response = http.post(path, json=body) if not isinstance(body, bytes) else http.post(path, content=body)
    assert response.status_code == 400, response.text
    if response.headers["content-type"].startswith("text/plain"):
        return response.text
    error = response.json()
    assert error == {"code": 3, "message": error["message"], "details": []}
    return error["message"]


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(2)


@pytest.fixture
def hybrid(pinecone_index_factory, connect):
    return connect(pinecone_index_factory(2, metric="dotproduct"))


@pytest.fixture
def sparse(pinecone_index_factory, connect):
    return connect(pinecone_index_factory(vector_type="sparse"))


VALID = {"id": "valid", "values": [1, 2]}


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"values": [1, 2]}, "Vector ID must not be empty"),
        ({"id": "", "values": [1, 2]}, "Vector ID must not be empty"),
        ({"id": "ä", "values": [1, 2]}, "Vector ID must be ASCII, but got 'ä'"),
        ({"id": "a\0", "values": [1, 2]}, "Vector ID must not contain null character, but got 'a\0'"),
        ({"id": "x" * 513, "values": [1, 2]}, "Vector ID must be at most 512 characters, but got 513"),
        ({"id": "a"}, "Vector dimension 0 does not match the dimension of the index 2"),
        ({"id": "a", "values": [1, 2, 3]}, "Vector dimension 3 does not match the dimension of the index 2"),
        (
            {"id": "a", "values": [0, -0.0]},
            "Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros",
        ),
        (
            {"id": "a", "values": [0, 1e-60]},
            "Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros",
        ),
        ({"id": "a", "values": [1, 2], "sparseValues": {"indices": [1], "values": [1]}}, SPARSE_UNSUPPORTED),
        ({"id": "a", "values": [1, 2], "metadata": {"x": None}}, f"{METADATA_TYPES}'null' for field 'x'"),
        ({"id": "a", "values": [1, 2], "metadata": {"x": [1]}}, f"{METADATA_TYPES}'[1.0]' for field 'x'"),
        (
            {"id": "a", "values": [1, 2], "metadata": {"x": {"agreement": 13, "parties": 5}}},
            METADATA_TYPES + """'{"agreement":13....' for field 'x'""",
        ),
        (
            {"id": "a", "values": [1, 2], "metadata": {"$x": 1}},
            "Metadata field names must not start with '$', got '$x'",
        ),
        # Errors of the transcoder, in plain text.
        ({"id": "a", "values": [1, "type"]}, 'vectors[1].values[1]: invalid value "type" for type TYPE_FLOAT'),
        ({"id": "a", "values": [1, None]}, "vectors[1].values[1]: invalid value null for type TYPE_FLOAT"),
        ({"id": "a", "values": [True, 2]}, "vectors[1].values[0]: invalid value true for type TYPE_FLOAT"),
        ({"id": "a", "values": [1, [2]]}, "vectors[1].values[1]: invalid value [2] for type TYPE_FLOAT"),
        (
            {"id": "a", "values": [1, 1e39]},
            f"vectors[1].values[1]: invalid value {orjson.dumps(1e39).decode()} for type TYPE_FLOAT",
        ),
        ({"id": "a", "values": "12"}, 'vectors[1].values: invalid value "12" for type TYPE_MESSAGE'),
        ({"id": 5, "values": [1, 2]}, "vectors[1].id: invalid value 5 for type TYPE_STRING"),
        ({"id": "a", "values": [1, 2], "metadata": []}, "vectors[1].metadata: invalid value [] for type TYPE_MESSAGE"),
        ({"id": "a", "values": [1, 2], "blob": 1}, "vectors[1] blob: Cannot find field."),
        ("a", 'vectors[1]: invalid value "a" for type TYPE_MESSAGE'),
    ],
)
def test_one_invalid_record_rejects_the_whole_upsert(http, index, invalid, message):
    assert post_rejected(http, "/vectors/upsert", {"vectors": [VALID, invalid]}) == message
    assert index.vectors() == {}
    assert index.store.lsn == 0


def test_metadata_size_is_limited(http):
    room = 40_960 - len('{"x":""}')
    fits, too_long = ({**VALID, "metadata": {"x": "y" * size}} for size in (room, room + 1))
    assert http.post("/vectors/upsert", json={"vectors": [fits]}).status_code == 200
    message = "Metadata size is 40961 bytes, which exceeds the limit of 40960 bytes per vector"
    assert post_rejected(http, "/vectors/upsert", {"vectors": [too_long]}) == message
    # A rejected update leaves the record unchanged.
    update = {"id": "valid", "setMetadata": {"z": 1}}
    assert post_rejected(http, "/vectors/update", update).startswith("Metadata size is 40966 bytes")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"indices": [], "values": []}, "Sparse vector must contain at least one value"),
        (
            {"indices": [1, 2], "values": [1]},
            "Sparse vector must have the same number of indices and values, but got 2 indices and 1 values",
        ),
        (
            {"indices": list(range(2049)), "values": [1] * 2049},
            "Sparse vector must have at most 2048 values, but got 2049",
        ),
        ({"indices": [1, 2, 1], "values": [1, 2, 3]}, "Sparse vector must not contain duplicate indices"),
        (
            {"indices": [-1], "values": [1]},
            "vectors[0].sparseValues.indices[0]: invalid value -1 for type TYPE_UINT32",
        ),
        (
            {"indices": [2**32], "values": [1]},
            "vectors[0].sparseValues.indices[0]: invalid value 4294967296 for type TYPE_UINT32",
        ),
        (
            {"indices": [True], "values": [1]},
            "vectors[0].sparseValues.indices[0]: invalid value true for type TYPE_UINT32",
        ),
        (
            {"indices": [1], "values": ["x"]},
            'vectors[0].sparseValues.values[0]: invalid value "x" for type TYPE_FLOAT',
        ),
    ],
)
def test_invalid_sparse_values(sparse, hybrid, values, message):
    assert post_rejected(sparse, "/vectors/upsert", {"vectors": [{"id": "a", "sparseValues": values}]}) == message
    assert post_rejected(hybrid, "/vectors/upsert", {"vectors": [{**VALID, "sparseValues": values}]}) == message


def test_a_sparse_index_accepts_only_sparse_values(sparse):
    values = {"indices": [2**32 - 1], "values": [1]}
    assert sparse.post("/vectors/upsert", json={"vectors": [{"id": "a", "sparseValues": values}]}).status_code == 200
    message = "Index configuration does not support dense values - only sparse values are supported"
    assert post_rejected(sparse, "/vectors/upsert", {"vectors": [{**VALID, "sparseValues": values}]}) == message
    assert post_rejected(sparse, "/query", {"topK": 1, "vector": [1], "sparseVector": values}) == message
    message = "Sparse vector must contain at least one value"
    assert post_rejected(sparse, "/vectors/upsert", {"vectors": [{"id": "a"}]}) == message


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "Either 'sparse_vector' or 'ID' must be provided"),
        ({"vector": [1, 2]}, "Either 'sparse_vector' or 'ID' must be provided"),
        (
            {"id": "a", "sparseVector": {"indices": [1], "values": [1]}},
            "Cannot provide both 'ID' and 'sparse_vector' at the same time",
        ),
    ],
)
def test_a_sparse_index_is_queried_by_sparse_values_or_id(sparse, query, message):
    assert post_rejected(sparse, "/query", {"topK": 1, **query}) == message


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([], "Invalid request: must provide at least one vector to upsert"),
        (None, "Invalid request: must provide at least one vector to upsert"),
        ([VALID] * 1001, "The number of vectors in an upsert request must be at most 1000, but got 1001"),
    ],
)
def test_an_upsert_has_1_to_1000_records(http, vectors, message):
    assert post_rejected(http, "/vectors/upsert", {"vectors": vectors}) == message
    assert http.post("/vectors/upsert", json={"vectors": [VALID] * 1000}).json() == {"upsertedCount": 1000}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "Root element must be a message."),
        (b'"x"', "Root element must be a message."),
        (b"", "Unexpected token.\n\n^"),
        (b"\xff", "Unexpected token.\n\n^"),
        (
            b'{"vectors":[{"id":"a","values":[NaN,1]}]}',
            'Unexpected token.\n{"id":"a","values":[NaN,1]}]}\n' + " " * 20 + "^",
        ),
        (b'{"vector":[]}', "vector: Cannot find field."),
    ],
)
def test_malformed_bodies_are_rejected_in_plain_text(http, body, message):
    assert post_rejected(http, "/vectors/upsert", body) == message


def test_namespace_names_are_validated(http):
    for name, rule in (("ä", "be ASCII"), ("a\0", "not contain null character")):
        message = f"Namespace must {rule}, but got '{name}'"
        assert post_rejected(http, "/vectors/upsert", {"vectors": [VALID], "namespace": name}) == message
        assert http.get("/vectors/list", params={"namespace": name}).json()["message"] == message
    message = "Namespace must be at most 512 characters, but got 513"
    assert post_rejected(http, "/vectors/upsert", {"vectors": [VALID], "namespace": "n" * 513}) == message


def test_request_size_is_limited(pinecone_index_factory, connect):
    index = pinecone_index_factory(2, max_request_bytes=3_100_000)
    http = connect(index)
    body = b'{"vectors":[{"id":"a","values":[1,2]}]}'
    assert http.post("/vectors/upsert", content=body.ljust(3_100_000)).status_code == 200
    message = "Request size 3MB exceeds the maximum supported size of 2MB"
    assert post_rejected(http, "/vectors/upsert", body.ljust(3_100_001)) == message
    # The connection can be used again.
    assert http.post("/vectors/upsert", content=body).status_code == 200


def test_the_default_request_size_limit_is_that_of_the_decoder(http):
    body = b'{"vectors":[{"id":"a","values":[1,2]}]}'
    assert http.post("/vectors/upsert", content=body.ljust(4_194_304)).status_code == 200
    assert http.post("/vectors/upsert", content=body.ljust(4_194_305)).status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"vector": [1, 2]}, "topK must be between 1 and 10000, but got 0"),
        ({"topK": 10_001, "vector": [1, 2]}, "topK must be between 1 and 10000, but got 10001"),
        ({"topK": -1, "vector": [1, 2]}, "topK: invalid value -1 for type TYPE_UINT32"),
        ({"topK": 1.5, "vector": [1, 2]}, "topK: invalid value 1.5 for type TYPE_UINT32"),
        ({"topK": 1}, "Vector dimension 0 does not match the dimension of the index 2"),
        ({"topK": 1, "vector": [1]}, "Vector dimension 1 does not match the dimension of the index 2"),
        ({"topK": 1, "vector": [1, "x"]}, 'vector[1]: invalid value "x" for type TYPE_FLOAT'),
        ({"topK": 1, "vector": [1, 2], "id": "a"}, "Cannot provide both 'ID' and 'vector' at the same time"),
        (
            {"topK": 1, "sparseVector": {"indices": [1], "values": [1]}},
            "Cannot query index with dense 'vector_type' with only sparse vector",
        ),
        ({"topK": 1, "vector": [1, 2], "sparseVector": {"indices": [1], "values": [1]}}, SPARSE_UNSUPPORTED),
        ({"topK": 1, "vector": [1, 2], "includeValues": 1}, "includeValues: invalid value 1 for type TYPE_BOOL"),
        ({"topK": 1, "vector": [1, 2], "filter": {"$not": []}}, "$not is not a valid operator"),
    ],
)
def test_invalid_queries(http, body, message):
    assert post_rejected(http, "/query", body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Exactly one of ids, deleteAll and filter must be given"),
        ({"filter": {}}, "Exactly one of ids, deleteAll and filter must be given"),
        ({"ids": ["a"], "deleteAll": True}, "Exactly one of ids, deleteAll and filter must be given"),
        ({"ids": ["a"] * 1001}, "At most 1000 ids can be deleted at once, but got 1001"),
        ({"ids": [1]}, "ids[0]: invalid value 1 for type TYPE_STRING"),
        ({"filter": {"x": {"$gt": "y"}}}, "The $gt operator must be followed by a number, got 'y'"),
    ],
)
def test_invalid_deletes(http, body, message):
    assert post_rejected(http, "/vectors/delete", body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Vector ID must not be empty"),
        ({"id": "a", "values": [1]}, "Vector dimension 1 does not match the dimension of the index 2"),
        (
            {"id": "a", "values": [0, 0]},
            "Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros",
        ),
        ({"id": "a", "sparseValues": {"indices": [1], "values": [1]}}, SPARSE_UNSUPPORTED),
        ({"id": "a", "setMetadata": {"x": None}}, f"{METADATA_TYPES}'null' for field 'x'"),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_invalid_updates(http, index, body, message, stored):
    if stored:
        http.post("/vectors/upsert", json={"vectors": [{"id": "a", "values": [1, 2]}]})
    assert post_rejected(http, "/vectors/update", body) == message
    assert [record.values.tolist() for record in index.vectors().values()] == ([[1, 2]] if stored else [])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/vectors/fetch", "Must provide at least one of the ids to fetch"),
        ("/vectors/list?limit=0", "limit must be between 1 and 100, but got 0"),
        ("/vectors/list?limit=101", "limit must be between 1 and 100, but got 101"),
        ("/vectors/list?limit=x", "limit must be between 1 and 100, but got x"),
        ("/vectors/list?paginationToken=x", "Invalid pagination token: x"),
        ("/vectors/list?paginationToken=e30%3D", "Invalid pagination token: e30="),
        ("/namespaces?limit=-1", "limit must be between 1 and 100, but got -1"),
    ],
)
def test_invalid_query_parameters(http, path, message):
    response = http.get(path)
    assert (response.status_code, response.json()) == (400, {"code": 3, "message": message, "details": []})


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("upsert", {"vectors": [{"id": "a", "values": [1, 1, 1]}]}),
        ("update", {"id": "a", "values": [1, 1, 1]}),
        ("delete", {"ids": ["a"]}),
    ],
)
def test_an_index_of_documents_rejects_only_vector_writes(pinecone_index_factory, connect, operation, body):
    http = connect(pinecone_index_factory(3, document_schema={"title": {"type": "string"}}))
    assert post_rejected(http, f"/vectors/{operation}", body).startswith(
        "This index has a document schema, so writes must"
    )
    assert http.post("/describe_index_stats", json={}).json()["totalVectorCount"] == 0


def test_stats_with_a_filter_are_rejected(http):
    message = "Serverless and Starter indexes do not support describing index stats with metadata filtering"
    assert post_rejected(http, "/describe_index_stats", {"filter": {"x": 1}}) == message


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/vectors/delete", {"deleteAll": True}),
        ("POST", "/vectors/delete", {"deleteAll": True, "namespace": "n"}),
        ("GET", "/namespaces/n", None),
        ("DELETE", "/namespaces/n", None),
    ],
)
def test_an_unknown_namespace_is_not_found(http, method, path, body):
    response = http.request(method, path, json=body)
    assert (response.status_code, response.json()) == (
        404,
        {"code": 5, "message": "Namespace not found", "details": []},
    )


def nested(operator, levels):
    """Return the JSON of a filter on ``x`` below this number of operators that take a list."""
    return f'{{"{operator}":[' * levels + '{"x":1}' + "]}" * levels


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (50, "Message too deep. Max recursion depth reached for key 'filter'"),
        (450, "Message too deep. Max recursion depth reached for key 'filter'"),
        (10_000, "Unexpected token."),
    ],
)
@pytest.mark.parametrize("operator", ["$and", "$or"])
def test_a_deeply_nested_filter_is_rejected(http, operator, levels, message):
    query = '{"topK":1,"vector":[1,2],"filter":%s}'
    assert post_rejected(http, "/query", (query % nested(operator, levels)).encode()).startswith(message)
    assert post_rejected(http, "/vectors/delete", b'{"filter":%s}' % nested(operator, levels).encode())
    assert http.post("/query", content=query % nested(operator, 49)).status_code == 200


DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    "vector",
    [
        f'{{"id":"a","values":[1,2],"metadata":{{"x":{DEEP}}}}}',
        f'{{"id":"a","values":[1,{DEEP}]}}',
        f'{{"id":{DEEP},"values":[1,2]}}',
        f'{{"id":"a","values":[1,2],"metadata":{{"{"x" * 1_000_000}":null}}}}',
        f'{{"id":"a","values":"{"x" * 1_000_000}"}}',
    ],
)
def test_the_message_about_a_hostile_value_is_short(http, vector):
    assert len(post_rejected(http, "/vectors/upsert", f'{{"vectors":[{vector}]}}'.encode())) < 1_200


@pytest.mark.parametrize("record_requests", [True, False])
def test_an_endless_body_is_rejected(pinecone_index_factory, connect, record_requests):
    index = pinecone_index_factory(2, record_requests=record_requests)
    host, port = index.url.removeprefix("http://").split(":")
    head = f"POST /query HTTP/1.1\r\nHost: {host}\r\nApi-Key: {index.api_key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        for _ in range(MAX_READ_BYTES // 1_000_000):
            connection.sendall(b"F4240\r\n" + b" " * 1_000_000 + b"\r\n")
        connection.sendall(b"1\r\n \r\n")  # and no end
        with connection.makefile("rb") as response:  # which the server ends by closing the connection
            text = response.read()
    assert text.startswith(b"HTTP/1.1 413 ")
    assert text.endswith(b"\r\n\r\nRequest size exceeds 64MB, the rest was not read")
    assert connect(index).get("/namespaces").status_code == 200
