"""
Embed texts in one task and upsert what it returns in the next.

The vectors are stored in XCom. Copy this example for at most a few hundred records; for more, use embed_and_upsert.py
or Parquet files.
"""

from pydoc_data.topics import topics

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG(
    "upsert_xcom",
    description="Embed texts in one task and upsert what it returns in the next.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:

    @task(show_return_value_in_logs=False)
    def embed() -> list[dict]:
        """Embed the first 1,000 characters of 50 topics of Python's documentation."""
        from pathlib import Path

        import wordllama

        model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        texts = {title: text[:1_000] for title, text in list(topics.items())[:50]}
        vectors = model.embed(list(texts.values()))
        return [
            {"id": title, "values": vector.tolist(), "metadata": {"text": text}}
            for (title, text), vector in zip(texts.items(), vectors, strict=True)
        ]

    @task
    def announce(count: int) -> str:
        """Report how many records Pinecone confirmed."""
        return f"{count} topics can be searched."

    upsert = PineconeUpsertOperator(task_id="upsert", vectors=embed(), namespace="topics")
    announce(upsert.output["upsertedCount"])
