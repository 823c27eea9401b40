"""
Make the namespace of each tenant equal to its folder every night, in a mapped task for each tenant, on any number of workers.

The source is a folder with a folder for each tenant, `<embeddings>/<tenant>/*.parquet`, and each tenant has a manifest of its
own. The last task fails if a tenant failed, or if a record is not accounted for. Copy this example if many namespaces change
independently of each other; for a single one, copy `reindex_nightly.py`.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeReindexOperator, plan_tasks, summarize

with DAG(
    "reindex_tenants",
    description="Reindex the namespace of each tenant in a mapped task, and sum up.",
    doc_md=__doc__,
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,  # it deletes records, so it starts when you say so
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    tags=["pinecone"],
) as dag:
    plan = task(plan_tasks)(
        "{{ var.value.tenants }}",
        manifests_path="{{ var.value.manifests }}/tenants",
        max_tasks=1_000,  # with more tenants, raise Airflow's [core] max_map_length, too
    )

    reindex = PineconeReindexOperator.partial(
        task_id="reindex",
        map_index_template="{{ params.name }}",
        # With more, nothing of the tenant is deleted and its task fails: its folder is probably not complete.
        max_delete_fraction=0.2,
    ).expand_kwargs(plan)

    # all_done, because it judges what failed or was skipped, too.
    task(summarize, trigger_rule="all_done", retries=0)(reindex.output, plan=plan)
