"""
The endpoints of Pinecone's API that this package calls, each with the type of its response.

https://docs.pinecone.io/reference/api/2025-04/data-plane
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from airflow_pinecone_upsert.api.limits import (
    ALIAS_API_VERSION,
    FILTER_COUNT_API_VERSION,
    MAX_DATA_RESPONSE_BYTES,
    MAX_RESPONSE_BYTES,
)
from airflow_pinecone_upsert.api.models import (
    AliasesResponse,
    BulkImport,
    DeleteResponse,
    FetchResponse,
    ImportsResponse,
    IndexDescription,
    IndexStats,
    ListResponse,
    NamespaceAlias,
    NamespaceDescription,
    NamespacesResponse,
    QueryResponse,
    StartedImport,
    UpdateResponse,
    UpsertResponse,
)

ResponseT = TypeVar("ResponseT", bound=BaseModel)

_DEFAULT_NAMESPACE: Final = "__default__"


class Body(Protocol):
    """A request body in pieces, which are created while it is sent."""

    def __len__(self) -> int:
        """Return the number of bytes of all pieces."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces."""
        ...


@dataclass(frozen=True)
class Endpoint(Generic[ResponseT]):
    """
    A method, a path and the type of the response.

    :param method: ``GET``, ``POST``, ``PATCH``, ``DELETE``.
    :param path: The path on the host of the index or of the control plane.
    :param response: The type of the response.
    :param max_response_bytes: The bound of a response with a 2xx status; of a longer one, the rest is not read.
    :param min_api_version: The API version of the request is at least this one; empty for the version of the settings.
    """

    method: str
    path: str
    response: type[ResponseT]
    max_response_bytes: int = MAX_RESPONSE_BYTES
    min_api_version: str = ""

    def __str__(self) -> str:
        """Return the text for a message."""
        return f"{self.method} {self.path}"


UPSERT: Final = Endpoint("POST", "/vectors/upsert", UpsertResponse)
DELETE: Final = Endpoint("POST", "/vectors/delete", DeleteResponse)
FETCH: Final = Endpoint("GET", "/vectors/fetch", FetchResponse, MAX_DATA_RESPONSE_BYTES)
LIST: Final = Endpoint("GET", "/vectors/list", ListResponse)
QUERY: Final = Endpoint("POST", "/query", QueryResponse, MAX_DATA_RESPONSE_BYTES)
STATS: Final = Endpoint("POST", "/describe_index_stats", IndexStats, MAX_DATA_RESPONSE_BYTES)
UPDATE_BY_FILTER: Final = Endpoint("POST", "/vectors/update", UpdateResponse, min_api_version=FILTER_COUNT_API_VERSION)
START_IMPORT: Final = Endpoint("POST", "/bulk/imports", StartedImport)
IMPORTS: Final = Endpoint("GET", START_IMPORT.path, ImportsResponse)
NAMESPACES: Final = Endpoint("GET", "/namespaces", NamespacesResponse)

_ALIASES: Final = "/namespace-aliases"
CREATE_ALIAS: Final = Endpoint("POST", _ALIASES, NamespaceAlias, min_api_version=ALIAS_API_VERSION)
LIST_ALIASES: Final = Endpoint("GET", _ALIASES, AliasesResponse, min_api_version=ALIAS_API_VERSION)


NO_PATH_SEGMENTS: Final = (".", "..")
"""Names that a URL cannot contain: they mean a folder there."""


def describe_namespace(namespace: str) -> Endpoint[NamespaceDescription]:
    """Return the endpoint that counts the records of a namespace; ``""`` is the default one."""
    return Endpoint("GET", _namespace_path(namespace), NamespaceDescription)


def delete_namespace(namespace: str) -> Endpoint[DeleteResponse]:
    """Return the endpoint that deletes a namespace; ``""`` is the default one."""
    return Endpoint("DELETE", _namespace_path(namespace), DeleteResponse)


def describe_alias(name: str) -> Endpoint[NamespaceAlias]:
    """Return the endpoint that describes a namespace alias."""
    return Endpoint("GET", _alias_path(name), NamespaceAlias, min_api_version=ALIAS_API_VERSION)


def repoint_alias(name: str) -> Endpoint[NamespaceAlias]:
    """Return the endpoint that changes the target of a namespace alias."""
    return Endpoint("PATCH", _alias_path(name), NamespaceAlias, min_api_version=ALIAS_API_VERSION)


def delete_alias(name: str) -> Endpoint[DeleteResponse]:
    """Return the endpoint that deletes a namespace alias."""
    return Endpoint("DELETE", _alias_path(name), DeleteResponse, min_api_version=ALIAS_API_VERSION)


def bulk_import(import_id: str) -> Endpoint[BulkImport]:
    """Return the endpoint that describes a bulk import."""
    return Endpoint("GET", f"{START_IMPORT.path}/{quote(import_id, safe='')}", BulkImport)


def cancel_import(import_id: str) -> Endpoint[DeleteResponse]:
    """Return the endpoint that cancels a bulk import."""
    return Endpoint("DELETE", f"{START_IMPORT.path}/{quote(import_id, safe='')}", DeleteResponse)


def describe_index(name: str) -> Endpoint[IndexDescription]:
    """Return the control plane's endpoint that describes an index."""
    return Endpoint("GET", f"/indexes/{quote(name, safe='')}", IndexDescription)


def shown_namespace(namespace: str) -> str:
    """Return the name of a namespace where it must not be empty, as that of the default one may be elsewhere."""
    return namespace or _DEFAULT_NAMESPACE


def _namespace_path(namespace: str) -> str:
    return f"/namespaces/{quote(shown_namespace(namespace), safe='')}"


def _alias_path(name: str) -> str:
    return f"{_ALIASES}/{quote(name, safe='')}"
