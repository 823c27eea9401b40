"""This project without its sender: read a file, then read and encode it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable

import fsspec

from airflow_pinecone_upsert.api.limits import MAX_REQUEST_BYTES
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.stages import wire_format_of


def cpu_of(results: Iterable[object]) -> float:
    """Use up what is lazy, and return the CPU time that this took, in seconds."""
    started_s = time.process_time()
    for _ in results:
        pass
    return time.process_time() - started_s


def main() -> None:
    """Measure, and print the CPU time of each stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["rest", "grpc"])
    parser.add_argument("path")
    parser.add_argument("--dimension", type=int, required=True)
    arguments = parser.parse_args()

    shape, wire_format = IndexShape(arguments.dimension), wire_format_of(arguments.transport)
    source = ParquetSource(list(find_parquet_files(fsspec.filesystem("file"), arguments.path)), UpsertOptions())
    read_s = cpu_of(source.chunks(shape))
    both_s = cpu_of(
        encode(chunk, shape, max_bytes=MAX_REQUEST_BYTES, wire_format=wire_format) for chunk in source.chunks(shape)
    )
    print(json.dumps({"read_s": read_s, "encode_s": both_s - read_s}))


if __name__ == "__main__":
    main()
