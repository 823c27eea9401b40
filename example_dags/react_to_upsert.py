"""
Start a DAG when records were upserted into a namespace.

Every successful upsert task emits an asset event for its namespace, whichever DAG it belongs to. The extra of the event
is the output of that task. Copy this example for work that needs the new records, such as an evaluation of the search.
"""

import os

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import pinecone_asset

# The index's own host, as the Pinecone console shows it.
INDEX_HOST = os.environ.get("PINECONE_INDEX_HOST", "articles-abc123.svc.aped-4627-b74a.pinecone.io")
ARTICLES = pinecone_asset(INDEX_HOST, "articles")

with DAG(
    "react_to_upsert",
    description="Start when records were upserted into a namespace.",
    doc_md=__doc__,
    schedule=ARTICLES,
    tags=["pinecone"],
) as dag:

    @task
    def announce(triggering_asset_events=None) -> list[str]:
        """Report each upsert since the last run: one event per task, or per mapped task instance."""
        return [
            f"{event.source_dag_id}: {event.extra['upsertedCount']} records in {event.extra['durationSeconds']} s"
            for event in triggering_asset_events[ARTICLES]
        ]

    announce()
