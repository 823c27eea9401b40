"""
The errors of this package, classified by what to do next.

::

    PineconeUpsertError
    ├── SetupError                 fix the connection, a parameter or the index
    │   ├── AuthenticationError        401, 403: the key
    │   ├── NotFoundError              404, 405, 410: host, index or namespace
    │   ├── UnsupportedIndexError      an index of documents, not of vectors
    │   ├── ManifestError              the manifest is another target's, damaged, or in a folder that cannot be used
    │   └── QuotaExceededError         402, or a quota of the plan; waiting does not help
    ├── InputError                 fix the data
    │   ├── SourceError                a file, a column or an XCom value as a whole
    │   ├── RecordError                one record
    │   ├── BulkImportError            a bulk import failed, or imported other than its files hold
    │   └── BadRequestError            400, 422: the server rejects what was sent
    ├── RequestTooLargeError       send less at once
    ├── TransientError             wait, then send the same again
    │   ├── RateLimitError             429
    │   ├── ServerError                5xx, 408 and other temporary statuses
    │   ├── TransportError             no response at all
    │   ├── ShortCountError            a response that confirms fewer records than were sent
    │   ├── StorageError               the storage of the source or of the manifest does not respond
    │   ├── NotSearchableError         what was written is not searchable in time
    │   └── ManifestInUseError         another run writes to the same manifest
    ├── UnexpectedResponseError    a response that contradicts the request or is not Pinecone's
    ├── VerificationError          the namespace does not hold what the server confirmed
    └── IncompleteUpsertError      the run ended and records are unconfirmed

All of them can be imported from ``airflow_pinecone_upsert``, and all of them can be pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_MESSAGE_CHARS: Final = 2_000
"""Of any message: a log view shows it whole, and a column of the metadata database holds it."""

_KEPT_AT_THE_END: Final = 500
"""Of a message that is too long: the remedy is usually its last sentence."""

_ELLIPSIS: Final = " … "


@dataclass(frozen=True)
class ErrorResponse:
    """
    An error response of the server.

    :param status: The HTTP status; of a gRPC call, the one that means the same.
    :param message: The server's message, cut to 500 characters.
    :param code: The gRPC code, of a call or of a JSON error body, if there was one.
    :param request_id: ``x-pinecone-request-id``. Pinecone's support asks for it.
    :param retry_after_s: ``Retry-After`` in seconds from the moment of the response, never negative.
    :param reason: The first machine-readable reason of a JSON error body, such as ``WRITE_TO_ALIAS``, if there was one.
    """

    status: int
    message: str
    code: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    reason: str | None = None


class PineconeUpsertError(Exception):
    """
    The base class of all errors of this package.

    :param message: What happened and how to fix it. Of a message of more than 2,000 characters, the middle is left out.
    :param response: The server's response, where there was one.
    """

    def __init__(self, message: str, *, response: ErrorResponse | None = None) -> None:
        super().__init__(_bounded(message))
        self.response = response

    @property
    def lines(self) -> Sequence[str]:
        """The message in lines for a log: what is wrong, how to fix it, where."""
        return [str(self)]


class SetupError(PineconeUpsertError):
    """The connection, a parameter or the index is wrong. A retry cannot help."""


class AuthenticationError(SetupError):
    """The server does not accept the API key for this request."""


class NotFoundError(SetupError):
    """There is no such index, or no such namespace in it."""


class UnsupportedIndexError(SetupError):
    """The index holds documents, not vectors."""


class ManifestError(SetupError):
    """The manifest describes another target, is damaged, or is in a folder that cannot be used."""


class QuotaExceededError(SetupError):
    """A quota of the plan is used up: storage, objects, or the month's write units."""


class InputError(PineconeUpsertError):
    """The data cannot be upserted as they are. A retry cannot help until they are fixed."""


class SourceError(InputError):
    """A file, a column or an XCom value as a whole cannot be read."""


class BulkImportError(InputError):
    """A bulk import failed, was cancelled, or imported another number of records than its files hold."""


class BadRequestError(InputError):
    """The server rejects what was sent (400, 422)."""


class RecordError(InputError):
    """
    One record breaks a rule.

    :param reason: What is wrong.
    :param remedy: How to fix it.
    :param origin: The file's path or URL, or ``XCom``.
    :param row: The record's row in ``origin``, counted from 0.
    :param record_id: The record's id, where it has a usable one.
    :param field: The column or key. A key of the metadata follows after a dot.
    :param value: The invalid value, shortened.
    """

    def __init__(  # noqa: PLR0913 - everything that the message must name
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

    @property
    def lines(self) -> Sequence[str]:
        """The rule and the value; the remedy, if there is one; the location."""
        known_id = "" if self.record_id is None else f", id {self.record_id!r}"
        found = "" if self.value is None else f" (found {self.value})"
        where = f"{self.origin}, row {self.row} (counted from 0){known_id}."
        return [_bounded(line) for line in (f"{self.field}: {self.reason}{found}.", self.remedy, where) if line]

    def __str__(self) -> str:
        """Return the lines as one. A log view cuts it at the end, so the location is the last."""
        return _bounded(" ".join(self.lines))


class RequestTooLargeError(PineconeUpsertError):
    """The request is larger than the server accepts."""


class TransientError(PineconeUpsertError):
    """Waiting may help. Sending the same again is safe, because an upsert is idempotent by id."""


class RateLimitError(TransientError):
    """Too many requests or bytes in this second."""


class ServerError(TransientError):
    """The server could not process the request at the moment."""


class TransportError(TransientError):
    """No response came: no connection, a reset or a time-out. The request may have been applied."""


class ShortCountError(TransientError):
    """The server confirmed fewer records than were sent."""


class StorageError(TransientError):
    """The storage of the source or of the manifest did not respond, or not with what was requested."""


class NotSearchableError(TransientError):
    """What was written is confirmed, but not searchable in time."""


class ManifestInUseError(TransientError):
    """Another run writes to the same manifest: it holds the lease, or it took over from this run."""


class UnexpectedResponseError(PineconeUpsertError):
    """The response contradicts the request or is not Pinecone's."""


class VerificationError(PineconeUpsertError):
    """
    The namespace does not hold what the server confirmed. The next run sends these records again.

    :param message: Which records differ, and in which fields.
    :param ids: Their ids.
    :param namespaces: The namespace of each; ``""`` is the default one.
    :param response: See :class:`PineconeUpsertError`.
    """

    def __init__(
        self,
        message: str,
        ids: Sequence[str] = (),
        namespaces: Sequence[str] = (),
        *,
        response: ErrorResponse | None = None,
    ) -> None:
        super().__init__(message, response=response)
        self.ids = tuple(ids)
        self.namespaces = tuple(namespaces)


class IncompleteUpsertError(PineconeUpsertError):
    """The run ended before every record was confirmed. Running it again is safe."""


def _bounded(message: str) -> str:
    """Leave out the middle of a message that is too long, so that both the reason and the remedy remain."""
    if len(message) <= _MAX_MESSAGE_CHARS:
        return message
    kept = _MAX_MESSAGE_CHARS - len(_ELLIPSIS) - _KEPT_AT_THE_END
    return f"{message[:kept]}{_ELLIPSIS}{message[-_KEPT_AT_THE_END:]}"
