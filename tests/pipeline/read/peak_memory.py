"""
``python peak_memory.py URL KEY FILE [COLUMN …]`` upserts a file and prints by how much it raised the process's memory.

``python peak_memory.py URL KEY generated COUNT METADATA`` does so with records that a generator yields, each with these
metadata, given as JSON. The result is a line of JSON: ``mb`` over what the imports take, ``upserted``, and ``error``. The columns are metadata columns.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute  # noqa: F401 - part of the imports
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.exceptions import InputError
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.run import upsert


def memory_mb(field: str) -> int:
    """Return a field of the process's status, such as its largest resident set."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


def generated(count: str, metadata: str) -> Iterator[dict]:
    for row in range(int(count)):
        yield {"id": f"r{row}", "values": [1.0, 1.0], "metadata": json.loads(metadata)}


def run(url: str, key: str, path: str, *more: str) -> dict:
    if path == "generated":
        options = UpsertOptions.checked()
        source = InMemorySource(generated(*more), options)
    else:
        options = UpsertOptions.checked(metadata_columns=more or None)
        source = ParquetSource(find_parquet_files(LocalFileSystem(), path), options)
    with IndexClient(url, ClientSettings(api_key=key)) as client:
        try:
            return {"upserted": upsert(source, client, options).upserted_count, "error": ""}
        except InputError as exc:
            return {"upserted": 0, "error": str(exc)}


if __name__ == "__main__":
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set begins at the current one
    before = memory_mb("VmRSS")
    result = run(*sys.argv[1:])
    print(json.dumps({"mb": memory_mb("VmHWM") - before, **result}))
