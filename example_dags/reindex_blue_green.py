"""
Rebuild the index in a new namespace, and let readers see it from one moment to the next.

Readers use the namespace alias `articles`. Each run writes into a namespace of its own. Once it is searchable and holds
every record, the alias is pointed to it; older namespaces are deleted, but for the one that the alias pointed to before.
If a run fails, readers stay where they are. The second DAG is the rollback: it points the alias back. Copy this example if
most of the index changes, as with a new embedding model, or if readers must never see a mixture of two runs.
"""

from datetime import datetime, timezone

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeHook, PineconeSwapNamespaceOperator, PineconeUpsertOperator

ALIAS = "articles"
PREFIX = "articles-"

with DAG(
    "reindex_blue_green",
    description="Rebuild the index in a new namespace, and point an alias to it.",
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
        namespace=PREFIX + "{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}",
        retries=3,
    )

    @task
    def count_records(report: dict) -> int:
        """Return how many records the namespace must hold. An id that is in the source twice is stored once."""
        # Above a million records, distinctCount is None: then the ids of the source must be unique.
        return report["upsertedCount"] if report["distinctCount"] is None else report["distinctCount"]

    PineconeSwapNamespaceOperator(
        task_id="swap",
        alias=ALIAS,
        target_namespace="{{ ti.xcom_pull(task_ids='upsert')['namespace'] }}",
        lsn=upsert.output["lsn"],  # waits until the last write is searchable
        min_records=count_records(upsert.output),
        max_shrink_fraction=0.2,
        namespace_prefix=PREFIX,
        keep=1,
        retries=3,
    )

with DAG(
    "reindex_blue_green_rollback",
    description="Point the alias back to the namespace before the current one.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as rollback:

    @task
    def previous_namespace() -> str:
        """Return the newest namespace that is older than the current target of the alias."""
        with PineconeHook() as hook:
            current = hook.describe_alias(ALIAS).target_namespace
            names = [namespace.name for namespace in hook.list_namespaces()]
        return max(name for name in names if name.startswith(PREFIX) and name < current)

    PineconeSwapNamespaceOperator(
        task_id="swap_back",
        alias=ALIAS,
        target_namespace=previous_namespace(),
        max_shrink_fraction=1.0,  # also if it is much smaller; no namespace is deleted
    )
