"""An error's class says what to do next; its words are the server's. Bodies are those of the real service."""

import inspect
import pickle
import re
from datetime import datetime, timezone
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.responses import error_from_response, parse_retry_after

HOST = "https://name-abc.svc.region.pinecone.io"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc).timestamp()


def answered(status, body=b"", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_response(status, names, body, host=HOST, now=NOW)


def as_json(message, code=3):
    return orjson.dumps({"code": code, "message": message, "details": []})


RECORDED = [
    (400, as_json("Vector dimension 3072 does not match the dimension of the index 1024"), exceptions.BadRequestError),
    (
        400,
        as_json("Metadata value must be a string, number, boolean or list of strings, got 'null' for field 'x'"),
        exceptions.BadRequestError,
    ),
    (
        400,
        as_json("Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros"),
        exceptions.BadRequestError,
    ),
    (
        400,
        as_json("Metadata size is 42177 bytes, which exceeds the limit of 40960 bytes per vector"),
        exceptions.BadRequestError,
    ),
    (400, b"Root element must be a message.", exceptions.BadRequestError),
    (400, b'vectors[0].values[1]: invalid value "type" for type TYPE_FLOAT', exceptions.BadRequestError),
    (400, as_json("Request size 3MB exceeds the maximum supported size of 2MB"), exceptions.RequestTooLargeError),
    (
        400,
        as_json("Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes", 11),
        exceptions.RequestTooLargeError,
    ),
    (
        400,
        as_json("This index has a document schema, so writes must go through the documents API"),
        exceptions.UnsupportedIndexError,
    ),
    (413, b"", exceptions.RequestTooLargeError),
    (413, b"<html>Request Entity Too Large</html>", exceptions.RequestTooLargeError),
    (401, b"Invalid API Key", exceptions.AuthenticationError),
    (403, b"Forbidden", exceptions.AuthenticationError),
    (403, as_json("You've reached the max object quota", 7), exceptions.QuotaExceededError),
    (403, as_json("You've reached your storage limit", 7), exceptions.QuotaExceededError),
    (404, b"", exceptions.NotFoundError),
    (404, as_json("Namespace not found", 5), exceptions.NotFoundError),
    (429, as_json("You've reached the max upsert size limit per second for index docs", 8), exceptions.RateLimitError),
    (429, as_json("You've reached the upsert QPS limit for namespace docs (100 QPS)", 8), exceptions.RateLimitError),
    (
        429,
        as_json("You've reached your write unit limit for the current month (2000000). To continue, upgrade.", 8),
        exceptions.QuotaExceededError,
    ),
    (405, b"<html>Method Not Allowed</html>", exceptions.NotFoundError),
    (408, b"", exceptions.ServerError),
    *((status, b"upstream connect error", exceptions.ServerError) for status in (500, 502, 503, 504, 529)),
    (301, b"", exceptions.SetupError),
    (308, b"", exceptions.SetupError),
    (409, as_json("conflict"), exceptions.BadRequestError),
    (422, as_json("unprocessable"), exceptions.BadRequestError),
    (999, b"", exceptions.BadRequestError),
]


@pytest.mark.parametrize(("status", "body", "kind"), RECORDED)
def test_an_answer_has_its_class_the_servers_words_and_a_remedy(status, body, kind):
    error = answered(status, body, x_pinecone_request_id="42")
    assert type(error) is kind
    assert (error.answer.status, error.answer.request_id) == (status, "42")
    assert f"{HOST} answered {status}" in str(error)
    assert error.answer.message in str(error)
    if body:
        assert error.answer.message
        assert "request id 42" in str(error)
    assert re.search(r"(”\)|answered \d+)\. [A-Z].+\.$", str(error), re.DOTALL)


@pytest.mark.parametrize("name", ["storage", "quota-test", "exceeded"])
def test_the_name_of_an_index_does_not_make_a_passing_failure_final(name):
    body = as_json(f"You've reached the max upsert size limit per second for index {name}", 8)
    assert type(answered(429, body)) is exceptions.RateLimitError


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"code": 3, "message": "no", "details": []}', 3, "no"),
        (b'{"error": {"code": "UNAUTHENTICATED", "message": "no"}, "status": 401}', None, "no"),
        (b'{"message": null}', None, '{"message": null}'),
        (b'["no"]', None, '["no"]'),
        (b"  plain text \n", None, "plain text"),
        (b"", None, ""),
        (b"\xff\xfe", None, "��"),
        (b"x" * 100_000, None, "x" * 500),
        ("é".encode() * 100_000, None, "é" * 500),
        (b'{"message": "' + b"x" * 1_000 + b'"}', None, "x" * 500),
    ],
)
def test_a_body_is_json_or_text_and_never_shown_at_length(body, code, message):
    answer = answered(400, body).answer
    assert (answer.code, answer.message) == (code, message)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        (" 7 ", 7.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30.0),
        ("Sun, 22 Nov 2026 13:00:30 +0100", 30.0),
        ("Sun, 22 Nov 2026 11:59:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds
    if value is not None:
        assert answered(429, retry_after=value).answer.retry_after_s == seconds


@given(st.text(max_size=40) | st.floats().map(str) | st.datetimes().map(format_datetime))
@example("Mon, 1 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_no_retry_after_breaks_the_parser(value):
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds < float("inf")


ALL_CLASSES = [
    kind
    for _, kind in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(kind, exceptions.PineconeUpsertError) and kind is not exceptions.RecordError
]


@pytest.mark.parametrize("kind", ALL_CLASSES)
def test_every_error_survives_a_pickle(kind):
    error = kind("what happened", answer=exceptions.ErrorResponse(429, "slow down", 8, "42", 1.5))
    error.report = {"upsertedCount": 5}
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy)) == (kind, "what happened", vars(error))


def test_a_record_error_survives_a_pickle():
    error = exceptions.RecordError(
        "too long", remedy="Shorten it.", origin="f", row=3, record_id="a", field="id", value="'x'"
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert str(copy) == str(error) == "f, row 3 (counted from 0), id 'a', id: too long (found 'x'). Shorten it."
    assert vars(copy) == vars(error)


def test_the_tree_that_is_drawn_is_the_tree_that_is():
    lines = exceptions.__doc__.partition("::")[2].splitlines()
    drawn = [line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split("  ") for line in lines]
    names = {part.strip() for parts in drawn for part in parts if part.strip().endswith("Error")}
    assert names == {kind.__name__ for kind in [*ALL_CLASSES, exceptions.RecordError]}
