"""
The form of a connection in Airflow's UI, described once.

Airflow 3.2 and later read it from the provider's metadata and import no hook for it; earlier ones ask the hook, which
must answer with the fields of WTForms. Both are made here from the same description, so they cannot differ.

What always holds: a field that was left empty is as good as absent, and no field has a default here: it would be
written into the connection and stay there when the default changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from airflow_pinecone_upsert.api.limits import API_VERSION, DEFAULT_TIMEOUT_S

HIDDEN: Final = ("login", "schema")
"""Fields that every connection has and that mean nothing here."""

LABELS: Final = {"host": "Index host", "port": "Port", "password": "API key"}

PLACEHOLDERS: Final = {
    "host": "As the console shows it: articles-abc123.svc.….pinecone.io",
    # Nobody needs a port, but https://github.com/apache/airflow/pull/73298: hidden, it would make Test useless there.
    "port": "443. Airflow 3.3.1 and 3.3.2 test nothing without a port",
    "password": "pcsk_…, from “API keys” in the Pinecone console",
}
"""Airflow shows no other help for the fields that every connection has, and no more than 60 characters of this one."""


@dataclass(frozen=True)
class ExtraField:
    """
    One field of the form that is kept in the connection's extra.

    :param name: The key in the extra.
    :param label: What stands before the field.
    :param help: What stands below it.
    :param kind: What it takes; ``password`` is text that is not shown.
    """

    name: str
    label: str
    help: str
    kind: Literal["text", "integer", "password"] = "text"


EXTRA_FIELDS: Final = (
    ExtraField(
        "index_name",
        "Index name",
        "Instead of the index host: the host is looked up by this name. Leave the index host empty.",
    ),
    ExtraField(
        "namespace",
        "Namespace",
        "Where tasks write that name no namespace of their own. Empty: Pinecone's default namespace.",
    ),
    ExtraField(
        "api_version", "API version", f"Of Pinecone's API, such as {API_VERSION}, which is used if this is empty."
    ),
    ExtraField(
        "timeout_s",
        "Time-out",
        f"Seconds without an answer after which a request is given up and repeated. Empty: {DEFAULT_TIMEOUT_S:.0f}.",
        "integer",
    ),
    ExtraField(
        "ca_bundle",
        "CA bundle",
        "Path of a PEM file, on every worker, with the certificates to trust instead of the default ones.",
    ),
    ExtraField(
        "proxy",
        "Proxy",
        "URL of an HTTP proxy, such as http://proxy.example.com:3128. It may contain a password, so it is not shown. "
        "Empty: HTTPS_PROXY and NO_PROXY are used.",
        "password",
    ),
)

_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    # "null" says that the field may stay empty.
    "text": {"type": ["string", "null"]},
    "integer": {"type": ["integer", "null"], "minimum": 1},
    "password": {"type": ["string", "null"], "format": "password"},
}


def metadata() -> dict[str, Any]:
    """Return the form as the provider's metadata have it, by Airflow's ``provider.yaml.schema.json``."""
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
    """Return the fields of the extra as WTForms has them, which is there only where an Airflow before 3.2 asks."""
    from wtforms import IntegerField, PasswordField, StringField

    kinds = {"text": StringField, "integer": IntegerField, "password": PasswordField}
    return {field.name: kinds[field.kind](field.label, description=field.help) for field in EXTRA_FIELDS}


def behaviour() -> dict[str, Any]:
    """Return what becomes of the fields that every connection has, for an Airflow before 3.2."""
    return {"hidden_fields": list(HIDDEN), "relabeling": dict(LABELS), "placeholders": dict(PLACEHOLDERS)}
