"""Error responses become errors, whose class says what to do next. The bodies were recorded from Pinecone."""

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


def error_of(status, body=b"", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_response(status, headers, body, host=HOST, now=NOW, mask=str)


def error_body(message, code=3):
    return orjson.dumps({"code": code, "message": message, "details": []})


RECORDED = [
    (
        400,
        error_body("Vector dimension 3072 does not match the dimension of the index 1024"),
        exceptions.BadRequestError,
    ),
    (
        400,
        error_body("Metadata value must be a string, number, boolean or list of strings, got 'null' for field 'x'"),
        exceptions.BadRequestError,
    ),
    (
        400,
        error_body("Dense vectors must contain at least one non-zero value. Vector ID 'a' contains only zeros"),
        exceptions.BadRequestError,
    ),
    (
        400,
        error_body("Metadata size is 42177 bytes, which exceeds the limit of 40960 bytes per vector"),
        exceptions.BadRequestError,
    ),
    (400, b"Root element must be a message.", exceptions.BadRequestError),
    (400, b'vectors[0].values[1]: invalid value "type" for type TYPE_FLOAT', exceptions.BadRequestError),
    (400, error_body("Request size 3MB exceeds the maximum supported size of 2MB"), exceptions.RequestTooLargeError),
    (
        400,
        error_body("Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes", 11),
        exceptions.RequestTooLargeError,
    ),
    (
        400,
        error_body("This index has a document schema, so writes must go through the documents API"),
        exceptions.UnsupportedIndexError,
    ),
    (413, b"", exceptions.RequestTooLargeError),
    (413, b"<html>Request Entity Too Large</html>", exceptions.RequestTooLargeError),
    (401, b"Invalid API Key", exceptions.AuthenticationError),
    (403, b"Forbidden", exceptions.AuthenticationError),
    (403, error_body("You've reached the max object quota", 7), exceptions.QuotaExceededError),
    (403, error_body("You've reached your storage limit", 7), exceptions.QuotaExceededError),
    (404, b"", exceptions.NotFoundError),
    (404, error_body("Namespace not found", 5), exceptions.NotFoundError),
    (
        429,
        error_body("You've reached the max upsert size limit per second for index docs", 8),
        exceptions.RateLimitError,
    ),
    (429, error_body("You've reached the upsert QPS limit for namespace docs (100 QPS)", 8), exceptions.RateLimitError),
    (
        429,
        error_body("You've reached your write unit limit for the current month (2000000). To continue, upgrade.", 8),
        exceptions.QuotaExceededError,
    ),
    (405, b"<html>Method Not Allowed</html>", exceptions.NotFoundError),
    (408, b"", exceptions.ServerError),
    *((status, b"upstream connect error", exceptions.ServerError) for status in (500, 502, 503, 504, 529)),
    (301, b"", exceptions.SetupError),
    (308, b"", exceptions.SetupError),
    (422, error_body("unprocessable"), exceptions.BadRequestError),
    (402, error_body("PAYMENT REQUIRED"), exceptions.QuotaExceededError),
    (407, b"Proxy Authentication Required", exceptions.SetupError),
    (410, b"Gone", exceptions.NotFoundError),
    *((status, b"", exceptions.SetupError) for status in (406, 411, 412, 414, 415, 418, 428, 431, 451, 460, 999)),
    *((status, b"try again", exceptions.ServerError) for status in (409, 421, 423, 425, 499)),
]


REASONS = {
    "ALIAS_ALREADY_EXISTS": exceptions.SetupError,
    "NAME_IN_USE_BY_NAMESPACE": exceptions.SetupError,
    "NAME_IN_USE_BY_ALIAS": exceptions.SetupError,
    "WRITE_TO_ALIAS": exceptions.SetupError,
    "TARGET_NAMESPACE_NOT_FOUND": exceptions.NotFoundError,
    "TARGET_NAMESPACE_NOT_ACTIVE": exceptions.ServerError,
    "TARGET_IS_ALIAS": exceptions.SetupError,
    "ALIASES_PER_INDEX_EXCEEDED": exceptions.QuotaExceededError,
    "API_VERSION_TOO_OLD": exceptions.SetupError,
    "NAMESPACE_OPERATION_ON_ALIAS": exceptions.SetupError,
    "NAMESPACE_TARGETED_BY_ALIAS": exceptions.SetupError,
}


@pytest.mark.parametrize("status", [400, 404, 409, 412])
@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_counts_more_than_status_and_message(status, reason):
    details = [{"@type": "other"}, {"reason": reason, "metadata": {}}]
    error = error_of(status, orjson.dumps({"code": 9, "message": "storage quota", "details": details}))
    assert type(error) is REASONS[reason]
    assert error.response.reason == reason
    assert re.search(r"”\)\. [A-Z].+\.$", str(error))


@pytest.mark.parametrize(
    "details", [None, {}, "WRITE_TO_ALIAS", ["WRITE_TO_ALIAS"], [{"reason": 1}], [{"reason": "NEW"}]]
)
def test_an_unknown_reason_leaves_the_class_to_the_status(details):
    error = error_of(400, orjson.dumps({"code": 3, "message": "no", "details": details}))
    assert type(error) is exceptions.BadRequestError
    assert error.response.reason is None


@pytest.mark.parametrize(("status", "body", "error_class"), RECORDED)
def test_an_error_has_its_class_the_servers_message_and_a_remedy(status, body, error_class):
    error = error_of(status, body, x_pinecone_request_id="42")
    assert type(error) is error_class
    assert (error.response.status, error.response.request_id) == (status, "42")
    assert f"{HOST} answered {status}" in str(error)
    assert error.response.message in str(error)
    if body:
        assert error.response.message
        assert "request id 42" in str(error)
    assert re.search(r"(”\)|answered \d+)\. [A-Z].+\.$", str(error), re.DOTALL)


@pytest.mark.parametrize("name", ["storage", "quota-test", "exceeded"])
def test_the_name_of_an_index_does_not_change_the_class(name):
    body = error_body(f"You've reached the max upsert size limit per second for index {name}", 8)
    assert type(error_of(429, body)) is exceptions.RateLimitError


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
def test_a_body_is_json_or_text_and_is_shortened(body, code, message):
    response = error_of(400, body).response
    assert (response.code, response.message) == (code, message)


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
        assert error_of(429, retry_after=value).response.retry_after_s == seconds


@given(st.text(max_size=40) | st.floats().map(str) | st.datetimes().map(format_datetime))
@example("Mon, 1 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_any_retry_after_can_be_parsed(value):
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds < float("inf")


ALL_CLASSES = [
    found
    for _, found in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(found, exceptions.PineconeUpsertError) and found is not exceptions.RecordError
]


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_every_error_can_be_pickled(error_class):
    error = error_class("what happened", response=exceptions.ErrorResponse(429, "slow down", 8, "42", 1.5))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy)) == (error_class, "what happened", vars(error))


def test_a_record_error_can_be_pickled():
    error = exceptions.RecordError(
        "too long", remedy="Shorten it.", origin="f", row=3, record_id="a", field="id", value="'x'"
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert str(copy) == str(error) == "id: too long (found 'x'). Shorten it. f, row 3 (counted from 0), id 'a'."
    assert vars(copy) == vars(error)


@given(st.text(max_size=10_000))
def test_a_message_is_bounded_and_keeps_its_beginning_and_its_end(message):
    error = exceptions.SetupError(message)
    assert len(str(error)) <= 2_000
    assert str(error) == message or (str(error)[:1_400], str(error)[-500:]) == (message[:1_400], message[-500:])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


@pytest.mark.parametrize("field", ["reason", "remedy", "origin", "record_id", "field", "value"])
def test_the_message_of_a_record_error_is_bounded(field):
    parts = {"reason": "too long", "remedy": "Shorten it.", "origin": "XCom", "record_id": "a", "field": "id"}
    error = exceptions.RecordError(**parts | {field: "x" * 1_000_000})
    assert len(str(error)) <= 2_000
    assert all(len(line) <= 2_000 for line in error.lines)


def test_a_record_error_says_what_is_wrong_then_how_to_fix_it_then_where():
    error = exceptions.RecordError(
        "too long", remedy="Shorten it.", origin="f", row=3, record_id="a", field="id", value="'x'"
    )
    assert error.lines == ["id: too long (found 'x').", "Shorten it.", "f, row 3 (counted from 0), id 'a'."]


def test_the_tree_in_the_docstring_matches_the_classes():
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+Error)\b", exceptions.__doc__, re.MULTILINE)
    parents, path = {}, []
    for branch, name in drawn:
        depth = len(branch) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    assert parents == {error.__name__: error.__base__.__name__ for error in [*ALL_CLASSES, exceptions.RecordError]}


def test_only_a_bad_request_may_blame_a_record():
    """The sender bisects a BadRequestError and rejects its record; any other status says nothing about a record."""
    blaming = {status for status in range(300, 600) if type(error_of(status)) is exceptions.BadRequestError}
    assert blaming == {400, 422}


@pytest.mark.parametrize("year", ["9999", "10000", "99999999999"])
def test_an_absurd_year_in_retry_after_is_not_an_error(year):
    wait_s = parse_retry_after(f"Wed, 21 Oct {year} 07:28:00 GMT", now=NOW)
    assert wait_s is None or wait_s > 0
