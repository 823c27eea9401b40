"""
``docs/metadata-for-readers.md``: every snippet runs, and its records are read as the frameworks read them.

The frameworks bring about a hundred packages. So each reader here does with the SDK's response what the framework's does,
as its source says; the frameworks themselves read the same records in the versions that the page names.
"""

from __future__ import annotations

import json

import numpy as np
import pinecone
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .readme import dags_of

SNIPPETS = dags_of("metadata-for-readers.md")


@pytest.fixture
def matches(pinecone_index):
    """Query a namespace with the SDK; return the matches by id."""

    def query(namespace):
        with pinecone.Pinecone(api_key=pinecone_index.api_key).Index(host=pinecone_index.url) as client:
            found = client.query(
                vector=[1.0] * 8, top_k=10, namespace=namespace, include_metadata=True, include_values=True
            )
        return {match["id"]: match for match in found["matches"]}

    return query


def read_as_langchain(match, text_key="text"):
    """
    Return text and metadata, as ``PineconeVectorStore.similarity_search_by_vector_with_score`` does.

    https://github.com/langchain-ai/langchain-pinecone/blob/main/libs/pinecone/langchain_pinecone/vectorstores.py: a match
    without the key is skipped with a warning.
    """
    metadata = dict(match["metadata"])
    return metadata.pop(text_key), metadata


def read_as_llama_index(match, text_key="text"):
    """
    Return text, metadata and the id of the source document, as ``PineconeVectorStore.query`` does.

    https://github.com/run-llama/llama_index, llama-index-core/llama_index/core/vector_stores/utils.py: the node is
    ``_node_content``; without it, ``metadata[text_key]`` is its text. Relationship 1 is the source document.
    """
    metadata = dict(match["metadata"])
    if "_node_content" not in metadata:
        return metadata.pop(text_key), metadata, None
    assert metadata["_node_type"] == "TextNode"
    node = json.loads(metadata["_node_content"])
    assert node["id_"] == match["id"]
    return node["text"], node["metadata"], node["relationships"]["1"]["node_id"]


def read_as_haystack(match):
    """
    Return content and meta, as ``PineconeDocumentStore._convert_query_result_to_documents`` does.

    https://github.com/deepset-ai/haystack-core-integrations, integrations/pinecone: without the key, it is None.
    """
    metadata = dict(match["metadata"])
    return metadata.pop("content", None), metadata


def test_langchain(run_dag, my_project, matches):
    assert run_dag(SNIPPETS["for_langchain"]).state == "success"
    assert read_as_langchain(matches("langchain")["t1"]) == ("Solaris", {"author": "Lem"})


def test_llama_index(run_dag, my_project, matches):
    assert run_dag(SNIPPETS["for_llama_index"]).state == "success"
    found = matches("llama_index")["solaris#1"]
    assert read_as_llama_index(found) == ("The ocean answers.", {"author": "Lem"}, "solaris")
    assert found["metadata"]["doc_id"] == "solaris"


def test_llama_index_reads_plain_text_too(run_dag, my_project, matches):
    assert run_dag(SNIPPETS["for_langchain"]).state == "success"
    assert read_as_llama_index(matches("langchain")["t2"]) == ("Fiasco", {"author": "Lem"}, None)


def test_haystack(run_dag, my_project, matches):
    assert run_dag(SNIPPETS["for_haystack"]).state == "success"
    assert read_as_haystack(matches("default")["t1"]) == ("Solaris", {"author": "Lem"})


def test_plain_columns(run_dag, matches, tmp_path):
    table = pa.table({"id": ["a"], "values": [np.ones(8, np.float32)], "text": ["Solaris"], "author": ["Lem"]})
    pq.write_table(table, tmp_path / "books.parquet")
    assert run_dag(SNIPPETS["books"].replace("s3://my-bucket/books/", str(tmp_path))).state == "success"
    assert read_as_langchain(matches("books")["a"]) == ("Solaris", {"author": "Lem"})
