"""
Make a namespace equal to its source every night: send what is new or changed, delete what vanished.

A manifest says what the namespace holds. So a night without changes sends nothing, and a retry sends only what is missing.
Copy this example if the source is complete every night and only a part of it changes. If most of it changes, or if
readers must never see a mixture of two nights, copy `reindex_blue_green.py`.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeReindexOperator

with DAG(
    "reindex_nightly",
    description="Send what changed since last night, delete what vanished, and compare a sample.",
    doc_md=__doc__,
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,  # it deletes records, so it starts when you say so
    tags=["pinecone"],
) as dag:
    reindex = PineconeReindexOperator(
        task_id="reindex",
        parquet_paths="{{ var.value.embeddings }}",
        namespace="articles",
        # A folder, local or s3://, gs://, …: one for each namespace.
        manifest_path="{{ var.value.manifests }}/articles",
        # With more, nothing is deleted and the task fails: the source is probably not complete.
        max_delete_fraction=0.05,
        retries=3,
        retry_delay=timedelta(minutes=1),
    )

    @task.short_circuit
    def has_changed(report: dict) -> bool:
        """Skip the rest of the DAG after a night in which nothing changed."""
        return report["upsertedCount"] + report["deletedCount"] > 0

    @task
    def announce(report: dict) -> str:
        """Return a message for the users of the index."""
        return f"{report['newCount']} new, {report['changedCount']} changed, {report['deletedCount']} deleted articles."

    has_changed(reindex.output) >> announce(reindex.output)
