"""
The operations on namespace aliases, named as in Pinecone's OpenAPI file of version 2026-07.

https://docs.pinecone.io/guides/manage-data/namespace-aliases/overview

Invariant: every rejection has a machine-readable reason, but for an unknown alias and an unknown parameter. The reasons and
statuses are those of the OpenAPI file; the messages and gRPC codes are inferred.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import limits, rules
from airflow_pinecone_upsert.emulator.names import Alias, Names
from airflow_pinecone_upsert.emulator.paging import decode_token, page_limit, pagination
from airflow_pinecone_upsert.emulator.responses import api_version, json_response
from airflow_pinecone_upsert.emulator.rules import ApiError, Message

_CREATE_FIELDS: Final = frozenset({"name", "target_namespace"})
_REPOINT_FIELDS: Final = frozenset({"target_namespace"})
_FILTERS: Final[tuple[str, ...]] = ("prefix", "target_namespace")
_LIST_PARAMETERS: Final = frozenset({"limit", "paginationToken", *_FILTERS})
_NAME: Final = re.compile(r"[\x21\x22\x24\x27-\x2A\x2C-\x2E\x30-\x3A\x3C\x3E\x40-\x5B\x5D-\x7E]+")
"""Printable ASCII without space and ``/ ? # % & = \\ ; +``."""

_RESERVED_NAMES: Final = frozenset({rules.DEFAULT_NAMESPACE, ".", ".."})

_Operation = Callable[[Request, bytes], Response]


class AliasOperations:
    """
    The operations on the aliases of one index.

    :param names: The namespaces and aliases.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    @staticmethod
    def versioned(operation: _Operation) -> _Operation:
        """Reject requests of API versions without aliases."""

        def checked(request: Request, body: bytes) -> Response:
            version = api_version(request)
            if version < limits.ALIAS_API_VERSION:
                raise ApiError(
                    f"Namespace aliases need API version {limits.ALIAS_API_VERSION} or later, "
                    f"but the request has {version or 'none'}",
                    reason="API_VERSION_TOO_OLD",
                )
            return operation(request, body)

        return checked

    def create_namespace_alias(self, _: Request, body: bytes) -> Response:
        """Create an alias."""
        message = Message.parse(body, _CREATE_FIELDS)
        name = _alias_name(message.text("name"))
        target = _target(message)
        if alias := self._names.alias(name):
            raise _conflict(
                f"Namespace alias '{name}' already exists",
                "ALIAS_ALREADY_EXISTS",
                target_namespace=rules.shown_namespace(alias.target),
            )
        if self._names.exists(name):
            raise _conflict(f"The name '{name}' is in use by a namespace", "NAME_IN_USE_BY_NAMESPACE")
        self._check_target(target)
        if len(self._names.aliases) >= limits.MAX_ALIASES_PER_INDEX:
            raise _refused(
                f"An index has at most {limits.MAX_ALIASES_PER_INDEX} namespace aliases", "ALIASES_PER_INDEX_EXCEEDED"
            )
        return json_response(_description(self._names.point(name, target)))

    def repoint_namespace_alias(self, request: Request, body: bytes) -> Response:
        """Change the target of an alias."""
        alias = self._existing(request)
        target = _target(Message.parse(body, _REPOINT_FIELDS))
        self._check_target(target)
        return json_response(_description(self._names.point(alias.name, target)))

    def describe_namespace_alias(self, request: Request, _: bytes) -> Response:
        """Return an alias."""
        return json_response(_description(self._existing(request)))

    def delete_namespace_alias(self, request: Request, _: bytes) -> Response:
        """Delete an alias."""
        self._names.remove_alias(self._existing(request).name)
        return json_response({})

    def list_namespace_aliases(self, request: Request, _: bytes) -> Response:
        """Return a page of aliases."""
        parameters = dict(request.query_params)
        if unknown := parameters.keys() - _LIST_PARAMETERS:
            raise ApiError(f"Unknown query parameter: {min(unknown)}")
        limit = page_limit(parameters, reason="LIST_INVALID_LIMIT")
        after, filters = _listing(parameters)
        aliases = [alias for alias in self._names.aliases if _passes(alias, filters)]
        left = [alias for alias in aliases if alias.name > after]
        # The token carries the filters, and is of no use to other listings.
        page = pagination([alias.name for alias in left], limit, of="aliases", **filters)
        described = [_description(alias) for alias in left[:limit]]
        return json_response({"namespace_aliases": described, **page, "total_count": len(aliases)})

    def _existing(self, request: Request) -> Alias:
        alias = self._names.alias(_alias_name(request.path_params["alias"]))
        if alias is None:
            raise ApiError("Namespace alias not found", status=404, code=rules.NOT_FOUND)
        return alias

    def _check_target(self, target: str) -> None:
        """Check that an alias may point to a namespace."""
        shown = rules.shown_namespace(target)
        if self._names.alias(target):
            raise _refused(f"The target '{shown}' is a namespace alias", "TARGET_IS_ALIAS")
        if target in self._names.importing:
            raise _refused(f"The target namespace '{shown}' is not active yet", "TARGET_NAMESPACE_NOT_ACTIVE")
        if target and not self._names.exists(target):
            raise _refused(f"The target namespace '{shown}' does not exist", "TARGET_NAMESPACE_NOT_FOUND")


def _alias_name(name: str) -> str:
    if not (_NAME.fullmatch(name) and len(name) <= limits.MAX_NAMESPACE_LENGTH) or name in _RESERVED_NAMES:
        raise ApiError(
            f"'{name}' is not a valid alias name. It must be 1 to {limits.MAX_NAMESPACE_LENGTH} characters of printable "
            r"ASCII, without space and / ? # % & = \ ; +",
            reason="ALIAS_NAME_INVALID",
        )
    return name


def _target(message: Message) -> str:
    """Return the target namespace in a request, as it is stored."""
    target = message.text("target_namespace")
    if not target:
        raise ApiError("target_namespace must be given", reason="TARGET_NAMESPACE_REQUIRED")
    try:
        return rules.normalize_namespace(target)
    except ApiError as exc:
        is_long = len(target) > limits.MAX_NAMESPACE_LENGTH
        raise ApiError(exc.message, reason="NAMESPACE_TOO_LONG" if is_long else "NAMESPACE_INVALID") from exc


def _listing(parameters: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the name that a page starts after, and the filters of the listing."""
    filters = {name: parameters[name] for name in _FILTERS if name in parameters}
    if filters.get("target_namespace") == "":
        raise ApiError("target_namespace must not be empty", reason="TARGET_FILTER_EMPTY")
    _check_prefix(filters.get("prefix", ""))
    if not (token := parameters.get("paginationToken", "")):
        return "", filters
    fields = decode_token(token, reason="INVALID_PAGINATION_TOKEN")
    if fields.pop("of", None) != "aliases":
        raise ApiError("The pagination token is from another listing", reason="INVALID_PAGINATION_TOKEN")
    for name, value in filters.items():
        if fields.get(name) != value:
            kind = "PREFIX" if name == "prefix" else "TARGET"
            new = "" if name in fields else "NEW_"
            raise ApiError(f"{name} does not match the pagination token", reason=f"LIST_INVALID_TOKEN_WITH_{new}{kind}")
    return fields.pop("skip_past"), fields


def _check_prefix(prefix: str) -> None:
    if len(prefix) > limits.MAX_NAMESPACE_LENGTH:
        raise ApiError(f"prefix must be at most {limits.MAX_NAMESPACE_LENGTH} characters", reason="PREFIX_TOO_LONG")
    if not prefix.isascii():
        raise ApiError("prefix must be ASCII", reason="PREFIX_MUST_BE_ASCII")
    if "\0" in prefix:
        raise ApiError("prefix must not contain null character", reason="PREFIX_MUST_NOT_CONTAIN_NULL_CHARACTER")


def _passes(alias: Alias, filters: dict[str, str]) -> bool:
    target = filters.get("target_namespace")
    return alias.name.startswith(filters.get("prefix", "")) and target in (None, rules.shown_namespace(alias.target))


def _description(alias: Alias) -> dict[str, Any]:
    return {
        "name": alias.name,
        "target_namespace": rules.shown_namespace(alias.target),
        "created_at": alias.created_at,
        "updated_at": alias.updated_at,
    }


def _refused(message: str, reason: str) -> ApiError:
    return ApiError(message, code=rules.FAILED_PRECONDITION, reason=reason)


def _conflict(message: str, reason: str, **metadata: str) -> ApiError:
    return ApiError(message, status=409, code=rules.ALREADY_EXISTS, reason=reason, metadata=metadata)
