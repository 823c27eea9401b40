"""Start when a namespace was upserted, whichever DAG did it; the event brings that task's report."""

import os

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import pinecone_asset

# The index's own host, as the Pinecone console shows it.
INDEX_HOST = os.environ.get("PINECONE_INDEX_HOST", "articles-abc123.svc.aped-4627-b74a.pinecone.io")
ARTICLES = pinecone_asset(INDEX_HOST, "articles")

with DAG("react_to_upsert", schedule=ARTICLES, tags=["pinecone"]) as dag:

    @task
    def announce(triggering_asset_events=None) -> list[str]:
        """Say what is new: one event for each task, or mapped instance of one, since the last run."""
        return [
            f"{event.source_dag_id}: {event.extra['upsertedCount']} records in {event.extra['durationSeconds']} s"
            for event in triggering_asset_events[ARTICLES]
        ]

    announce()
