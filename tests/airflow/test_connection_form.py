"""The connection's form: what Airflow makes of its one description, by the metadata or by the hook's methods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest

from airflow_pinecone_upsert import PineconeHook
from airflow_pinecone_upsert.api.client import ClientSettings
from airflow_pinecone_upsert.hooks import connection_form
from airflow_pinecone_upsert.provider_info import get_provider_info

from .conftest import HOME

WHAT_THE_UI_GETS = """
import json, warnings
warnings.filterwarnings("error", message=".*airflow_pinecone_upsert")
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(ours,) = [one for one in HookMetaService.hook_meta_data() if one.connection_type == "pinecone_upsert"]
print(json.dumps(ours.model_dump(), default=dict))
"""


@pytest.fixture(scope="module")
def shown():
    """
    What a fresh API server tells its UI about our connection type.

    Airflow before 3.2 asks the hook's methods, and puts a mock of WTForms into the process for that.
    """
    done = subprocess.run(
        [sys.executable, "-c", WHAT_THE_UI_GETS],
        env={**os.environ, "AIRFLOW_HOME": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_type_has_its_name(shown):
    assert shown["hook_name"] == "Pinecone (upsert)"
    assert shown["hook_class_name"] == "airflow_pinecone_upsert.hooks.pinecone.PineconeHook"


def test_what_every_connection_has_is_labelled_or_hidden(shown):
    standard = {name: field for name, field in shown["standard_fields"].items() if field}
    assert {name for name, field in standard.items() if field["hidden"]} == {"login", "url_schema"}
    labels = {name: field["title"] for name, field in standard.items() if not field["hidden"]}
    assert labels == {"host": "Index host", "port": "Port", "password": "API key"}
    assert all(standard[name]["placeholder"] == connection_form.PLACEHOLDERS[name] for name in labels)


def test_every_field_of_the_extra_has_a_label_and_a_help(shown):
    assert {
        name: (field["schema"]["title"], field["description"], field["schema"]["type"], field["schema"].get("format"))
        for name, field in shown["extra_fields"].items()
    } == {
        field.name: (
            field.label,
            field.help,
            ["integer" if field.kind == "integer" else "string", "null"],
            "password" if field.kind == "password" else None,
        )
        for field in connection_form.EXTRA_FIELDS
    }


def test_the_labels_are_these(shown):
    assert [field["schema"]["title"] for field in shown["extra_fields"].values()] == [
        "Index name",
        "Namespace",
        "API version",
        "Time-out",
        "CA bundle",
        "Proxy",
    ]


def test_no_field_has_a_default_that_would_be_stored(shown):
    assert {field["value"] for field in shown["extra_fields"].values()} == {None}


def test_the_form_has_what_the_hook_reads():
    read = set(ClientSettings.model_fields) - {"api_key"} | {"namespace", "index_name"}
    assert {field.name for field in connection_form.EXTRA_FIELDS} == read


def test_the_metadata_keep_the_strict_schema():
    schema = json.loads(files("airflow").joinpath("provider.yaml.schema.json").read_text())
    jsonschema.validate(get_provider_info()["connection-types"], schema["properties"]["connection-types"])


def test_the_hooks_method_and_the_metadata_say_the_same():
    behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
    assert PineconeHook.get_ui_field_behaviour() == {key.replace("-", "_"): value for key, value in behaviour.items()}
