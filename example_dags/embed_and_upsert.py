"""
Embed texts and upsert the vectors in one task.

The function yields records. They are sent while it embeds the next texts, and no vector becomes an XCom, so memory does
not grow with the number of records. Copy this example if your task computes the vectors itself.
"""

from pydoc_data.topics import topics

from airflow.sdk import DAG, task

with DAG(
    "embed_and_upsert",
    description="Embed texts and upsert the vectors in one task.",
    doc_md=__doc__,
    schedule=None,
    tags=["pinecone"],
) as dag:

    @task.pinecone_upsert(namespace="topics")
    def embed(texts_per_batch: int = 25):
        """Embed the topics of Python's documentation, one batch of texts after the other."""
        from pathlib import Path

        import wordllama

        model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
        texts = [(title, text[:1_000]) for title, text in topics.items()]
        for start in range(0, len(texts), texts_per_batch):
            batch = texts[start : start + texts_per_batch]
            vectors = model.embed([text for _, text in batch])
            for (title, text), vector in zip(batch, vectors, strict=True):
                yield {"id": title, "values": vector, "metadata": {"text": text}}

    @task
    def announce(count: int) -> str:
        """Report how many records Pinecone confirmed."""
        return f"{count} topics can be searched."

    announce(embed()["upsertedCount"])
