"""The provider, as Airflow's provider manager sees it."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.resources import files

import jsonschema
import pytest

import airflow_pinecone_upsert
from airflow_pinecone_upsert.provider_info import get_provider_info


def test_the_metadata_match_airflows_schema():
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_provider_is_registered_by_its_distribution_name(airflow_db):
    from airflow.providers_manager import ProvidersManager

    providers = ProvidersManager().providers
    assert providers["airflow-pinecone-upsert"].version == airflow_pinecone_upsert.__version__
    assert importlib.metadata.version("airflow-pinecone-upsert") == airflow_pinecone_upsert.__version__


def test_the_connection_type_belongs_to_the_hook(airflow_db):
    from airflow.providers_manager import ProvidersManager

    (connection,) = ProvidersManager().providers["airflow-pinecone-upsert"].data["connection-types"]
    assert connection["connection-type"] == airflow_pinecone_upsert.PineconeHook.conn_type
    assert connection["hook-name"] == airflow_pinecone_upsert.PineconeHook.hook_name


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        airflow_pinecone_upsert.Nope  # noqa: B018


def test_the_public_names_can_be_imported():
    assert sorted(airflow_pinecone_upsert.__all__) == dir(airflow_pinecone_upsert)
    assert [getattr(airflow_pinecone_upsert, name).__name__ for name in ("PineconeHook", "PineconeUpsertOperator")] == [
        "PineconeHook",
        "PineconeUpsertOperator",
    ]
