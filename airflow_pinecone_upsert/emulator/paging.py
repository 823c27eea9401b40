"""
Pages of a listing.

A token is opaque to clients: base64 of a JSON object with the last name of the page, as in the real service.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.rules import ApiError


def page_limit(parameters: Mapping[str, str], *, reason: str | None = None) -> int:
    """
    Return the size of a page.

    :param parameters: The query parameters of the request.
    :param reason: The machine-readable reason of the error.
    :return: The parameter ``limit``; by default the maximum.
    :raises ApiError: The limit is not a number, or out of range.
    """
    text = parameters.get("limit", str(limits.MAX_IDS_PER_LIST_PAGE))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:10]) <= limits.MAX_IDS_PER_LIST_PAGE):
        raise ApiError(f"limit must be between 1 and {limits.MAX_IDS_PER_LIST_PAGE}, but got {text}", reason=reason)
    return int(text)


def page_start(token: str) -> str:
    """
    Return the name that a page starts after.

    :param token: The pagination token of the request; empty for the first page.
    :return: The last name of the previous page; empty for the first page.
    :raises ApiError: The token is invalid.
    """
    return str(decode_token(token)["skip_past"]) if token else ""


def decode_token(token: str, *, reason: str | None = None) -> dict[str, Any]:
    """
    Decode a pagination token.

    :param token: The token.
    :param reason: The machine-readable reason of the error.
    :return: Its fields; ``skip_past`` is always there.
    :raises ApiError: The token is invalid.
    """
    try:
        fields: dict[str, Any] = orjson.loads(base64.b64decode(token, validate=True))
        fields["skip_past"]
    except (binascii.Error, KeyError, TypeError, ValueError) as exc:
        raise ApiError(f"Invalid pagination token: {token}", reason=reason) from exc
    return fields


def pagination(names: Sequence[str], limit: int, **fields: str) -> dict[str, Any]:
    """
    Return the token of the next page.

    :param names: The names from the start of this page on.
    :param limit: The size of this page.
    :param fields: Further fields of the token.
    :return: ``{"pagination": {"next": token}}``; empty if ``names`` fit on this page.
    """
    if len(names) <= limit:
        return {}
    token = orjson.dumps({"skip_past": names[limit - 1], **fields})
    return {"pagination": {"next": base64.b64encode(token).decode()}}
