"""
Rebuild the whole index every night without a moment in which a search finds half of it.

Each run fills a namespace of its own, named after the run's date. Only when all records are there, the namespaces
before the last one are deleted: today's and yesterday's stay, so that readers can switch over, and back.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeHook, PineconeUpsertOperator

PREFIX = "articles-"
KEPT = 2

with DAG(
    "reindex_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
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
        """Compare with what the index holds. Pinecone's counts lag behind its writes, hence the retries."""
        namespace, expected = report["namespace"], report["upsertedCount"]
        stats = PineconeHook().describe_index_stats().namespaces.get(namespace)
        found = stats.vector_count if stats else 0
        if found != expected:
            raise ValueError(f"Namespace {namespace} holds {found:,} records, expected {expected:,}.")
        return namespace

    @task
    def delete_old_namespaces(newest: str) -> list[str]:
        """Keep the newest namespaces, and delete those before them."""
        hook = PineconeHook()
        dated = [one.name for one in hook.list_namespaces() if one.name.startswith(PREFIX)]
        old = sorted(name for name in dated if name <= newest)[:-KEPT]
        for namespace in old:
            hook.delete_namespace(namespace)
        return old

    delete_old_namespaces(check_count(upsert.output))
