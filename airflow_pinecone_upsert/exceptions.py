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
    │   └── BadRequestError               400: the server refuses what was sent
    ├── RequestTooLargeError       send less at once
    ├── TransientError             wait, then send the same again
    │   ├── RateLimitError             429
    │   ├── ServerError                408, 5xx
    │   ├── TransportError             no answer at all
    │   └── StorageError               the storage of the source does not answer
    ├── UnexpectedResponseError      an answer that contradicts the request or is not Pinecone's
    └── IncompleteUpsertError      the run ended and records are unconfirmed

Only this module reads the text of a server's message to tell one error from another.
Every class pickles: ``args`` holds the message, everything else is an attribute with a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorResponse:
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

    def __init__(self, message: str, *, answer: ErrorResponse | None = None) -> None:
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


class BadRequestError(InputError):
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


class UnexpectedResponseError(PineconeUpsertError):
    """The answer is not one that Pinecone gives to such a request."""


class IncompleteUpsertError(PineconeUpsertError):
    """The run ended before every record was confirmed. Running it again is safe."""
