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

from airflow_pinecone_upsert.api.limits import MAX_DATA_RESPONSE_BYTES, MAX_RESPONSE_BYTES
from airflow_pinecone_upsert.api.models import (
    DeleteResponse,
    FetchResponse,
    IndexDescription,
    IndexStats,
    ListResponse,
    NamespacesResponse,
    QueryResponse,
    UpsertResponse,
)

ResponseT = TypeVar("ResponseT", bound=BaseModel)


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

    :param method: ``GET``, ``POST``, ``DELETE``.
    :param path: The path on the host of the index or of the control plane.
    :param response: The type of the response.
    :param max_response_bytes: The bound of a response with a 2xx status; of a longer one, the rest is not read.
    """

    method: str
    path: str
    response: type[ResponseT]
    max_response_bytes: int = MAX_RESPONSE_BYTES

    def __str__(self) -> str:
        """Return the text for a message."""
        return f"{self.method} {self.path}"


UPSERT: Final = Endpoint("POST", "/vectors/upsert", UpsertResponse)
DELETE: Final = Endpoint("POST", "/vectors/delete", DeleteResponse)
FETCH: Final = Endpoint("GET", "/vectors/fetch", FetchResponse, MAX_DATA_RESPONSE_BYTES)
LIST: Final = Endpoint("GET", "/vectors/list", ListResponse)
QUERY: Final = Endpoint("POST", "/query", QueryResponse, MAX_DATA_RESPONSE_BYTES)
STATS: Final = Endpoint("POST", "/describe_index_stats", IndexStats, MAX_DATA_RESPONSE_BYTES)
NAMESPACES: Final = Endpoint("GET", "/namespaces", NamespacesResponse)


def delete_namespace(namespace: str) -> Endpoint[DeleteResponse]:
    """Return the endpoint that deletes a namespace; ``""`` is the default one."""
    return Endpoint("DELETE", f"/namespaces/{quote(namespace or '__default__', safe='')}", DeleteResponse)


def describe_index(name: str) -> Endpoint[IndexDescription]:
    """Return the control plane's endpoint that describes an index."""
    return Endpoint("GET", f"/indexes/{quote(name, safe='')}", IndexDescription)
