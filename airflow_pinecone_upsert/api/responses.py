"""
Error responses of the server, classified by what to do next.

Invariants: no other module reads the text of a server's message to distinguish errors; every status has an error; a
machine-readable reason that is known here counts more than the status.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Callable, Container, Mapping
from datetime import timezone
from typing import Any, Final

from airflow_pinecone_upsert.api.limits import ALIAS_API_VERSION, MAX_REQUEST_BYTES
from airflow_pinecone_upsert.exceptions import (
    AuthenticationError,
    BadRequestError,
    ErrorResponse,
    NotFoundError,
    PineconeUpsertError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    SetupError,
    TransportError,
    UnexpectedResponseError,
    UnsupportedIndexError,
)

_MAX_SHOWN: Final = 500
"""Characters of a server's message that are shown. A proxy may respond with an HTML page."""


def error_from_response(  # noqa: PLR0913 - the parts of a response, and what depends on the client
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    *,
    host: str,
    now: float,
    mask: Callable[[str], str],
) -> PineconeUpsertError:
    """
    Convert a response without a 2xx status into an error.

    :param status: The HTTP status.
    :param headers: The response's headers, with names in lower case and masked values.
    :param body: The response's body, JSON or text; of a long one, its beginning.
    :param host: The URL of the server, for the message.
    :param now: Seconds since the epoch; the wait is relative to it if ``Retry-After`` is a date.
    :param mask: Masks the API key in the message, which is parsed then, and has no escapes that hide it.
    :return: The error to raise.
    """
    code, message, reason = _read_body(body)
    reason = reason if reason in _REASONS else None  # others are not shown: a server may echo anything
    response = ErrorResponse(
        status=status,
        message=mask(message)[:_MAX_SHOWN],
        code=code,
        request_id=headers.get("x-pinecone-request-id"),
        retry_after_s=parse_retry_after(headers.get("retry-after"), now=now),
        reason=reason,
    )
    return _error(response, str(status), host)


def error_from_status(  # noqa: PLR0913 - the parts of a status, and what depends on the client
    code: str,
    message: str,
    metadata: Mapping[str, str],
    *,
    reason: str | None = None,
    host: str,
    now: float,
    mask: Callable[[str], str],
) -> PineconeUpsertError:
    """
    Convert the status of a gRPC call, other than OK, into an error.

    :param code: The name of the status code.
    :param message: What the server says; of a call that reached no server, gRPC.
    :param metadata: What came with the status, with masked values.
    :param reason: The machine-readable reason in its details.
    :param host: The URL of the server, for the message.
    :param now: Seconds since the epoch, as for :func:`error_from_response`.
    :param mask: Masks the API key in the message.
    :return: The error to raise.
    """
    number, status = _GRPC_CODES.get(code, _UNKNOWN_CODE)
    message = mask(message)[:_MAX_SHOWN]
    if code in _NO_ANSWER and not metadata:
        if "CERTIFICATE_VERIFY_FAILED" in message:
            return SetupError(
                f"{host} has no certificate that is trusted here ({message}). Set ca_bundle if it should."
            )
        return TransportError(
            f"No answer from {host} ({code}: {message}). Check the index host, DNS, proxy and firewall."
        )
    response = ErrorResponse(
        status=status,
        message=message,
        code=number,
        request_id=metadata.get("x-pinecone-request-id"),
        retry_after_s=parse_retry_after(metadata.get("retry-after"), now=now),
        reason=reason if reason in _REASONS else None,
    )
    return _error(response, code, host)


def _error(response: ErrorResponse, status: str, host: str) -> PineconeUpsertError:
    known = _REASONS[response.reason] if response.reason else None
    error_class, remedy = known or _classify(response.status, response.message.lower())
    request_id = f"request id {response.request_id}, " if response.request_id else ""
    quoted = f" ({request_id}“{response.message}”)" if response.message else ""
    return error_class(f"{host} answered {status}{quoted}. {remedy}".rstrip(), response=response)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """
    Parse a ``Retry-After`` header.

    :param value: Seconds or an HTTP date (RFC 9110, section 10.2.3); None if the header is absent.
    :param now: Seconds since the epoch.
    :return: Seconds to wait, never negative; None if the header is absent or invalid.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
            # RFC 9110 dates are in GMT; "-0000" parses as naive.
            seconds = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now
        except (ValueError, OverflowError):  # not a date, or one beyond the calendar
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _read_body(body: bytes | bytearray) -> tuple[int | None, str, str | None]:
    """
    Return code, message and reason of ``{"code", "message", "details"}``, ``{"error": {"code", "message"}}`` or plain text.

    The reason is that of the first detail that has one.
    """
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        inner = parsed["error"] if isinstance(parsed.get("error"), dict) else parsed
        code, message = inner.get("code"), inner.get("message")
        if isinstance(message, str):
            return code if isinstance(code, int) else None, message, _reason(inner.get("details"))
    return None, body.decode("utf-8", "replace").strip(), None


def _reason(details: Any) -> str | None:
    found = (
        (detail.get("reason") for detail in details if isinstance(detail, dict)) if isinstance(details, list) else ()
    )
    return next((reason for reason in found if isinstance(reason, str)), None)


_ANY: Final = range(1_000)
_REDIRECT: Final = range(300, 400)
_SERVER: Final = range(500, 600)

HOLDS_DOCUMENTS: Final = "Name an index that holds vectors; this one holds documents."
_KEY: Final = "Check the API key (the password of the Airflow connection) and that its project holds this index."
_QUOTA: Final = "Raise the plan's quota or free some of it; waiting does not help until the quota renews."
_NOT_AN_INDEX: Final = "A Pinecone index does not answer like this: check that the index host is the index's own."
_PROXY: Final = "Check the proxy, and the user and password in its URL."
_TOO_LARGE: Final = (
    "exceeds the maximum supported size",
    "message length too large",
    "message larger than max",  # gRPC's own, RESOURCE_EXHAUSTED
    "received http2 header with status: 413",  # a proxy's, UNKNOWN
)
_UNUSUAL: Final = "Pinecone does not document this status: check the index host, and any proxy in between."
_UNAVAILABLE: Final = "The service, or a proxy in front of it, is temporarily unavailable; try again later."
_SIZE: Final = f"Lower max_request_bytes (the documented limit is {MAX_REQUEST_BYTES:,} bytes)."


_WRITE_TO_NAMESPACE: Final = "A namespace alias only serves reads. Write to a namespace, and point the alias to it (PineconeSwapNamespaceOperator)."
_OTHER_ALIAS_NAME: Final = "Choose another name for the alias."

_REASONS: Final[Mapping[str, tuple[type[PineconeUpsertError], str]]] = {
    # Of https://docs.pinecone.io/guides/manage-data/namespace-aliases/overview: class, remedy.
    "ALIAS_ALREADY_EXISTS": (SetupError, "Repoint the alias instead of creating it."),
    "NAME_IN_USE_BY_NAMESPACE": (SetupError, _OTHER_ALIAS_NAME),
    "NAME_IN_USE_BY_ALIAS": (SetupError, _WRITE_TO_NAMESPACE),
    "WRITE_TO_ALIAS": (SetupError, _WRITE_TO_NAMESPACE),
    "TARGET_NAMESPACE_NOT_FOUND": (NotFoundError, "Write the target namespace first, or fix its name."),
    "TARGET_NAMESPACE_NOT_ACTIVE": (ServerError, "The namespace is not ready yet; try again later."),
    "TARGET_IS_ALIAS": (SetupError, "Name a namespace as the target: an alias cannot point to an alias."),
    "ALIASES_PER_INDEX_EXCEEDED": (QuotaExceededError, "Delete aliases that are no longer used."),
    "API_VERSION_TOO_OLD": (SetupError, f"Set api_version in the connection's extra, {ALIAS_API_VERSION} or later."),
    "NAMESPACE_OPERATION_ON_ALIAS": (SetupError, "Name the target namespace of the alias instead of the alias."),
    "NAMESPACE_TARGETED_BY_ALIAS": (SetupError, "Repoint or delete the aliases that point to the namespace first."),
}
"""What the machine-readable reasons of namespace aliases mean."""

_GRPC_CODES: Final[Mapping[str, tuple[int, int]]] = {
    "CANCELLED": (1, 499),
    "UNKNOWN": (2, 500),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "OUT_OF_RANGE": (11, 400),
    "UNIMPLEMENTED": (12, 405),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "DATA_LOSS": (15, 500),
    "UNAUTHENTICATED": (16, 401),
}
"""
Of each gRPC status its number and the HTTP status of the same meaning, by which errors are classified
(https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto). UNIMPLEMENTED is 405 and not 501: a host
without this service is not an index.
"""

_UNKNOWN_CODE: Final = _GRPC_CODES["UNKNOWN"]
_NO_ANSWER: Final = ("CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE")
"""What gRPC itself reports of a call without a response. A server's own status comes with metadata."""

_CLASSES: Final[tuple[tuple[Container[int], tuple[str, ...], type[PineconeUpsertError], str], ...]] = (
    # Status, texts of which the message contains one (empty: any message), class, remedy. The first row that matches counts.
    (
        _REDIRECT,
        (),
        SetupError,
        "A redirect is not followed: it would send the key to another URL. Set the index's own host.",
    ),
    (_ANY, ("document schema",), UnsupportedIndexError, HOLDS_DOCUMENTS),
    ((429,), ("client: received message larger than max",), UnexpectedResponseError, _NOT_AN_INDEX),
    ((400, 422, 429, 500), _TOO_LARGE, RequestTooLargeError, _SIZE),
    ((400, 422), (), BadRequestError, "Fix the data or the parameters; the same request would be rejected again."),
    ((401,), (), AuthenticationError, _KEY),
    ((402,), (), QuotaExceededError, _QUOTA),
    ((403,), ("quota", "storage"), QuotaExceededError, _QUOTA),
    # Other messages of a 429 quote the names of index and namespace, so this must be a text that cannot be a name.
    ((429,), ("for the current month",), QuotaExceededError, _QUOTA),
    ((403,), (), AuthenticationError, _KEY),
    ((404,), (), NotFoundError, "Check the index host, the index name and the namespace."),
    ((413,), (), RequestTooLargeError, _SIZE),
    ((429,), (), RateLimitError, "Lower max_requests_per_second or max_bytes_per_second if this persists."),
    ((405, 410), (), NotFoundError, _NOT_AN_INDEX),
    ((407,), (), SetupError, _PROXY),
    # Timeout, conflict, misdirected, locked, too early, client closed request (nginx): the same request may succeed.
    ((408, 409, 421, 423, 425, 499), (), ServerError, _UNAVAILABLE),
    (_SERVER, (), ServerError, _UNAVAILABLE),
    # Never a fault of one record: to bisect for it would cost requests, and blame a record that is valid.
    (_ANY, (), SetupError, _UNUSUAL),
)


def _classify(status: int, message: str) -> tuple[type[PineconeUpsertError], str]:
    """
    Return the class and the remedy of an error response.

    :param status: The HTTP status.
    :param message: The server's message in lower case.
    """
    return next(
        (error_class, remedy)
        for statuses, texts, error_class, remedy in _CLASSES
        if status in statuses and (not texts or any(text in message for text in texts))
    )
