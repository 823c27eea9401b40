"""
What can go wrong, classed by what to do about it.

::

    PineconeUpsertError
    ├── SetupError                 mend the connection, a parameter or the index
    │   ├── AuthenticationError        401, 403: the key
    │   ├── NotFoundError              404, 405: host, index or namespace
    │   ├── UnsupportedIndexError      an index that takes documents, not vectors
    │   └── QuotaExceededError         a quota of the plan, which waiting does not mend
    ├── InputError                 mend the data
    │   ├── SourceError                a file, a column or an XCom value as a whole
    │   ├── RecordError                one record
    │   └── RefusedError               400: the server refuses what was sent
    ├── RequestTooLargeError       send less at once
    ├── TransientError             wait, then send the same again
    │   ├── RateLimitError             429
    │   ├── ServerError                408, 5xx
    │   ├── TransportError             no answer at all
    │   └── StorageError               the storage of the source does not answer
    ├── UnexpectedAnswerError      an answer that contradicts the request or is not Pinecone's
    └── IncompleteUpsertError      the run ended and records are unconfirmed

Only this module reads the text of a server's message to tell one error from another.
Every class pickles: ``args`` holds the message, everything else is an attribute with a default.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import timezone
from typing import Any, Final

from airflow_pinecone_upsert.api.limits import MAX_REQUEST_BYTES

_MAX_SHOWN: Final = 500
"""Characters of a server's message that are shown. A proxy may answer with a page of HTML."""


@dataclass(frozen=True)
class Answer:
    """
    What a server said when it refused.

    :param status: The HTTP status.
    :param message: The server's own words, cut to 500 characters.
    :param code: The gRPC code of a JSON error body, if there was one.
    :param request_id: ``x-pinecone-request-id``, to quote to Pinecone's support.
    :param retry_after_s: ``Retry-After`` in seconds from the moment of the answer, never negative.
    """

    status: int
    message: str
    code: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None


class PineconeUpsertError(Exception):
    """
    The root of all errors of this package.

    :param message: What happened and how to mend it.
    :param answer: The server's answer, where there was one.

    ``report`` holds the numbers until then, as the task's output would have held them, where an upsert ended so.
    """

    def __init__(self, message: str, *, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer = answer
        self.report: dict[str, Any] = {}


class SetupError(PineconeUpsertError):
    """The connection, a parameter or the index is not as it must be. No retry can help."""


class AuthenticationError(SetupError):
    """The server does not accept the API key for what was asked."""


class NotFoundError(SetupError):
    """There is no such index, or no such namespace in it."""


class UnsupportedIndexError(SetupError):
    """The index takes documents, not vectors."""


class QuotaExceededError(SetupError):
    """A quota of the plan is used up: storage, objects, or the month's write units."""


class InputError(PineconeUpsertError):
    """The data cannot be upserted as they are. No retry can help before they are mended."""


class SourceError(InputError):
    """A file, a column or an XCom value as a whole cannot be read."""


class RefusedError(InputError):
    """The server refuses what was sent (400)."""


class RecordError(InputError):
    """
    One record breaks a rule.

    :param reason: What is wrong.
    :param remedy: How to mend it.
    :param origin: The file's path or URL, or ``XCom``.
    :param row: The record's row in ``origin``, counted from 0.
    :param record_id: The record's id, where it has a usable one.
    :param field: The column or key, with the key of the metadata after a dot.
    :param value: The offending value, shortened.
    """

    def __init__(  # noqa: PLR0913 - what a message must name
        self,
        reason: str,
        *,
        remedy: str = "",
        origin: str = "",
        row: int = -1,
        record_id: str | None = None,
        field: str = "",
        value: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.origin = origin
        self.row = row
        self.record_id = record_id
        self.field = field
        self.value = value

    def __str__(self) -> str:
        """Name the place, the rule, the value and the remedy in one line."""
        known_id = "" if self.record_id is None else f", id {self.record_id!r}"
        found = "" if self.value is None else f" (found {self.value})"
        return (
            f"{self.origin}, row {self.row} (counted from 0){known_id}, "
            f"{self.field}: {self.reason}{found}. {self.remedy}".rstrip()
        )


class RequestTooLargeError(PineconeUpsertError):
    """The server takes less in one request than was sent."""


class TransientError(PineconeUpsertError):
    """Waiting may help; sending the same again is safe, because an upsert is idempotent by id."""


class RateLimitError(TransientError):
    """Too many requests or bytes in this second."""


class ServerError(TransientError):
    """The server could not do its work just now."""


class TransportError(TransientError):
    """No answer came: no connection, a reset or a time-out. What was sent may have been applied."""


class StorageError(TransientError):
    """The storage that holds the source did not answer, or not with what is asked for."""


class UnexpectedAnswerError(PineconeUpsertError):
    """The answer is not one that Pinecone gives to such a request."""


class IncompleteUpsertError(PineconeUpsertError):
    """The run ended before every record was confirmed. Running it again is safe."""


def error_from_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, host: str, now: float
) -> PineconeUpsertError:
    """
    Turn an answer that is no success into the error that says what to do next.

    :param status: The HTTP status.
    :param headers: The answer's headers, looked up in lower case.
    :param body: The answer's body, JSON or text.
    :param host: The host that answered, for the message.
    :param now: Seconds since the epoch, against which a ``Retry-After`` date is read.
    :return: The error to raise.
    """
    code, message = _read_body(body)
    answer = Answer(
        status=status,
        message=message,
        code=code,
        request_id=headers.get("x-pinecone-request-id"),
        retry_after_s=parse_retry_after(headers.get("retry-after"), now=now),
    )
    kind, remedy = _classify(status, message.lower())
    quoted = f"request id {answer.request_id}, " if answer.request_id else ""
    said = f"{host} answered {status} ({quoted}“{message}”)." if message else f"{host} answered {status}."
    return kind(f"{said} {remedy}".rstrip(), answer=answer)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """
    Read a ``Retry-After`` header.

    :param value: Seconds or an HTTP date (RFC 9110, section 10.2.3).
    :param now: Seconds since the epoch.
    :return: Seconds to wait, never negative; None where the header is absent or unreadable.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        # RFC 9110 dates are in GMT; "-0000" parses as naive.
        seconds = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now
    return max(0.0, seconds) if seconds < float("inf") else None


def _read_body(body: bytes) -> tuple[int | None, str]:
    """Find code and message in ``{"code", "message"}``, ``{"error": {"code", "message"}}`` or plain text."""
    try:
        # Not orjson: a DAG file imports this module, for the retry policy, and json is there already.
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        inner = parsed["error"] if isinstance(parsed.get("error"), dict) else parsed
        code, message = inner.get("code"), inner.get("message")
        if isinstance(message, str):
            return code if isinstance(code, int) else None, message[:_MAX_SHOWN]
    return None, body[: 4 * _MAX_SHOWN].decode("utf-8", "replace").strip()[:_MAX_SHOWN]


_ANY: Final = range(1_000)
_REDIRECT: Final = range(300, 400)
_SERVER: Final = range(500, 600)

HOLDS_DOCUMENTS: Final = "Name an index that holds vectors; this one holds documents."

_KEY: Final = "Check the API key (the password of the Airflow connection) and that its project holds this index."
_QUOTA: Final = "Raise the plan's quota or free some of it; waiting does not help before the quota renews."
_NOT_AN_INDEX: Final = "Pinecone does not answer so: check that the index host is the index's own."
_PASSING: Final = "The service, or a proxy before it, is out of order for the moment; try again later."
_SIZE: Final = f"Lower max_request_bytes (the documented limit is {MAX_REQUEST_BYTES:,} bytes)."

_CLASSES: Final[tuple[tuple[Container[int], tuple[str, ...], type[PineconeUpsertError], str], ...]] = (
    # status, any of these words in the message (none: whatever it says), class, remedy; the first row that fits
    (_REDIRECT, (), SetupError, "A redirect is not followed: the key would go elsewhere. Set the index's own host."),
    (_ANY, ("document schema",), UnsupportedIndexError, HOLDS_DOCUMENTS),
    ((401,), (), AuthenticationError, _KEY),
    ((403,), ("quota", "storage"), QuotaExceededError, _QUOTA),
    # Other messages of a 429 quote the names of index and namespace, so no word that may be a name is looked for.
    ((429,), ("for the current month",), QuotaExceededError, _QUOTA),
    ((403,), (), AuthenticationError, _KEY),
    ((404,), (), NotFoundError, "Check the index host, the index name and the namespace."),
    ((413,), (), RequestTooLargeError, _SIZE),
    ((400,), ("exceeds the maximum supported size", "message length too large"), RequestTooLargeError, _SIZE),
    ((429,), (), RateLimitError, "Lower max_requests_per_second or max_bytes_per_second if this persists."),
    ((405,), (), NotFoundError, _NOT_AN_INDEX),
    ((408,), (), ServerError, _PASSING),
    (_SERVER, (), ServerError, _PASSING),
    (_ANY, (), RefusedError, "Mend the data or the parameters; the same request will be refused again."),
)


def _classify(status: int, message: str) -> tuple[type[PineconeUpsertError], str]:
    """
    Tell the class and the remedy of an answer.

    :param status: The HTTP status.
    :param message: The server's message in lower case.
    """
    return next(
        (kind, remedy)
        for statuses, words, kind, remedy in _CLASSES
        if status in statuses and (not words or any(word in message for word in words))
    )
