"""Embed and upsert in one task: what the function yields goes to Pinecone while it computes the next part."""

from pydoc_data.topics import topics

from airflow.sdk import DAG, task

with DAG("embed_and_upsert", schedule=None, tags=["pinecone"]) as dag:

    @task.pinecone_upsert(namespace="topics")
    def embed(size: int = 25):
        """Embed the topics of Python's documentation, some at a time."""
        from pathlib import Path

        import wordllama

        model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        texts = [(title, text[:1_000]) for title, text in topics.items()]
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            vectors = model.embed([text for _, text in part])
            for (title, text), vector in zip(part, vectors, strict=True):
                yield {"id": title, "values": vector, "metadata": {"text": text}}

    @task
    def announce(count: int) -> str:
        """Use the count of what Pinecone confirmed."""
        return f"{count} topics can be searched."

    announce(embed()["upsertedCount"])
