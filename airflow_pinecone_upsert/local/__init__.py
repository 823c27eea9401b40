"""
A Pinecone-compatible index on one machine, for tests, demos and work without a network.

It speaks the data plane of API version 2025-04 over real HTTP, with the real service's limits and error bodies::

    python -m airflow_pinecone_upsert.local --port 5080 --dimension 256

    from airflow_pinecone_upsert.local import LocalIndex

    with LocalIndex(dimension=256) as index:
        print(index.url)

What always holds: an answered write is visible to every read that starts after the answer; nothing here imports
Airflow or Arrow; importing this package imports no server, the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_pinecone_upsert.local.app import create_app
    from airflow_pinecone_upsert.local.faults import Fault, Faults
    from airflow_pinecone_upsert.local.records import IndexSpec, StoredRecord
    from airflow_pinecone_upsert.local.requestlog import RequestRecord
    from airflow_pinecone_upsert.local.server import LocalIndex
    from airflow_pinecone_upsert.local.store import Store

__all__ = ["Fault", "Faults", "IndexSpec", "LocalIndex", "RequestRecord", "Store", "StoredRecord", "create_app"]

_HOME: Final = {
    "Fault": "faults",
    "Faults": "faults",
    "IndexSpec": "records",
    "LocalIndex": "server",
    "RequestRecord": "requestlog",
    "Store": "store",
    "StoredRecord": "records",
    "create_app": "app",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
