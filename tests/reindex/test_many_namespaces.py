"""A reindexing run whose records name their namespaces, over real HTTP: one manifest, and each namespace by itself."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import EmulatedIndex, Fault
from airflow_pinecone_upsert.reindex.keys import NamespacedKeys
from tests.reindex.test_run import Runner, upsert_elsewhere

DEFAULT = "unknown"
WIDE = {"max_delete_fraction": 1.0}


@pytest.fixture
def index(pinecone_index_factory) -> EmulatedIndex:
    return pinecone_index_factory(dimension=2, metric="dotproduct")


class TenantRunner(Runner):
    """``run(records, **options)``: one night of many tenants."""

    def __call__(self, records: Any, **options: Any) -> Any:
        return super().__call__(records, **{"namespace_column": "tenant", "namespace": DEFAULT, **options})

    @property
    def tenants(self) -> dict[str, dict[str, list[float]]]:
        """What the index holds."""
        names = [name for name, count in self.index.store.counts().items() if count]
        return {name: {one.id: one.values.tolist() for one in self.index.vectors(name).values()} for name in names}

    def deletions(self) -> list[tuple[str, str, int]]:
        """The requests that deleted something: method, namespace, ids."""
        found = (one for one in self.index.requests if one.method == "DELETE" or one.path == "/vectors/delete")
        return [(one.method, one.namespace or one.path.removeprefix("/namespaces/"), len(one.ids)) for one in found]


@pytest.fixture
def run(index, local) -> TenantRunner:
    return TenantRunner(index, local)


@pytest.fixture
def elsewhere(index):
    """Write to a namespace as something else does."""
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        yield client


def of(tenant: Any, count: int, *, start: int = 0, version: float = 1.0) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "values": [version, float(n)], "tenant": tenant} for n in range(start, start + count)]


def parts(records: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """What each namespace must hold."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        found.setdefault(str(DEFAULT if record["tenant"] is None else record["tenant"]), {})[record["id"]] = record[
            "values"
        ]
    return found


def write_elsewhere(client: IndexClient, namespace: str, ids: list[str]) -> None:
    upsert_elsewhere(client, [{"id": one, "values": [9.0, 9.0]} for one in ids], namespace)


# Upserts ----------------------------------------------------------------------------------------


def test_each_namespace_becomes_equal_to_its_part_of_the_source(run):
    """They have the same ids, one of them is named by a number, and one by nothing."""
    records = [*of("acme", 30), *of(7, 20), *of(None, 10)]
    first = run(records)
    assert run.tenants == parts(records)
    assert (first.counts.new, first.namespaces.keys()) == (60, {"acme", "7", DEFAULT})
    night = [*of("acme", 28, start=2), *of("acme", 1, start=2, version=2.0), *of(7, 20), *of(None, 12)]
    report = run(night)
    assert run.tenants == parts(night)
    counts = report.counts
    assert (counts.deleted, counts.new, counts.unchanged) == (2, 2, 27 + 20 + 10)
    assert run.deletions() == [("POST", "acme", 2)]
    assert {name: written.upserted for name, written in report.namespaces.items()} == {"acme": 2, "7": 0, DEFAULT: 2}


def test_an_unchanged_night_sends_nothing(run):
    records = [*of("acme", 30), *of("globex", 20)]
    run(records)
    before = len(run.requests())
    report = run(records[::-1])
    assert (report.counts.unchanged, len(run.requests())) == (50, before)
    output = report.as_output()
    assert (output["namespaces"], output["namespaceCount"]) == ({"acme": 0, "globex": 0}, 2)


def test_a_record_that_moves_to_another_namespace_is_new_there_and_vanishes_here(run):
    run([*of("acme", 20), *of("globex", 20, start=50)])
    night = [*of("acme", 19, start=1), *of("globex", 20, start=50), *of("globex", 1)]
    report = run(night)
    assert (report.counts.new, report.counts.deleted) == (1, 1)
    assert run.tenants == parts(night)


def test_nothing_is_deleted_while_a_record_names_no_valid_namespace(run, caplog):
    """Its earlier version may be in any namespace, and a rejected record never counts as vanished."""
    first = [*of("acme", 20), *of(None, 20)]
    run(first)
    night = [*of("acme", 20), *of(None, 19), {**of("x", 1, start=19)[0], "tenant": "é"}]
    report = run(night, max_rejects=1)
    assert (report.rejected_count, report.counts.deleted, report.counts.unchanged) == (1, 0, 39)
    assert "the source has 1 record without a valid namespace" in caplog.text
    assert run.tenants == parts(first)
    assert run(night[:-1]).counts.deleted == 1
    assert run.tenants == parts(night[:-1])


def test_the_default_namespace_has_one_name(run):
    run(of("__default__", 5), namespace="")
    assert run(of(None, 5), namespace="").counts.unchanged == 5
    assert run.tenants == {"": parts(of("", 5))[""]}


def test_a_namespace_is_waited_for_if_something_was_written_to_it(run):
    run([*of("acme", 20), *of("globex", 12), *of("initech", 5)])
    night = [*of("acme", 20), *of("globex", 11)]
    before = len(run.index.requests)
    assert run(night, wait_until_searchable=True, verify_sample=0, **WIDE).counts.deleted == 6
    asked = [one.namespace for one in run.index.requests[before:] if one.path == "/query"]
    assert asked == ["globex"]


# Deletions --------------------------------------------------------------------------------------


def test_a_namespace_that_vanished_is_deleted_as_a_whole(run):
    run([*of("acme", 30), *of("globex", 1_200)])
    report = run(of("acme", 29), **WIDE)
    assert sorted(run.deletions()) == [("DELETE", "globex", 0), ("POST", "acme", 1)]
    assert run.tenants == parts(of("acme", 29))
    counts = report.counts
    assert (counts.deleted, counts.delete_requests, counts.write_units) == (1_201, 2, 10)
    assert counts.verified > 100  # a sample of what was deleted, too
    assert report.namespaces.keys() == {"acme", "globex"}
    assert run.known == set(NamespacedKeys("").of("acme", [f"r{n}" for n in range(29)]))
    back = [*of("acme", 29), *of("globex", 3)]
    assert run(back).counts.new == 3
    assert run.tenants == parts(back)


def test_the_guard_counts_the_records_of_namespaces_that_vanished(run):
    run([*of("acme", 85), *of("globex", 15)])
    with pytest.raises(exceptions.SetupError) as caught:
        run(of("acme", 85))
    message = str(caught.value)
    assert message.startswith("15 of the 100 records of the manifest (15.0%) are missing from the source")
    assert "Missing, for example: 'globex/r0', " in message
    assert "Of 1 namespace nothing would be left, for example: 'globex'." in message
    assert (run.deletions(), len(run.tenants["globex"])) == ([], 15)
    assert run(of("acme", 85), max_delete_fraction=0.15).counts.deleted == 15
    assert run.deletions() == [("DELETE", "globex", 0)]


def test_foreign_records_of_a_namespace_that_vanished_stay(run, elsewhere, caplog):
    run([*of("acme", 30), *of("globex", 3)])
    write_elsewhere(elsewhere, "globex", ["theirs"])
    run(of("acme", 30))
    assert run.deletions() == [("POST", "globex", 3)]
    assert run.tenants == {**parts(of("acme", 30)), "globex": {"theirs": [9.0, 9.0]}}
    assert "'globex' vanished from the source, and has records that the manifest does not know" in caplog.text


def test_a_namespace_with_an_alias_is_emptied_by_id(run, elsewhere):
    run([*of("acme", 30), *of("globex", 3)])
    elsewhere.create_alias("live", "globex")
    run(of("acme", 30))
    assert run.deletions() == [("POST", "globex", 3)]


@pytest.mark.parametrize("name", [".", "..", ""])
def test_the_default_namespace_and_one_that_no_url_can_name_are_emptied_by_id(run, name):
    run([*of("acme", 30), *of(name, 3)])
    run(of("acme", 30))
    assert [(one.namespace, one.ids) for one in run.requests("/vectors/delete")] == [(name, ("r0", "r1", "r2"))]
    assert run.tenants == parts(of("acme", 30))


def test_a_server_without_operations_on_namespaces_gets_ids(run, index):
    """Its 404 must not be taken for a namespace that is gone."""
    run([*of("acme", 30), *of("globex", 3)])
    index.faults.next(Fault.status(404, "no such route"), path="/namespaces/globex", times=100)
    run(of("acme", 30))
    assert run.deletions() == [("POST", "globex", 3)]
    assert run.tenants == parts(of("acme", 30))


def test_what_vanished_stays_with_delete_missing_false(run):
    run([*of("acme", 30), *of("globex", 3)])
    run(of("acme", 30), delete_missing=False)
    assert (run.deletions(), len(run.tenants["globex"])) == ([], 3)


def test_a_lost_answer_to_the_deletion_of_a_namespace_is_no_error(run, index):
    run([*of("acme", 30), *of("globex", 3)])
    index.faults.next(Fault.stall(0.0), path="/namespaces/globex")  # it is described
    index.faults.next(Fault.lost_ack(), path="/namespaces/globex")
    assert run(of("acme", 30)).counts.deleted == 3
    assert [one.status for one in index.requests if one.method == "DELETE"][-1] == 404
    assert run.tenants == parts(of("acme", 30))


def test_the_deletion_of_a_namespace_that_failed_is_repeated_by_the_next_run(run, index):
    """What it held is unknown until then, also if the tenant returns."""
    both = [*of("acme", 30), *of("globex", 3)]
    for night in (of("acme", 30), both):
        run(both)
        index.faults.next(Fault.stall(0.0), path="/namespaces/globex")
        index.faults.next(Fault.lost_ack(), path="/namespaces/globex", times=100)
        with pytest.raises(exceptions.PineconeUpsertError):
            run(of("acme", 30))
        assert run.known == set(NamespacedKeys("").of("acme", [f"r{n}" for n in range(30)]))
        index.faults.clear()
        run(night)
        assert run.tenants == parts(night)


def test_many_namespaces_share_the_requests_of_no_other(run):
    """Ids are deleted in requests of their namespaces, also where those alternate."""
    records = [record for pair in zip(of("acme", 1_500), of("globex", 1_500), strict=True) for record in pair]
    run(records)
    run([*of("acme", 100), *of("globex", 100)], **WIDE)
    assert sorted(run.deletions()) == [("POST", name, count) for name in ("acme", "globex") for count in (400, 1_000)]
    assert run.tenants == parts([*of("acme", 100), *of("globex", 100)])


# Audit, proof, dry run --------------------------------------------------------------------------


def test_an_audit_lists_the_namespaces_of_the_manifest_and_of_the_source_and_no_others(run, elsewhere):
    """The manifest does not know ``initech``, which something else filled before the first run."""
    run([*of("acme", 30), *of("globex", 30)])
    for name, found in {"globex": ["stray"], "initech": ["r1", "stray"], "theirs": ["r1"]}.items():
        write_elsewhere(elsewhere, name, found)
    elsewhere.delete(ids=["r2"], namespace="acme")
    before = len(run.index.requests)
    night = [*of("acme", 30), *of("globex", 30), *of("initech", 2)]
    counts = run(night, audit=True).counts
    listed = [one.namespace for one in run.index.requests[before:] if one.path == "/vectors/list"]
    assert sorted(listed) == ["acme", "globex", "initech"]
    assert run.tenants == {**parts(night), "theirs": {"r1": [9.0, 9.0]}}
    assert (counts.lost, counts.stray, counts.deleted) == (1, 3, 2)


def test_the_guard_of_an_audit_counts_what_it_found(run, elsewhere):
    write_elsewhere(elsewhere, "acme", [f"stray{n}" for n in range(20)])
    with pytest.raises(exceptions.SetupError, match=r"20 of the 20 records of the manifest"):
        run(of("acme", 30), audit=True)
    assert len(run.tenants["acme"]) == 50


def test_a_mismatch_names_the_namespace_and_the_next_run_repairs_it(run, elsewhere):
    records = [*of("acme", 3), *of("globex", 3)]
    run(records)
    elsewhere.delete(ids=["r1"], namespace="globex")
    with pytest.raises(exceptions.VerificationError, match="'globex/r1' \\(record\\)") as caught:
        run(records)
    assert (caught.value.ids, caught.value.namespaces) == (("r1",), ("globex",))
    assert run(records).counts.changed == 1
    assert run.tenants == parts(records)


def test_a_dry_run_counts_the_deletion_of_a_namespace_and_changes_nothing(run, index):
    run([*of("acme", 30), *of("globex", 1_200)])
    before, files = run.tenants, run.folder.sizes()
    report = run([*of("acme", 30), *of("initech", 1)], dry_run=True, **WIDE)
    counts = report.counts
    assert (counts.new, counts.deleted, counts.delete_requests, counts.write_units) == (1, 1_200, 1, 10)
    assert report.examples["new"] == ("initech/r0",)
    assert {label.partition("/")[0] for label in report.examples["deleted"]} == {"globex"}
    assert (run.tenants, run.folder.sizes(), run.deletions()) == (before, files, [])
