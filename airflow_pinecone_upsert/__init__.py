"""
Load vectors into Pinecone from Apache Airflow.

The public names are imported when they are first used: a DAG file that names the operator is parsed every few seconds,
and must not pay for Arrow, numpy, httpx and pydantic each time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow_pinecone_upsert.assets import pinecone_asset
    from airflow_pinecone_upsert.exceptions import (
        AuthenticationError,
        BadRequestError,
        BulkImportError,
        ErrorResponse,
        IncompleteUpsertError,
        InputError,
        ManifestError,
        ManifestInUseError,
        NotFoundError,
        NotSearchableError,
        PineconeUpsertError,
        QuotaExceededError,
        RateLimitError,
        RecordError,
        RequestTooLargeError,
        ServerError,
        SetupError,
        ShortCountError,
        SourceError,
        StorageError,
        TransientError,
        TransportError,
        UnexpectedResponseError,
        UnsupportedIndexError,
        VerificationError,
    )
    from airflow_pinecone_upsert.hooks.pinecone import PineconeHook
    from airflow_pinecone_upsert.operators.bulk_import import PineconeBulkImportOperator
    from airflow_pinecone_upsert.operators.delete import PineconeDeleteOperator
    from airflow_pinecone_upsert.operators.reindex import PineconeReindexOperator
    from airflow_pinecone_upsert.operators.swap import PineconeSwapNamespaceOperator
    from airflow_pinecone_upsert.operators.upsert import PineconeUpsertOperator
    from airflow_pinecone_upsert.pipeline.counts import Counts, ReindexCounts
    from airflow_pinecone_upsert.pipeline.options import UpsertOptions
    from airflow_pinecone_upsert.pipeline.report import UpsertReport
    from airflow_pinecone_upsert.plan import plan_tasks, summarize
    from airflow_pinecone_upsert.reindex.options import ReindexOptions
    from airflow_pinecone_upsert.reindex.report import ReindexReport
    from airflow_pinecone_upsert.sensors.freshness import PineconeFreshnessSensor

__version__ = "0.2.0"

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "BulkImportError",
    "Counts",
    "ErrorResponse",
    "IncompleteUpsertError",
    "InputError",
    "ManifestError",
    "ManifestInUseError",
    "NotFoundError",
    "NotSearchableError",
    "PineconeBulkImportOperator",
    "PineconeDeleteOperator",
    "PineconeFreshnessSensor",
    "PineconeHook",
    "PineconeReindexOperator",
    "PineconeSwapNamespaceOperator",
    "PineconeUpsertError",
    "PineconeUpsertOperator",
    "QuotaExceededError",
    "RateLimitError",
    "RecordError",
    "ReindexCounts",
    "ReindexOptions",
    "ReindexReport",
    "RequestTooLargeError",
    "ServerError",
    "SetupError",
    "ShortCountError",
    "SourceError",
    "StorageError",
    "TransientError",
    "TransportError",
    "UnexpectedResponseError",
    "UnsupportedIndexError",
    "UpsertOptions",
    "UpsertReport",
    "VerificationError",
    "__version__",
    "pinecone_asset",
    "plan_tasks",
    "summarize",
]

_MODULES: Final = {
    "Counts": "pipeline.counts",
    "PineconeBulkImportOperator": "operators.bulk_import",
    "PineconeDeleteOperator": "operators.delete",
    "PineconeFreshnessSensor": "sensors.freshness",
    "PineconeHook": "hooks.pinecone",
    "PineconeReindexOperator": "operators.reindex",
    "PineconeSwapNamespaceOperator": "operators.swap",
    "PineconeUpsertOperator": "operators.upsert",
    "ReindexCounts": "pipeline.counts",
    "ReindexOptions": "reindex.options",
    "ReindexReport": "reindex.report",
    "UpsertOptions": "pipeline.options",
    "UpsertReport": "pipeline.report",
    "pinecone_asset": "assets",
    "plan_tasks": "plan",
    "summarize": "plan",
}
"""Where the public names are; all others are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'exceptions')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
