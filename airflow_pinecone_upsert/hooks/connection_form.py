"""
The form of a connection in Airflow's UI.

Airflow 3.2 and later read it from the provider's metadata, without importing the hook. Earlier versions call the hook,
which returns WTForms fields. This module builds both from one description, so that they cannot differ.

Invariants: an empty field means the same as an absent one. No field has a default: Airflow would store it in the
connection, where it would remain after the default changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from airflow_pinecone_upsert.api.limits import API_VERSION, DEFAULT_TIMEOUT_S, DEFAULT_TOTAL_TIMEOUT_S

HIDDEN: Final = ("login", "schema")
"""Standard fields that this connection type does not use."""

LABELS: Final = {"host": "Index host", "port": "Port", "password": "API key"}

PLACEHOLDERS: Final = {
    "host": "As the console shows it: articles-abc123.svc.….pinecone.io",
    # A port is never needed, but if the field were hidden, Airflow 3.3.1 and 3.3.2 could not test the connection:
    # https://github.com/apache/airflow/pull/73298
    "port": "443. Airflow 3.3.1 and 3.3.2 need it to test the connection",
    "password": "pcsk_…, from “API keys” in the Pinecone console",
}
"""Airflow shows no other help text for the standard fields, and at most 60 characters of a placeholder."""


@dataclass(frozen=True)
class ExtraField:
    """
    A field of the form whose value is stored in the connection's extra.

    :param name: The key in the extra.
    :param label: The label of the field.
    :param help: The text below the field.
    :param kind: The type of the value; ``password`` is text that the form hides.
    """

    name: str
    label: str
    help: str
    kind: Literal["text", "integer", "password"] = "text"


EXTRA_FIELDS: Final = (
    ExtraField(
        "index_name",
        "Index name",
        "Used instead of the index host: the host is looked up by this name. Leave the index host empty.",
    ),
    ExtraField(
        "namespace",
        "Namespace",
        "The namespace of tasks that do not set one. Empty: Pinecone's default namespace.",
    ),
    ExtraField(
        "transport",
        "Transport",
        "What carries the upserts of tasks that do not set it: rest or grpc. Empty: rest.",
    ),
    ExtraField("api_version", "API version", f"The version of Pinecone's API to request. Empty: {API_VERSION}."),
    ExtraField(
        "timeout_s",
        "Time-out",
        f"Seconds without a response after which an attempt fails and is retried. Empty: {DEFAULT_TIMEOUT_S:.0f}.",
        "integer",
    ),
    ExtraField(
        "total_timeout_s",
        "Total time-out",
        "Seconds after which an attempt fails and is retried although the server still sends. "
        f"Empty: {DEFAULT_TOTAL_TIMEOUT_S:.0f}, or the time-out if that is longer.",
        "integer",
    ),
    ExtraField(
        "ca_bundle",
        "CA bundle",
        "Path of a PEM file on every worker. Its CA certificates are trusted instead of the default ones.",
    ),
    ExtraField(
        "proxy",
        "Proxy",
        "URL of an HTTP proxy, such as http://proxy.example.com:3128. It may contain a password, so it is not shown. "
        "Empty: HTTPS_PROXY and NO_PROXY are used.",
        "password",
    ),
    ExtraField(
        "allowed_host_suffixes",
        "Allowed hosts",
        "Ends of host names, separated by commas, that a template or the control plane may name besides Pinecone's own. "
        "The API key is sent to such a host. Empty: none.",
    ),
)

_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    # "null" allows the field to be empty.
    "text": {"type": ["string", "null"]},
    "integer": {"type": ["integer", "null"], "minimum": 1},
    "password": {"type": ["string", "null"], "format": "password"},
}


def metadata() -> dict[str, Any]:
    """Return the form for the provider's metadata, which follow Airflow's ``provider.yaml.schema.json``."""
    return {
        "conn-fields": {
            field.name: {"label": field.label, "description": field.help, "schema": _SCHEMAS[field.kind]}
            for field in EXTRA_FIELDS
        },
        "ui-field-behaviour": {
            "hidden-fields": list(HIDDEN),
            "relabeling": dict(LABELS),
            "placeholders": dict(PLACEHOLDERS),
        },
    }


def widgets() -> dict[str, Any]:
    """Return the extra fields as WTForms fields, for Airflow before 3.2, which provides WTForms or a mock of it."""
    from wtforms import IntegerField, PasswordField, StringField

    kinds = {"text": StringField, "integer": IntegerField, "password": PasswordField}
    return {field.name: kinds[field.kind](field.label, description=field.help) for field in EXTRA_FIELDS}


def behaviour() -> dict[str, Any]:
    """Return hidden fields, labels and placeholders of the standard fields, for Airflow before 3.2."""
    return {"hidden_fields": list(HIDDEN), "relabeling": dict(LABELS), "placeholders": dict(PLACEHOLDERS)}
