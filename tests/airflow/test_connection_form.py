"""The connection form: one description, which Airflow reads from the metadata or through the hook's methods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest

from airflow_pinecone_upsert import PineconeHook
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.hooks import connection_form
from airflow_pinecone_upsert.provider_info import get_provider_info

from .airflow_home import HOME

PRINT_FORM = """
import json, warnings
warnings.filterwarnings("error", message=".*airflow_pinecone_upsert")
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(form,) = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "pinecone_upsert"]
print(json.dumps(form.model_dump(), default=dict))
"""


@pytest.fixture(scope="module")
def form():
    """
    Return the form of our connection type as a fresh API server sends it to the UI.

    It runs in another process, because Airflow before 3.2 calls the hook's methods and replaces WTForms with a mock.
    """
    result = subprocess.run(
        [sys.executable, "-c", PRINT_FORM],
        env={**os.environ, "AIRFLOW_HOME": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_connection_type_has_a_name(form):
    assert form["hook_name"] == "Pinecone (upsert)"
    assert form["hook_class_name"] == "airflow_pinecone_upsert.hooks.pinecone.PineconeHook"


def test_standard_fields_are_labelled_or_hidden(form):
    standard = {name: field for name, field in form["standard_fields"].items() if field}
    assert {name for name, field in standard.items() if field["hidden"]} == {"login", "url_schema"}
    labels = {name: field["title"] for name, field in standard.items() if not field["hidden"]}
    assert labels == {"host": "Index host", "port": "Port", "password": "API key"}
    assert all(standard[name]["placeholder"] == connection_form.PLACEHOLDERS[name] for name in labels)


def test_extra_fields_have_a_label_and_a_help_text(form):
    assert {
        name: (field["schema"]["title"], field["description"], field["schema"]["type"], field["schema"].get("format"))
        for name, field in form["extra_fields"].items()
    } == {
        field.name: (
            field.label,
            field.help,
            ["integer" if field.kind == "integer" else "string", "null"],
            "password" if field.kind == "password" else None,
        )
        for field in connection_form.EXTRA_FIELDS
    }


def test_the_labels_of_the_extra_fields(form):
    assert [field["schema"]["title"] for field in form["extra_fields"].values()] == [
        "Index name",
        "Namespace",
        "Transport",
        "API version",
        "Time-out",
        "Total time-out",
        "CA bundle",
        "Proxy",
        "Allowed hosts",
    ]


def test_no_field_has_a_default_that_would_be_stored(form):
    assert {field["value"] for field in form["extra_fields"].values()} == {None}


def test_the_form_has_the_fields_that_the_hook_reads():
    read = set(ClientSettings.model_fields) - {"api_key", "grpc_port"} | {"namespace", "index_name", "transport"}
    assert {field.name for field in connection_form.EXTRA_FIELDS} == read


def test_the_metadata_match_airflows_strict_schema():
    schema = json.loads(files("airflow").joinpath("provider.yaml.schema.json").read_text())
    jsonschema.validate(get_provider_info()["connection-types"], schema["properties"]["connection-types"])


def test_the_hooks_method_and_the_metadata_are_equal():
    behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
    assert PineconeHook.get_ui_field_behaviour() == {key.replace("-", "_"): value for key, value in behaviour.items()}
