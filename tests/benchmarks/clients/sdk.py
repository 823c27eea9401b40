"""
The Pinecone SDK as its documentation shows it.

``dataframe``: ``pandas.read_parquet`` and ``upsert_from_dataframe``; ``upsert``: the same file as a list of tuples, and
``upsert(batch_size=…)``.
"""

from __future__ import annotations

import argparse
import json
import time

import pandas as pd
import pyarrow.parquet as pq  # what pandas reads with, and imports late
from pinecone import Pinecone


def main() -> None:
    """Upsert and say what was confirmed; with no path, only import what that takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["dataframe", "upsert"])
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--key", default="sdk")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()

    index = Pinecone(api_key=arguments.key).index(host=arguments.url)
    if not arguments.path:
        print("{}")
        return
    started_s = time.monotonic()
    how = {"batch_size": arguments.batch_size, "show_progress": False}
    if arguments.way == "dataframe":
        response = index.upsert_from_dataframe(pd.read_parquet(arguments.path), **how)
    else:
        columns = pq.read_table(arguments.path)
        vectors = list(zip(*(columns[name].to_pylist() for name in ("id", "values", "metadata")), strict=True))
        response = index.upsert(vectors=vectors, **how)
    print(json.dumps({"confirmed": response.upserted_count, "duration_s": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
