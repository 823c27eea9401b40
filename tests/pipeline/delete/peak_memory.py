"""
``python -m tests.pipeline.delete.peak_memory URL KEY FILE`` deletes the ids of a file, without waiting for the rate limit.

Prints a line of JSON: ``mb``, by how much that raised the process's memory over what the imports take, and ``deleted``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.pipeline.delete.run import delete
from airflow_pinecone_upsert.pipeline.delete.selection import IdsInFiles
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.send.transport import InlineTransport
from tests.pipeline.read.peak_memory import memory_mb


def run(url: str, key: str, path: str) -> int | None:
    source = ParquetSource(find_parquet_files(LocalFileSystem(), path), Columns(), ids_only=True)
    with IndexClient(url, ClientSettings(api_key=key)) as client:
        transport = InlineTransport(client.send, sleep=lambda _: None)
        return delete(IdsInFiles(source), client, max_deletes=10**9, transport=transport).deleted_count


if __name__ == "__main__":
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set begins at the current one
    before = memory_mb("VmRSS")
    deleted = run(*sys.argv[1:])
    print(json.dumps({"mb": memory_mb("VmHWM") - before, "deleted": deleted}))
