"""
Upsert each Parquet file of a folder in a mapped task instance of its own.

The instances run in parallel, also on several workers, and Airflow retries only those that failed. Copy this example if
one task would take too long, or if each file should succeed or fail independently of the others.
"""

from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_pinecone_upsert import PineconeUpsertOperator

MAX_PARALLEL_FILES = 4

with DAG(
    "upsert_mapped_files",
    description="Upsert each Parquet file of a folder in a mapped task instance of its own.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:

    @task
    def list_files(folder: str) -> list[str]:
        """List the Parquet files of a folder."""
        return sorted(str(path) for path in ObjectStoragePath(folder).iterdir() if path.name.endswith(".parquet"))

    upsert = PineconeUpsertOperator.partial(
        task_id="upsert",
        namespace="articles",
        max_active_tis_per_dagrun=MAX_PARALLEL_FILES,
        # Pinecone limits the rate of a namespace, and all instances write to the same one.
        max_requests_per_second=100 / MAX_PARALLEL_FILES,
        max_bytes_per_second=50_000_000 / MAX_PARALLEL_FILES,
        map_index_template="{{ task.parquet_paths }}",
        retries=3,
    ).expand(parquet_paths=list_files("{{ var.value.embeddings }}"))

    @task
    def total(counts: list[int]) -> int:
        """Add up how many records Pinecone confirmed."""
        return sum(counts)

    total(upsert.output["upsertedCount"])
