"""Upsert a folder of Parquet files: the shape of most jobs."""

from airflow.sdk import DAG

from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG("upsert_parquet", schedule=None, tags=["pinecone"]) as dag:
    PineconeUpsertOperator(
        task_id="upsert",
        # A file, a folder, a glob or a list; local, s3://, gs:// … Here: the Airflow variable "embeddings".
        parquet_paths="{{ var.value.embeddings }}",
        namespace="articles",
    )
