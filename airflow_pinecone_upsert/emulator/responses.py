"""
The responses of the operations.

Invariants:

* A write reports its log sequence number (LSN) in ``x-pinecone-request-lsn``, a query the last visible one in
  ``x-pinecone-max-indexed-lsn``. No other response reports a position, as in the real service.
* An error of the index is ``{"code", "message", "details"}``, an error of a layer in front of it plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from airflow_pinecone_upsert.emulator.records import Row
from airflow_pinecone_upsert.emulator.rules import ApiError

USAGE: Final = {"readUnits": 1}

_GRPC_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 413: 11, 429: 8, 500: 13, 503: 14, 504: 4}
_GRPC_UNKNOWN: Final = 2


def json_response(payload: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """
    Make a JSON response.

    :param payload: What orjson can serialize, numpy arrays included.
    :param status: The HTTP status.
    :param headers: Additional headers.
    :return: The response.
    """
    content = orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


def write_response(lsn: int, payload: object) -> Response:
    """
    Make the response to a write.

    :param lsn: The LSN of the write.
    :param payload: As for :func:`json_response`.
    :return: The response.
    """
    return json_response(payload, headers={"x-pinecone-request-lsn": str(lsn)})


def query_response(lsn: int, payload: object) -> Response:
    """
    Make the response to a query.

    :param lsn: The LSN of the last write that the query includes.
    :param payload: As for :func:`json_response`.
    :return: The response.
    """
    return json_response(payload, headers={"x-pinecone-max-indexed-lsn": str(lsn)})


def grpc_code(status: int) -> int:
    """Return the gRPC code of an HTTP status."""
    return _GRPC_CODES.get(status, _GRPC_UNKNOWN)


def error_response(exc: ApiError) -> Response:
    """
    Make the response to a rejected request.

    :param exc: The reason.
    :return: The response.
    """
    if exc.code is None:
        # After a 413 the rest of the body would be read as long as the client sends.
        headers = {"Connection": "close"} if exc.status == 413 else None  # noqa: PLR2004
        return PlainTextResponse(exc.message, exc.status, headers)
    return json_response({"code": exc.code, "message": exc.message, "details": exc.details}, status=exc.status)


def api_version(request: Request) -> str:
    """
    Return the API version of a request.

    :param request: The request.
    :return: Such as ``2025-04``; versions are ordered like strings. Empty if the request names none, which the real
        service treats as its oldest version.
    """
    return request.headers.get("x-pinecone-api-version", "")


def record_json(row: Row, *, values: bool = True, metadata: bool = True) -> dict[str, Any]:
    """
    Return the JSON form of a record.

    It always has ``values``, which SDK 7.3.0 requires even of a sparse record.

    :param row: The record.
    :param values: Whether to include its values and sparse values.
    :param metadata: Whether to include its metadata.
    :return: The fields, for :func:`json_response`.
    """
    record = row.unpack()
    json: dict[str, Any] = {"id": row.id, "values": []}
    if values and record.values is not None:
        json["values"] = record.values
    if values and record.sparse_values is not None:
        json["sparseValues"] = {"indices": record.sparse_indices, "values": record.sparse_values}
    if metadata and row.metadata is not None:
        json["metadata"] = orjson.Fragment(row.metadata)
    return json
