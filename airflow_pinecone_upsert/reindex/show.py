"""What a manifest says, as text."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.exceptions import ManifestError
from airflow_pinecone_upsert.pipeline.wording import fact_lines
from airflow_pinecone_upsert.reindex.folder import ManifestFolder
from airflow_pinecone_upsert.reindex.generation import Generation, Target, unseen_segments
from airflow_pinecone_upsert.reindex.manifest import read_generation


def describe(folder: ManifestFolder) -> str:
    """
    Return a description of the manifest in a folder, one fact a line. Reads its small files only.

    :raises ManifestError: There is none, or it is damaged.
    :raises StorageError: The storage does not respond.
    """
    generation, sizes = read_generation(folder)
    if generation is None:
        raise ManifestError(f"There is no manifest in {folder.url} that this version can read. Check the path.")
    target = generation.target
    facts = {
        "index": target.index_url,
        "namespace": _namespaces(target),
        "records": f"{generation.record_count:,}{_journaled(folder, generation, sizes)}",
        "bytes": f"{generation.total_bytes:,} (ids, vectors and metadata, by Pinecone's cost rule)",
        "generation": str(generation.number),
        "last run": "none has succeeded" if generation.last_run is None else json.dumps(dict(generation.last_run)),
        "digest": target.digest_function,
        "options": json.dumps(dict(target.options)),
        "files": f"{len(sizes):,} in {folder.url}, {sum(sizes.values()):,} bytes",
    }
    return fact_lines(facts)


def _namespaces(target: Target) -> str:
    if not target.has_many_namespaces:
        return repr(target.namespace)
    return f"those that the records name; {shown_namespace(target.namespace)!r} where they name none"


def _journaled(folder: ManifestFolder, generation: Generation, sizes: dict[str, int]) -> str:
    """Say how much was journaled since the base was written: by a run that has not ended, or not with success."""
    segments = [*generation.segments, *unseen_segments(generation, sizes)]
    count = 0
    for segment in segments:
        with folder.open(segment.name) as file:
            count += pq.ParquetFile(file).metadata.num_rows
    return f", and {count:,} changes since in {len(segments):,} segments" if segments else ""
