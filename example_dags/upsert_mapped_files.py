"""One mapped task instance for each file: every file is retried alone, and several run side by side."""

from airflow.sdk import DAG, ObjectStoragePath, task

from airflow_pinecone_upsert import PineconeUpsertOperator

AT_ONCE = 4

with DAG("upsert_mapped_files", schedule=None, tags=["pinecone"]) as dag:

    @task
    def list_files(folder: str) -> list[str]:
        """List the Parquet files of a folder."""
        return sorted(str(path) for path in ObjectStoragePath(folder).iterdir() if path.name.endswith(".parquet"))

    upsert = PineconeUpsertOperator.partial(
        task_id="upsert",
        namespace="articles",
        max_active_tis_per_dagrun=AT_ONCE,
        # Pinecone's limits are those of the namespace, which these instances share.
        max_requests_per_second=100 / AT_ONCE,
        max_bytes_per_second=50_000_000 / AT_ONCE,
        map_index_template="{{ task.parquet_paths }}",
        retries=3,
    ).expand(parquet_paths=list_files("{{ var.value.embeddings }}"))

    @task
    def total(counts: list[int]) -> int:
        """Add up what Pinecone confirmed."""
        return sum(counts)

    total(upsert.output["upsertedCount"])
