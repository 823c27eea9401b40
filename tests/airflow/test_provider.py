"""The provider, as Airflow's provider manager sees it."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules

import jsonschema
import pytest
import yaml
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

import airflow_pinecone_upsert
from airflow_pinecone_upsert.provider_info import get_provider_info

PACKAGE = Path(airflow_pinecone_upsert.__file__).parent
BASES = {"operators": BaseOperator, "hooks": BaseHook, "sensors": BaseSensorOperator, "triggers": BaseTrigger}
REGISTRY = yaml.safe_load((PACKAGE.parent / ".airflow-registry.yaml").read_text())


def classes(section):
    """Return the classes of a section of the provider's metadata, by the name of their module."""
    found = {}
    for module in iter_modules([str(PACKAGE / section)], f"airflow_pinecone_upsert.{section}."):
        for name, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(kind, BASES[section]) and kind.__module__ == module.name and not inspect.isabstract(kind):
                found.setdefault(module.name, []).append(name)
    return found


def test_the_metadata_match_airflows_schema():
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_metadata_match_the_schema_of_airflows_own_providers():
    """It has two more keys, which say how a provider of Airflow's repository is released."""
    schema = json.loads(files("airflow").joinpath("provider.yaml.schema.json").read_text())
    jsonschema.validate({**get_provider_info(), "state": "ready", "source-date-epoch": 0}, schema)


@pytest.mark.parametrize("section", BASES)
def test_the_metadata_name_every_module(section):
    named = [module for entry in get_provider_info().get(section, []) for module in entry["python-modules"]]
    assert sorted(named) == sorted(classes(section))


@pytest.mark.parametrize("section", BASES)
def test_the_registry_shows_every_class(section):
    found = [f"{module}.{name}" for module, names in classes(section).items() for name in names]
    assert sorted(entry["module"] for entry in REGISTRY.get(section, [])) == sorted(found)


def test_the_registry_shows_the_provider_and_its_decorators():
    info = get_provider_info()
    assert [REGISTRY[key] for key in ("package-name", "display-name", "description")] == [
        info[key] for key in ("package-name", "name", "description")
    ]
    decorators = [entry["class-name"] for entry in info["task-decorators"]]
    assert [entry["module"] for entry in REGISTRY["decorators"]] == decorators


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
