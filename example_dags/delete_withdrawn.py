"""
Delete the records whose ids another job has written to Parquet files.

The ids are read in bounded memory, however many they are, and deleted at the rate that Pinecone allows. With more ids than
expected, nothing is deleted: then the list itself is probably wrong. Copy this example if documents are withdrawn, or if
users ask for their data to be deleted.
"""

from airflow.sdk import DAG

from airflow_pinecone_upsert import PineconeDeleteOperator

with DAG(
    "delete_withdrawn",
    description="Delete the records whose ids are in Parquet files.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:
    PineconeDeleteOperator(
        task_id="delete",
        # A file, a folder, a glob or a list of these; local, s3://, gs://, … Here: the Airflow variable "withdrawn".
        id_path="{{ var.value.withdrawn }}",
        id_column="id",
        namespace="articles",
        max_deletes=100_000,
        retries=3,
    )
