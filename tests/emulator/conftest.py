"""Fixtures for the tests of the emulator."""

from __future__ import annotations

import httpx
import pytest


@pytest.fixture
def connect():
    """Open an HTTP client for an index, with its API key."""
    clients = []

    def open_client(index, **headers):
        client = httpx.Client(base_url=index.url, headers={"Api-Key": index.api_key, **headers})
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def index(pinecone_index_factory):
    """Start an index with 3 dimensions."""
    return pinecone_index_factory(3)


@pytest.fixture
def http(index, connect):
    """Open an HTTP client for ``index``."""
    return connect(index)


@pytest.fixture
def upsert():
    """Upsert records, given as in the API, and return the response."""

    def upsert(http, *vectors, namespace=""):
        response = http.post("/vectors/upsert", json={"vectors": vectors, "namespace": namespace})
        assert response.status_code == 200, response.text
        return response

    return upsert
