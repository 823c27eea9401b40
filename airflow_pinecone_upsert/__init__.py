"""
Load vectors into Pinecone from Apache Airflow.

The public names are imported when they are first used: a DAG file that names the operator is parsed every few
seconds, and must not pay for Arrow, numpy, httpx and pydantic each time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_pinecone_upsert.assets import pinecone_asset
    from airflow_pinecone_upsert.hooks.pinecone import PineconeHook
    from airflow_pinecone_upsert.operators.upsert import PineconeUpsertOperator

__version__ = "0.1.0"

__all__ = ["PineconeHook", "PineconeUpsertOperator", "__version__", "pinecone_asset"]

_HOMES = {"PineconeHook": "hooks.pinecone", "PineconeUpsertOperator": "operators.upsert", "pinecone_asset": "assets"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
