"""The official provider's ``PineconeIngestOperator``, with a list in memory from the same file, read with pandas."""

from __future__ import annotations

import argparse
import json
import os
import time

import pandas as pd
import pyarrow.parquet  # noqa: F401 - pandas reads with it, and imports it late
from airflow.providers.pinecone.operators.pinecone import PineconeIngestOperator


def main() -> None:
    """Ingest. The operator returns nothing, so no count is printed. Without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()

    connection = {"conn_type": "pinecone", "host": arguments.url, "password": "official"}
    os.environ["AIRFLOW_CONN_PINECONE_DEFAULT"] = json.dumps(connection)
    if arguments.path:
        started_s = time.monotonic()
        vectors = pd.read_parquet(arguments.path).to_dict("records")
        PineconeIngestOperator(
            task_id="ingest",
            index_name="bench",
            input_vectors=vectors,
            batch_size=arguments.batch_size,
            upsert_kwargs={"show_progress": False},
        ).execute({})
        print(json.dumps({"duration_s": time.monotonic() - started_s}))
        return
    print("{}")


if __name__ == "__main__":
    main()
