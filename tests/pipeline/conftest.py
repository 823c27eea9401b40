"""Shared by the tests of the pipeline: small indexes, records and files, and the pipeline as the operator runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import EmulatedIndex, RequestRecord
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.run import upsert
from airflow_pinecone_upsert.pipeline.send.events import Attempt
from airflow_pinecone_upsert.pipeline.send.transport import Transport
from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder


@pytest.fixture
def index(pinecone_index_factory) -> EmulatedIndex:
    """Two dimensions; sparse values are allowed. Over REST and gRPC."""
    return pinecone_index_factory(dimension=2, metric="dotproduct", grpc_port=0)


@pytest.fixture
def sparse_index(pinecone_index_factory) -> EmulatedIndex:
    return pinecone_index_factory(vector_type="sparse")


class UpsertRunner:
    """
    The wiring of source, client and pipeline: ``run(index, source, **parameters)``. Backoff takes no time.

    :ivar report: The report of the last run, whether it succeeded or failed.
    """

    report: UpsertReport

    def __call__(
        self,
        index: EmulatedIndex,
        source: Any,
        *,
        timeout_s: float = 30.0,
        rejects_folder: RejectsFolder | None = None,
        state: StateStore | None = None,
        carrier: Transport | None = None,
        **parameters: Any,
    ) -> UpsertReport:
        options = UpsertOptions.checked(**parameters)
        if isinstance(source, Path):
            source = ParquetSource(find_parquet_files(LocalFileSystem(), str(source)), options)
        elif not isinstance(source, ParquetSource):
            source = InMemorySource(source, options)
        settings = ClientSettings(api_key=index.api_key, timeout_s=timeout_s, grpc_port=index.grpc_port)
        with IndexClient(index.url, settings) as client:
            return upsert(
                source,
                client,
                options,
                rejects_folder=rejects_folder,
                state=state,
                observers=[self],
                random=lambda: 0.0,
                transport=carrier,
            )

    def attempted(self, attempt: Attempt) -> None:
        pass

    def ended(self, report: UpsertReport) -> None:
        self.report = report


@pytest.fixture
def run() -> UpsertRunner:
    """Upsert a path or a value."""
    return UpsertRunner()


@pytest.fixture(params=["rest", "grpc"])
def transport(request) -> str:
    """What carries the requests."""
    return request.param


@pytest.fixture
def upserts() -> Callable[[EmulatedIndex], list[RequestRecord]]:
    """Return the upserts that an index has received."""
    return lambda index: [request for request in index.requests if request.path == "/vectors/upsert"]


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """Make valid records ``r0``, ``r1`` …, each with other values."""

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
    """Return float32 as bits, so that -0.0 and 0.0 differ."""
    return lambda values: np.asarray(values, np.float32).view(np.uint32).tolist()
