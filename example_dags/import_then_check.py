"""
Let Pinecone import a large folder itself, and check that the records are searchable.

Pinecone reads the files from object storage: nothing passes through Airflow, and an import costs less than upserts. It
takes ten minutes or more, in which neither task takes a worker slot, and fills new namespaces only, one for each folder.
Copy this example for a first load of millions of records. Use PineconeUpsertOperator for what changes later.
"""

from airflow.sdk import DAG

from airflow_pinecone_upsert import PineconeBulkImportOperator, PineconeFreshnessSensor

with DAG(
    "import_then_check",
    description="Import a folder in Pinecone, and check that its records are searchable.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:
    bulk_import = PineconeBulkImportOperator(
        task_id="import",
        # s3://, gs://, …, with a folder for each namespace. Here: the Airflow variable "import_uri".
        uri="{{ var.value.import_uri }}",
        retries=3,
    )
    PineconeFreshnessSensor(
        task_id="wait",
        namespace="articles",  # a folder below import_uri
        min_records=bulk_import.output["recordsImported"],
    )
