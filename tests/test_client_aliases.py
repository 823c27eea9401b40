"""The client's operations on namespace aliases, over real HTTP against the emulator."""

from __future__ import annotations

from datetime import datetime

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.emulator import Fault

from .test_client import numbered, upsert

ALIASES = "/namespace-aliases"


@pytest.fixture
def index(pinecone_index_factory):
    return pinecone_index_factory(dimension=2, metric="dotproduct")


@pytest.fixture
def client(index, open_client):
    """Open a client of an index with two namespaces."""
    client = open_client(index.url)
    for namespace in ("v1", "v2"):
        upsert(client, *numbered(2), namespace=namespace)
    return client


def target_of(client, name="live"):
    return client.describe_alias(name).target_namespace


def test_an_alias_is_created_repointed_listed_and_deleted(client):
    created = client.create_alias("live", "v1")
    assert (created.name, created.target_namespace) == ("live", "v1")
    assert isinstance(created.created_at, datetime)
    repointed = client.repoint_alias("live", "v2")
    assert (repointed.target_namespace, target_of(client)) == ("v2", "v2")
    client.create_alias("other", "v1")
    assert [alias.name for alias in client.list_aliases()] == ["live", "other"]
    assert [alias.name for alias in client.list_aliases(prefix="o")] == ["other"]
    assert [alias.name for alias in client.list_aliases(target_namespace="v2")] == ["live"]
    client.delete_alias("live")
    assert [alias.name for alias in client.list_aliases()] == ["other"]
    with pytest.raises(exceptions.NotFoundError, match="Namespace alias not found"):
        client.delete_alias("live")


def test_all_pages_of_aliases_are_read(client):
    names = [f"alias-{number:03}" for number in range(120)]
    for name in names:
        client.create_alias(name, "v1")
    assert [alias.name for alias in client.list_aliases()] == names


def test_the_default_namespace_is_a_target(client):
    client.create_alias("live", "")
    assert target_of(client) == "__default__"
    assert [alias.name for alias in client.list_aliases(target_namespace="")] == ["live"]


def test_only_the_requests_of_aliases_have_their_api_version(index, client):
    client.create_alias("live", "v1")
    client.repoint_alias("live", "v2")
    client.describe_namespace("v1")
    list(client.list_aliases())
    client.delete_alias("live")
    versions = {
        (request.path.startswith(ALIASES), request.headers["x-pinecone-api-version"]) for request in index.requests
    }
    assert versions == {(True, "2026-07"), (False, "2025-04")}


def test_a_later_version_of_the_settings_is_kept(index, open_client):
    list(open_client(index.url, api_version="2027-01").list_aliases())
    assert index.requests[-1].headers["x-pinecone-api-version"] == "2027-01"


@pytest.mark.parametrize("version", ["2025-04", "2026-07"])
def test_the_count_of_a_namespace_is_a_number_in_every_version(index, client, open_client, version):
    assert open_client(index.url, api_version=version).describe_namespace("v1").record_count == 2
    assert {one.record_count for one in open_client(index.url, api_version=version).list_namespaces()} == {2}


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_alias("live", "v2"),
        lambda client: client.repoint_alias("live", "v2"),
        lambda client: client.delete_alias("live"),
        lambda client: client.delete_namespace("v2"),
    ],
    ids=["create", "repoint", "delete", "delete a namespace"],
)
def test_a_write_whose_response_is_lost_succeeds_when_it_is_repeated(index, client, call, request):
    if "create" not in request.node.callspec.id:
        client.create_alias("live", "v1")
    index.faults.next(Fault.lost_ack())
    call(client)
    assert index.faults.pending == 0


def test_an_alias_that_has_the_wanted_target_is_created(client):
    first = client.create_alias("live", "v1")
    assert client.create_alias("live", "v1") == first


REJECTED = {
    "ALIAS_ALREADY_EXISTS": (lambda client: client.create_alias("live", "v2"), exceptions.SetupError),
    "NAME_IN_USE_BY_NAMESPACE": (lambda client: client.create_alias("v1", "v2"), exceptions.SetupError),
    "TARGET_NAMESPACE_NOT_FOUND": (lambda client: client.create_alias("other", "v3"), exceptions.NotFoundError),
    "TARGET_IS_ALIAS": (lambda client: client.repoint_alias("live", "live"), exceptions.SetupError),
    "NAME_IN_USE_BY_ALIAS": (lambda client: upsert(client, *numbered(1), namespace="live"), exceptions.SetupError),
    "WRITE_TO_ALIAS": (lambda client: client.delete(ids=["a"], namespace="live"), exceptions.SetupError),
    "NAMESPACE_OPERATION_ON_ALIAS": (lambda client: client.describe_namespace("live"), exceptions.SetupError),
    "NAMESPACE_TARGETED_BY_ALIAS": (lambda client: client.delete_namespace("v1"), exceptions.SetupError),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_a_rejection_has_the_class_of_its_reason_and_is_not_retried(index, client, reason):
    client.create_alias("live", "v1")
    call, kind = REJECTED[reason]
    before = len(index.requests)
    with pytest.raises(exceptions.PineconeUpsertError) as caught:
        call(client)
    assert type(caught.value) is kind
    assert caught.value.response.reason == reason
    looked_up = reason == "ALIAS_ALREADY_EXISTS"  # because that may be success
    assert len(index.requests) == before + 1 + looked_up


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_no_url_can_contain_is_not_requested(index, client, name):
    before = len(index.requests)
    for call in (client.describe_alias, client.delete_alias, lambda name: client.repoint_alias(name, "v1")):
        with pytest.raises(exceptions.SetupError, match="not the name of a namespace alias"):
            call(name)
    assert len(index.requests) == before
