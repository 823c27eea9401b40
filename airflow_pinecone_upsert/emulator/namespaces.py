"""The operations on namespaces, named as in Pinecone's OpenAPI file."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import rules
from airflow_pinecone_upsert.emulator.paging import page_limit, page_start, pagination
from airflow_pinecone_upsert.emulator.responses import json_response, not_found, write_response
from airflow_pinecone_upsert.emulator.rules import ApiError
from airflow_pinecone_upsert.emulator.store import Store


class NamespaceOperations:
    """
    The operations on the namespaces of one index.

    :param store: The records.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_namespaces(self, request: Request, _: bytes) -> Response:
        """Return a page of namespaces."""
        limit = page_limit(request.query_params)
        after = page_start(request.query_params.get("paginationToken", ""))
        # Sorted by the name in the response, which for the default namespace differs from the stored name.
        counts = sorted((name or rules.DEFAULT_NAMESPACE, count) for name, count in self._store.counts().items())
        counts = [(name, count) for name, count in counts if name > after]
        page = pagination([name for name, _ in counts], limit)
        return json_response({"namespaces": [_namespace(*entry) for entry in counts[:limit]], **page})

    def describe_namespace(self, request: Request, _: bytes) -> Response:
        """Count the records of a namespace."""
        namespace = rules.normalize_namespace(request.path_params["namespace"])
        count = self._store.counts().get(namespace)
        if count is None:
            raise unknown_namespace()
        return json_response(_namespace(namespace or rules.DEFAULT_NAMESPACE, count))

    def delete_namespace(self, request: Request, _: bytes) -> Response:
        """Delete a namespace with all its records."""
        lsn = self._store.delete_namespace(rules.normalize_namespace(request.path_params["namespace"]))
        if lsn is None:
            raise unknown_namespace()
        return write_response(lsn, {})


def unknown_namespace() -> ApiError:
    """
    Make the error for a namespace that does not exist.

    :return: The error.
    """
    return not_found("Namespace not found")


def _namespace(name: str, count: int) -> dict[str, Any]:
    return {"name": name, "record_count": count}
