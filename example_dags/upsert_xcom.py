"""Embed some texts in one task and upsert what it returns in the next: for up to some hundred records."""

from pydoc_data.topics import topics

from airflow.sdk import DAG, task

from airflow_pinecone_upsert import PineconeUpsertOperator

with DAG("upsert_xcom", schedule=None, tags=["pinecone"]) as dag:

    @task(show_return_value_in_logs=False)
    def embed() -> list[dict]:
        """Embed the beginning of some topics of Python's documentation."""
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
        """Use the count of what Pinecone confirmed."""
        return f"{count} topics can be searched."

    upsert = PineconeUpsertOperator(task_id="upsert", vectors=embed(), namespace="topics")
    announce(upsert.output["upsertedCount"])
