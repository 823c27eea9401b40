"""The beginning of most DAG files in these tests."""

DAG_HEAD = """
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task
from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, PineconeUpsertOperator

with DAG(Path(__file__).stem, schedule=None) as dag:
"""
"""The tasks follow, indented by four spaces. The DAG's id is the name of its file."""
