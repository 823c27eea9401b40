"""``docs/connection.md``: what *Test* says in each situation, and every key of the extra."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from airflow_pinecone_upsert.hooks.connection_form import EXTRA_FIELDS

from .readme import page_text, table

PAGE = page_text("connection.md")


@pytest.fixture
def check_connection(pinecone_index_factory, tls_server, monkeypatch):
    """Run *Test* for the connection that a row of the table describes."""
    from airflow_pinecone_upsert import PineconeHook

    def check(situation):
        index = pinecone_index_factory(dimension=256, api_key="right")
        documents = pinecone_index_factory(api_key="right", document_schema={"title": {"type": "string"}})
        changes = {
            "the connection works": {},
            "the key is wrong": {"password": "wrong"},
            "the key is missing": {"password": ""},
            "DNS does not know the host": {"host": ".".join(["a" * 60] * 5)},
            "the host is Pinecone's control plane, not an index": {"host": "api.pinecone.io"},
            "the host's certificate is not trusted": {"host": tls_server.url},
            "the index, given by its `index_name`, holds documents": {
                "host": "",
                "extra": {"index_name": "local", "control_plane_url": documents.url},
            },
        }[situation]
        connection = {"conn_type": "pinecone_upsert", "host": index.url, "password": "right", **changes}
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(connection))
        if situation == "the connection works":
            with PineconeHook() as hook:
                hook.upsert(
                    pa.table({"id": list(map(str, range(1_462))), "values": [np.ones(256, np.float32)] * 1_462})
                )
        return PineconeHook().test_connection()

    return check


@pytest.mark.parametrize(("situation", "expected"), table(PAGE, "Test a connection"))
def test_connection_test_messages(check_connection, situation, expected):
    succeeded, message = check_connection(situation)
    assert succeeded is (situation == "the connection works")
    parts = [re.escape(part) for part in expected.replace("https://", "").split("…")]
    assert re.fullmatch(".*".join(["", *parts]), message)


def test_extra_keys_match_the_connection_form():
    keys = [key.strip("`") for key, _ in table(PAGE, "Extras")]
    assert sorted(keys) == sorted([*(field.name for field in EXTRA_FIELDS), "control_plane_url", "grpc_port"])


def test_defaults_match_the_connection_form():
    texts = {key.strip("`"): text for key, text in table(PAGE, "Extras")}
    defaults = {one.name: re.search(r"Empty: ([\d-]*\d)\b", one.help) for one in EXTRA_FIELDS}
    stated = {name: re.search(r"The default is ([\d-]*\d)\b", text) for name, text in texts.items()}
    assert {name: found[1] for name, found in stated.items() if found} == {
        name: found[1] for name, found in defaults.items() if found
    }
