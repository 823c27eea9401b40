"""
A pytest plugin: a local index as a fixture.

::

    # conftest.py
    pytest_plugins = ["airflow_pinecone_upsert.emulator.pytest_plugin"]

    # test_load.py
    def test_load(pinecone_index, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
        operator.execute({})
        assert set(pinecone_index.vectors("articles")) == {"a", "b"}
        assert pinecone_index.requests[0].record_count == 2

What always holds: each index is empty at the start, listens on 127.0.0.1 only, writes its requests down, and is closed
when the test ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.emulator.server import EmulatedIndex

_DIMENSION: Final = 8


class IndexFactory(Protocol):
    """Starts local indexes; see ``EmulatedIndex`` for the parameters."""

    def __call__(  # noqa: PLR0913
        self,
        dimension: int | None = None,
        *,
        metric: str | None = None,
        vector_type: str = "dense",
        name: str = "local",
        document_schema: Mapping[str, Any] | None = None,
        api_key: str | None = "local-key",
        port: int = 0,
        data: Path | None = None,
        max_request_bytes: int = limits.MAX_DECODED_REQUEST_BYTES,
        record_requests: bool = True,
    ) -> EmulatedIndex:
        """
        Start an index.

        :return: The index, listening.
        """
        ...


@pytest.fixture
def pinecone_index_factory() -> Iterator[IndexFactory]:
    """
    Start as many local indexes as the test wants.

    :return: A function that starts one.
    """
    with ExitStack() as stack:

        def start(
            dimension: int | None = None,
            *,
            vector_type: str = "dense",
            api_key: str | None = "local-key",
            record_requests: bool = True,
            **options: Any,
        ) -> EmulatedIndex:
            if dimension is None and vector_type == "dense":
                dimension = _DIMENSION
            index = EmulatedIndex(
                dimension,
                vector_type=vector_type,
                api_key=api_key,
                record_requests=record_requests,
                **options,
            )
            return stack.enter_context(index)

        yield start


@pytest.fixture
def pinecone_index(pinecone_index_factory: IndexFactory) -> EmulatedIndex:
    """
    Start one local index of 8 dimensions, cosine.

    :return: The index, listening.
    """
    return pinecone_index_factory()
