"""
LangChain: ``index()`` with its ``SQLRecordManager`` on SQLite, and the cleanup mode ``full``.

Its vector store for Pinecone (langchain-pinecone) excludes the versions of the SDK that this benchmark compares, so
:class:`SdkStore` does what that one does: an upsert of 100 records in a request, and a deletion by ids. Embedding costs
nothing: the vectors are those of the file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq
from langchain_classic.indexes import SQLRecordManager, index
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from pinecone import Pinecone

_BATCH = 100
_DELETED_AT_ONCE = 1_000
"""IDs in a request, which Pinecone allows."""


class Loader(BaseLoader):
    """
    The records of a file as documents, whose text is the title.

    :ivar vectors: Of the rows that were read last, by id. Two chunks, because a batch of documents may span them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.vectors: dict[str, Any] = {}

    def lazy_load(self) -> Iterator[Document]:
        previous: dict[str, Any] = {}
        for chunk in pq.ParquetFile(self._path).iter_batches(10 * _BATCH):
            ids, metadata = chunk["id"].to_pylist(), chunk["metadata"].to_pylist()
            current = dict(zip(ids, chunk["values"].flatten().to_numpy().reshape(len(ids), -1), strict=True))
            self.vectors = previous | current
            previous = current
            for record_id, fields in zip(ids, metadata, strict=True):
                yield Document(page_content=fields.pop("title"), metadata={"source": record_id, **fields})


class SdkStore(VectorStore):
    """An index of Pinecone."""

    def __init__(self, client: Any, loader: Loader) -> None:
        self._index = client
        self._loader = loader

    def add_documents(self, documents: list[Document], *, ids: Sequence[str], **_: Any) -> list[str]:
        vectors = [
            {
                "id": record_id,
                "values": self._loader.vectors[document.metadata["source"]],
                "metadata": {"text": document.page_content, **document.metadata},
            }
            for record_id, document in zip(ids, documents, strict=True)
        ]
        self._index.upsert(vectors=vectors)
        return list(ids)

    def delete(self, ids: Sequence[str] | None = None, **_: Any) -> bool:
        for start in range(0, len(ids or ()), _DELETED_AT_ONCE):
            self._index.delete(ids=list(ids or ())[start : start + _DELETED_AT_ONCE])
        return True

    def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> SdkStore:
        raise NotImplementedError


def main() -> None:
    """Index, and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--database")
    arguments = parser.parse_args()

    client = Pinecone(api_key="langchain").index(host=arguments.url)
    if not arguments.path:
        print("{}")
        return
    started_s = time.monotonic()
    manager = SQLRecordManager("pinecone/bench", db_url=f"sqlite:///{arguments.database}")
    manager.create_schema()
    loader = Loader(arguments.path)
    result = index(
        loader,
        manager,
        SdkStore(client, loader),
        batch_size=_BATCH,
        cleanup="full",
        source_id_key="source",
        key_encoder="blake2b",
    )
    output = {
        "confirmed": result["num_added"],
        "unchanged": result["num_skipped"],
        "deleted": result["num_deleted"],
        "duration_s": time.monotonic() - started_s,
    }
    print(json.dumps(output))


if __name__ == "__main__":
    main()
