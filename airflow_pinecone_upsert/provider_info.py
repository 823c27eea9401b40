"""The provider's metadata: connection type, hook, operators, task decorators, asset URIs, links and configuration."""

from __future__ import annotations

from typing import Any

from airflow_pinecone_upsert import __version__
from airflow_pinecone_upsert.api.cost import USD_PER_MILLION_WRITE_UNITS
from airflow_pinecone_upsert.hooks import connection_form


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-pinecone-upsert",
        "name": "Pinecone (upsert)",
        "description": "Load vectors into Pinecone: every record is accounted for, and memory stays flat.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Pinecone",
                "external-doc-url": "https://docs.pinecone.io/reference/api/2025-04/data-plane/upsert",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": "Pinecone",
                "python-modules": [
                    "airflow_pinecone_upsert.operators.bulk_import",
                    "airflow_pinecone_upsert.operators.delete",
                    "airflow_pinecone_upsert.operators.reindex",
                    "airflow_pinecone_upsert.operators.swap",
                    "airflow_pinecone_upsert.operators.upsert",
                ],
            },
        ],
        "sensors": [
            {"integration-name": "Pinecone", "python-modules": ["airflow_pinecone_upsert.sensors.freshness"]},
        ],
        "triggers": [
            {
                "integration-name": "Pinecone",
                "python-modules": [
                    "airflow_pinecone_upsert.triggers.freshness",
                    "airflow_pinecone_upsert.triggers.bulk_import",
                ],
            },
        ],
        "hooks": [
            {"integration-name": "Pinecone", "python-modules": ["airflow_pinecone_upsert.hooks.pinecone"]},
        ],
        "asset-uris": [
            {
                "schemes": ["pinecone"],
                "handler": "airflow_pinecone_upsert.assets.normalize_uri",
                "factory": "airflow_pinecone_upsert.assets.pinecone_asset",
                "to_openlineage_converter": "airflow_pinecone_upsert.assets.openlineage_dataset",
            }
        ],
        "connection-types": [
            {
                "connection-type": "pinecone_upsert",
                "hook-class-name": "airflow_pinecone_upsert.hooks.pinecone.PineconeHook",
                "hook-name": "Pinecone (upsert)",
                **connection_form.metadata(),
            }
        ],
        "extra-links": ["airflow_pinecone_upsert.links.PineconeConsoleLink"],
        "task-decorators": [
            {
                "name": "pinecone_upsert",
                "class-name": "airflow_pinecone_upsert.decorators.upsert.pinecone_upsert_task",
            },
            {
                "name": "pinecone_reindex",
                "class-name": "airflow_pinecone_upsert.decorators.reindex.pinecone_reindex_task",
            },
        ],
        "config": {
            "pinecone_upsert": {
                "description": "Options of airflow-pinecone-upsert.",
                "options": {
                    "usd_per_million_write_units": {
                        "description": "The price of a million write units, for the costs that a dry run of reindexing reports.",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "4.5",
                        "default": str(USD_PER_MILLION_WRITE_UNITS),
                    }
                },
            }
        },
    }
