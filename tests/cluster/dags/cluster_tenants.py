"""The DAGs of the cluster tests: a plan with a namespace for each folder, and a mapped task for each namespace."""

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Variable, task

from airflow_pinecone_upsert import PineconeReindexOperator, PineconeUpsertOperator

RETRIES = {"retries": 3, "retry_delay": timedelta(0)}
PACE = {"batch_size": 200, "max_requests_per_second": 10}
"""2,000 records a second: 25,000 records take at least 12 s, however fast the machine is, so a kill comes in mid-run."""


@task
def plan(*, with_manifests: bool = False) -> list[dict[str, str]]:
    """Return the arguments of each mapped task: a namespace for each folder."""
    folders = sorted(Path(Variable.get("embeddings")).iterdir())
    manifests = Variable.get("manifests")
    return [
        {"namespace": folder.name, "parquet_paths": str(folder)}
        | ({"manifest_path": f"{manifests}/{folder.name}"} if with_manifests else {})
        for folder in folders
    ]


with DAG("cluster_upsert", schedule=None, default_args=RETRIES):
    PineconeUpsertOperator.partial(task_id="load", map_index_template="{{ task.namespace }}", **PACE).expand_kwargs(
        plan()
    )

with DAG("cluster_reindex", schedule=None, default_args=RETRIES):
    PineconeReindexOperator.partial(task_id="load", map_index_template="{{ task.namespace }}", **PACE).expand_kwargs(
        plan(with_manifests=True)
    )

# One request at a time: what takes time is the latency of the server, not this machine.
with DAG("cluster_latency", schedule=None, default_args=RETRIES):
    PineconeUpsertOperator.partial(
        task_id="load", map_index_template="{{ task.namespace }}", batch_size=32, max_concurrency=1
    ).expand_kwargs(plan())
