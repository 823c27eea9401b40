"""
Rebuild the index every night, without a moment in which a search finds only some of the records.

Each run fills a new namespace, which is named after the date of the run. Once the index holds all of its records, old
namespaces are deleted. The newest two remain, so that readers can switch to the new one and back. Copy this example if
the source is complete every night, and records that are no longer in it must disappear from the index.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator

PREFIX = "articles-"
NAMESPACES_TO_KEEP = 2

with DAG(
    "reindex_blue_green",
    description="Rebuild the index in a new namespace every night, and delete old namespaces.",
    doc_md=__doc__,
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,  # it deletes namespaces, so it starts when you say so
    tags=["pinecone"],
) as dag:
    upsert = PineconeUpsertOperator(
        task_id="upsert",
        parquet_paths="{{ var.value.embeddings }}",
        namespace=PREFIX + "{{ dag_run.run_after.strftime('%Y-%m-%d') }}",
        retries=3,
    )

    @task(retries=10, retry_delay=timedelta(seconds=30))
    def check_count(report: dict) -> str:
        """Check that the index holds every record. It counts new records only after some seconds, hence the retries."""
        namespace = report["namespace"]
        # Above a million records, distinctCount is None: then the ids of the source must be unique.
        expected = report["upsertedCount"] if report["distinctCount"] is None else report["distinctCount"]
        stats = PineconeHook().describe_index_stats().namespaces.get(namespace)
        found = stats.vector_count if stats else 0
        if found != expected:
            raise ValueError(f"Namespace {namespace} holds {found:,} records, expected {expected:,}.")
        return namespace

    @task
    def delete_old_namespaces(newest: str) -> list[str]:
        """Delete the namespaces of earlier runs, except the most recent ones."""
        hook = PineconeHook()
        dated = [namespace.name for namespace in hook.list_namespaces() if namespace.name.startswith(PREFIX)]
        old = sorted(name for name in dated if name <= newest)[:-NAMESPACES_TO_KEEP]
        for name in old:
            hook.delete_namespace(name)
        return old

    delete_old_namespaces(check_count(upsert.output))
