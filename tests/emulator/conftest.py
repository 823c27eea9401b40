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
