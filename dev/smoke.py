"""A DAG run with an installed wheel: used by `make dist`, with the Python of another environment."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

from demo import airflow_environment, run_dag

import airflow_pinecone_upsert
from airflow_pinecone_upsert.emulator import EmulatedIndex

COUNT = 100


def main(home: Path) -> None:
    """Upsert a file of records with the example DAG `upsert_parquet`, and compare what the index holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if Path(sys.prefix) not in Path(airflow_pinecone_upsert.__file__).parents:
        raise SystemExit(f"FAILED: {airflow_pinecone_upsert.__file__} is not part of this environment.")
    ids = [f"record-{number}" for number in range(COUNT)]
    (home / "embeddings").mkdir()
    pq.write_table(pa.table({"id": ids, "values": [[1.0] * 8] * COUNT}), home / "embeddings" / "records.parquet")
    with EmulatedIndex(dimension=8) as index:
        os.environ.update(airflow_environment(home, home / "embeddings"))
        os.environ.update(
            AIRFLOW_CONN_PINECONE_DEFAULT=index.connection_json(), AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING"
        )
        output = run_dag("upsert_parquet")
        stored = index.vectors("articles")
    if output["upsertedCount"] != COUNT or set(stored) != set(ids):
        raise SystemExit(f"FAILED: {len(stored)} of {COUNT} records are in the index; the task's output is {output}.")
    print(f"{COUNT} records upserted by airflow-pinecone-upsert {airflow_pinecone_upsert.__version__}.")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of Airflow itself
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
