"""What the tests of the pipeline share: a small index, and the pipeline as the operator runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
from airflow_pinecone_upsert.emulator import EmulatedIndex, RequestRecord
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.run import upsert


@pytest.fixture
def index(pinecone_index_factory) -> EmulatedIndex:
    """Dense vectors of two components, and sparse ones beside them."""
    return pinecone_index_factory(dimension=2, metric="dotproduct")


@pytest.fixture
def sparse_index(pinecone_index_factory) -> EmulatedIndex:
    return pinecone_index_factory(vector_type="sparse")


@pytest.fixture
def run() -> Callable[..., UpsertReport]:
    """Upsert what a path or a value holds: ``run(index, source, **options)``. Backoff has no length here."""

    def run(index: EmulatedIndex, source: Any, *, timeout_s: float = 30.0, **options: Any) -> UpsertReport:
        chosen = UpsertOptions.checked(**options)
        if isinstance(source, Path):
            records = ParquetSource(find_parquet_files(LocalFileSystem(), str(source)), chosen)
        else:
            records = InMemorySource(source, chosen)
        with IndexClient(index.url, ClientSettings(api_key=index.api_key, timeout_s=timeout_s)) as client:
            return upsert(records, client, chosen, random=lambda: 0.0)

    return run


@pytest.fixture
def upserts() -> Callable[[EmulatedIndex], list[RequestRecord]]:
    """Tell which upserts an index has received."""
    return lambda index: [request for request in index.requests if request.path == "/vectors/upsert"]


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """Make valid records ``r0``, ``r1`` …, no two of them with the same values."""

    def rows(count: int, *, start: int = 0, **more: Any) -> list[dict[str, Any]]:
        return [{"id": f"r{n}", "values": [1.0, float(n)], **more} for n in range(start, start + count)]

    return rows


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a table, or the columns of one, as Parquet."""

    def write(table: pa.Table | dict[str, Any], name: str = "records.parquet", **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
        return path

    return write


@pytest.fixture
def bits() -> Callable[[Any], list[int]]:
    """Show float32 as bits, so that -0.0 and 0.0 differ."""
    return lambda values: np.asarray(values, np.float32).view(np.uint32).tolist()
