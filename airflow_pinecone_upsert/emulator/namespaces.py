"""The operations on namespaces, named as in Pinecone's OpenAPI file of version 2025-10."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import limits, rules
from airflow_pinecone_upsert.emulator.names import Names
from airflow_pinecone_upsert.emulator.paging import page_limit, page_start, pagination
from airflow_pinecone_upsert.emulator.responses import api_version, json_response, write_response
from airflow_pinecone_upsert.emulator.rules import ApiError, Message

_CREATE_FIELDS: Final = frozenset({"name", "schema"})
_PREFIX_API_VERSION: Final = "2025-10"
"""The first version that filters namespaces by prefix and counts them."""


class NamespaceOperations:
    """
    The operations on the namespaces of one index.

    :param names: The namespaces and aliases.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    def create_namespace(self, request: Request, body: bytes) -> Response:
        """Create an empty namespace."""
        message = Message.parse(body, _CREATE_FIELDS)
        name = message.text("name")
        if not name:
            raise ApiError("Namespace name must not be empty")
        if name == rules.DEFAULT_NAMESPACE:
            raise ApiError(f"'{name}' is reserved: it always exists and cannot be created")
        namespace = self._names.writable(name, creates=True)
        schema = message.mapping("schema")
        _check_schema(schema)
        if self._names.exists(namespace):
            raise ApiError(f"Namespace '{name}' already exists", status=409, code=rules.ALREADY_EXISTS)
        self._names.create(namespace, schema)
        return json_response(self._description(namespace, 0, request))

    def list_namespaces(self, request: Request, _: bytes) -> Response:
        """Return a page of namespaces."""
        parameters = request.query_params
        limit = page_limit(parameters)
        after = page_start(parameters.get("paginationToken", ""))
        has_prefix = api_version(request) >= _PREFIX_API_VERSION
        prefix = parameters.get("prefix", "") if has_prefix else ""
        # Sorted by the name in the response, which for the default namespace differs from the stored name.
        counts = {rules.shown_namespace(name): count for name, count in self._names.counts().items()}
        names = sorted(name for name in counts if name.startswith(prefix))
        left = [name for name in names if name > after]
        described = [self._description(rules.normalize_namespace(name), counts[name], request) for name in left[:limit]]
        total = {"total_count": len(names)} if has_prefix else {}
        return json_response({"namespaces": described, **pagination(left, limit), **total})

    def describe_namespace(self, request: Request, _: bytes) -> Response:
        """Count the records of a namespace."""
        namespace = self._names.own(request.path_params["namespace"])
        return json_response(self._description(namespace, self._names.counts()[namespace], request))

    def delete_namespace(self, request: Request, _: bytes) -> Response:
        """Delete a namespace with all its records."""
        namespace = self._names.own(request.path_params["namespace"])
        if aliases := self._names.aliases_of(namespace):
            raise ApiError(
                f"Namespace is the target of {len(aliases)} namespace aliases, among them '{aliases[0].name}'. Repoint "
                "or delete them first",
                code=rules.FAILED_PRECONDITION,
                reason="NAMESPACE_TARGETED_BY_ALIAS",
            )
        return write_response(self._names.delete(namespace), {})

    def _description(self, namespace: str, count: int, request: Request) -> dict[str, Any]:
        schema = self._names.schema(namespace)
        return {
            "name": rules.shown_namespace(namespace),
            "record_count": str(count) if api_version(request) >= limits.ALIAS_API_VERSION else count,
            **({} if schema is None else {"schema": schema}),
        }


def _check_schema(schema: dict[str, Any] | None) -> None:
    fields = {} if schema is None else schema.get("fields")
    if not isinstance(fields, dict):
        raise ApiError("The schema of a namespace must have fields")
    for name, field in fields.items():
        if not (isinstance(field, dict) and field.get("filterable") is True):
            raise ApiError(f"Field '{name}' is set to filterable: false. Only filterable: true is supported.")
