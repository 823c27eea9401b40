"""
Upsert a folder of Parquet files.

The files are read in bounded memory, however large they are. Copy this example if another job has already written the
vectors to files; most pipelines look like this.
"""

from airflow.sdk import DAG

from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG(
    "upsert_parquet",
    description="Upsert a folder of Parquet files.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:
    PineconeUpsertOperator(
        task_id="upsert",
        # A file, a folder, a glob or a list of these; local, s3://, gs://, … Here: the Airflow variable "embeddings".
        parquet_paths="{{ var.value.embeddings }}",
        namespace="articles",
    )
