"""
The whole pipeline on real text, without a network: `make demo`.

Embeds the paragraphs of Python's own documentation, writes them as Parquet, starts the emulator, runs the DAG
`upsert_parquet` in a real Airflow, and searches the index.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import runpy
import tempfile
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from airflow_pinecone_upsert.emulator.server import EmulatedIndex

EXAMPLE_DAGS = Path(__file__).resolve().parents[1] / "example_dags"
DIMENSION = 256
STEPS = itertools.count(1)
QUESTIONS = (
    "How does garbage collection work?",
    "Which operators have the highest precedence?",
    "How do I set a breakpoint in the debugger?",
)


def paragraphs() -> list[tuple[str, str, str]]:
    """Split the documentation into paragraphs without duplicates: (id, topic, text)."""
    found: dict[str, tuple[str, str, str]] = {}
    for topic, text in sorted(topics.items()):
        for number, paragraph in enumerate(text.split("\n\n")):
            words = " ".join(paragraph.split())
            if len(words) >= 40 and not words.startswith("*"):  # no headings, no underlines
                found.setdefault(words, (f"{topic}#{number}", topic, words))
    return list(found.values())


def load_model() -> Any:
    """Load the embedding model that is part of its package: 256 dimensions, no download."""
    import wordllama  # it configures the root logger

    logging.basicConfig(level=logging.WARNING, force=True)
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def write_parquet(folder: Path, records: list[tuple[str, str, str]], vectors: Any) -> None:
    """Write the records to several files, as an embedding job would."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, names, texts = zip(*records, strict=True)
    table = pa.table(
        {
            "id": ids,
            "values": list(vectors),
            "metadata": [json.dumps({"topic": t, "text": text}) for t, text in zip(names, texts, strict=True)],
        }
    )
    size = -(-len(table) // 3)
    for number in range(3):
        pq.write_table(table.slice(number * size, size), folder / f"part-{number}.parquet")


def airflow_environment(home: Path, embeddings: Path) -> dict[str, str]:
    """Return Airflow's configuration. Airflow reads it when it is first imported."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE_DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_VAR_EMBEDDINGS": str(embeddings),
        "AIRFLOW_VAR_IMPORT_URI": str(embeddings.parent),
        "AIRFLOW_VAR_MANIFESTS": str(home / "manifests"),
        "AIRFLOW_VAR_TENANTS": str(home / "tenants"),
        "AIRFLOW_VAR_WITHDRAWN": str(embeddings / "part-2.parquet"),
    }


def run_dag(name: str) -> dict[str, Any]:
    """Run an example DAG in this process, on a new SQLite database; return the output of its task `upsert`."""
    from airflow.utils.db import initdb

    with contextlib.redirect_stdout(io.StringIO()):
        initdb()
    run = runpy.run_path(str(EXAMPLE_DAGS / f"{name}.py"))["dag"].test()
    if run.state != "success":
        raise SystemExit(f"\nFAILED: the DAG run ended in the state {run.state}; its log is above.")
    return run.get_task_instance("upsert").xcom_pull(task_ids="upsert")


def embed_documentation(folder: Path) -> tuple[int, Any]:
    """Embed the paragraphs and write them as Parquet; return their number and the model."""
    records = paragraphs()
    model = load_model()
    folder.mkdir()
    write_parquet(folder, records, model.embed([text for _, _, text in records]))
    say(f"{len(records):,} paragraphs in {len(list(folder.iterdir()))} Parquet files in {folder}")
    return len(records), model


def demo(home: Path) -> None:
    """Embed, upsert and search."""
    embeddings = home / "embeddings"
    step("Embedding the paragraphs of Python's documentation (wordllama, 256 dimensions, offline)")
    count, model = embed_documentation(embeddings)

    step("Starting the emulator, which implements Pinecone's API")
    with EmulatedIndex(dimension=DIMENSION) as index:
        say(index.url)
        os.environ.update(airflow_environment(home, embeddings))
        os.environ.update(
            AIRFLOW_CONN_PINECONE_DEFAULT=index.connection_json(),
            AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
            # Airflow warns that no DAG is scheduled on the asset of this run, and about deprecations in its dependencies.
            AIRFLOW__LOGGING__NAMESPACE_LEVELS="airflow.assets=ERROR py.warnings=ERROR",
        )

        step("Running the DAG example_dags/upsert_parquet.py in Airflow (dag.test() on SQLite)")
        output = run_dag("upsert_parquet")
        if output["upsertedCount"] != count:
            raise SystemExit(f"\nFAILED: {output['upsertedCount']} of {count} records were upserted.")

        step("The task's output")
        say(json.dumps(output, indent=2).replace("\n", "\n  "))

        step("Searching the index")
        for question in QUESTIONS:
            search(question, model.embed([question])[0], output["namespace"])
    print(f"\nDone: {output['upsertedCount']:,} records upserted, each one confirmed by the index.")


def search(question: str, vector: Any, namespace: str) -> None:
    """Print the best matches for a question."""
    from airflow_pinecone_upsert import PineconeHook

    matches = PineconeHook().query(vector=vector, top_k=3, include_metadata=True, namespace=namespace)
    if not matches:
        raise SystemExit("\nFAILED: the index found nothing.")
    print(f"\n  {question}")
    for match in matches:
        print(f"    {match.score:.3f}  {match.id:<20} {match.metadata['text'][:80]}…")


def step(text: str) -> None:
    """Print the heading of the next step."""
    print(f"\n{next(STEPS)}. {text}", flush=True)


def say(text: str) -> None:
    """Print a result of the current step."""
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of Airflow itself
    with tempfile.TemporaryDirectory(prefix="airflow-pinecone-upsert-") as folder:
        demo(Path(folder))
