"""
The Pinecone SDK, used as in its documentation.

``dataframe``: ``pandas.read_parquet`` and ``upsert_from_dataframe``. ``upsert``: the same file as a list of tuples, and
``upsert(batch_size=…)``. ``grpc``: ``upsert_from_dataframe`` of the gRPC client.
"""

from __future__ import annotations

import argparse
import json
import time

import pandas as pd
import pyarrow.parquet as pq  # pandas reads with it, and imports it late
from pinecone import Pinecone


def main() -> None:
    """Upsert and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["dataframe", "upsert", "grpc"])
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--key", default="sdk")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()

    client = Pinecone(api_key=arguments.key, grpc_scheme="http")
    index = client.index(host=arguments.url, grpc=arguments.way == "grpc")
    if not arguments.path:
        print("{}")
        return
    started_s = time.monotonic()
    options = {"batch_size": arguments.batch_size, "show_progress": False}
    if arguments.way != "upsert":
        response = index.upsert_from_dataframe(pd.read_parquet(arguments.path), **options)
    else:
        columns = pq.read_table(arguments.path)
        vectors = list(zip(*(columns[name].to_pylist() for name in ("id", "values", "metadata")), strict=True))
        response = index.upsert(vectors=vectors, **options)
    print(json.dumps({"confirmed": response.upserted_count, "duration_s": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
