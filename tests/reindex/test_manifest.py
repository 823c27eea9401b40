"""The manifest: what it holds after any sequence of events, deaths and rivals included."""

import threading
from dataclasses import replace
from itertools import count

import orjson
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_pinecone_upsert.exceptions import ManifestError, ManifestInUseError, StorageError
from airflow_pinecone_upsert.reindex.entries import ENTRY_SCHEMA, UNKNOWN_DIGEST, known_entries
from airflow_pinecone_upsert.reindex.generation import Generation, Segment, obsolete_files, unseen_segments
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, Target, new_run_id

from .world import (
    TARGET,
    Claims,
    Death,
    Life,
    MortalFolder,
    Run,
    assert_true,
    base_of,
    claims_in,
    claims_of,
    digest,
)

A, B, C = digest(1), digest(2), digest(3)


def names(folder):
    return sorted(folder.sizes())


# One run after the other ----------------------------------------------------------------------------


def test_a_new_manifest_is_empty(folder):
    manifest = Manifest.open(folder, TARGET)
    assert (claims_of(manifest), manifest.record_count, manifest.generation, manifest.last_run) == ({}, 0, 0, None)
    assert names(folder) == []  # reading writes nothing


def test_a_committed_manifest_is_read_by_the_next_run(folder):
    run = Run(folder, {})
    run.send({"a": A, "b": B, "c": C})
    run.confirm()
    run.commit({"newCount": 3})
    manifest = Manifest.open(folder, TARGET)
    assert claims_of(manifest) == {"a": A, "b": B, "c": C}
    assert (manifest.record_count, manifest.total_bytes, manifest.generation) == (3, 300, 2)
    assert manifest.last_run == {"newCount": 3}
    assert [name.partition("-")[0] for name in names(folder)] == ["base", "gen"]


def test_a_killed_run_leaves_what_it_flushed(folder):
    server: Claims = {}
    first = Run(folder, server)
    first.send({"a": A, "b": B})
    first.confirm()
    first.commit()
    killed = Run(folder, server)
    killed.send({"a": C, "b": None, "c": C})
    killed.confirm()
    killed.manifest.flush()
    killed.send({"d": A})
    killed.confirm()  # not flushed
    second = Run(folder, server)
    assert second.table == {"a": C, "c": C, "d": UNKNOWN_DIGEST}
    second.commit()
    assert claims_in(folder) == {"a": C, "c": C, "d": UNKNOWN_DIGEST}


def test_what_was_in_flight_is_unknown_whatever_the_table_says(folder):
    run = Run(folder, {})
    run.send({"a": A})
    run.confirm()
    run.send({"a": B, "b": B})
    assert run.table == {"a": B, "b": B}
    run.commit()  # in the middle of a run
    assert claims_in(folder) == {"a": UNKNOWN_DIGEST, "b": UNKNOWN_DIGEST}
    run.confirm()
    run.manifest.flush()
    assert claims_in(folder) == {"a": B, "b": B}


def test_a_run_reads_what_it_has_flushed_and_not_what_others_wrote_since(folder):
    server: Claims = {}
    orphan = Run(folder, server)
    run = Run(folder, server)
    for sent in ({"a": A, "b": B}, {"a": C}, {"b": None}):
        run.send(sent)
        run.confirm()
    orphan.manifest.append(["z"], [A], [1])
    with pytest.raises(ManifestInUseError):
        orphan.manifest.flush()
    assert claims_of(run.manifest) == {"a": C, "b": UNKNOWN_DIGEST}
    run.manifest.flush()
    assert claims_of(run.manifest) == claims_of(run.manifest) == {"a": C}
    run.manifest.commit(entry for entry in base_of(claims_of(run.manifest)))
    assert claims_of(run.manifest) == {"a": C}
    assert claims_in(folder) == {"a": C, "z": UNKNOWN_DIGEST}


def test_a_run_that_changed_nothing_keeps_the_base(folder):
    run = Run(folder, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    [base] = [name for name in names(folder) if name.startswith("base")]
    unchanged = Run(folder, {"a": A})
    unchanged.manifest.commit(iter(()), {"unchangedCount": 1})
    assert base in names(folder)
    manifest = Manifest.open(folder, TARGET)
    assert (claims_of(manifest), manifest.record_count, manifest.generation) == ({"a": A}, 1, 4)
    assert manifest.last_run == {"unchangedCount": 1}


def test_a_base_has_large_strings_and_fixed_digests(local):
    run = Run(local, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    [base] = [name for name in names(local) if name.startswith("base")]
    assert pq.read_schema(f"{local.path}/{base}").equals(ENTRY_SCHEMA)


def test_entries_come_in_batches_of_bounded_length(local):
    run = Run(local, {})
    ids = [str(number) for number in range(300_000)]
    run.manifest.append(ids, [A] * len(ids), [5] * len(ids))
    run.manifest.commit([known_entries(ids, [A] * len(ids), [5] * len(ids))])
    batches = list(Manifest.open(local, TARGET).entries())
    assert sum(map(len, batches)) == 300_000
    assert max(map(len, batches)) <= 1 << 15
    assert Manifest.open(local, TARGET).total_bytes == 1_500_000


@pytest.mark.parametrize(("flushes", "entries"), [(3, 1_000_000), (1_000, 1)], ids=["entries", "segments"])
def test_a_compaction_is_due_after_many_entries_or_segments(flushes, entries):
    folder = ManifestFolder(MemoryFileSystem(), f"/{new_run_id()}")
    manifest = Manifest.open(folder, TARGET, new_run_id())
    ids = ["an-id"] * entries
    for number in range(flushes):
        assert not manifest.compaction_is_due, number
        manifest.mark_unknown(ids)
        manifest.flush()
    assert manifest.compaction_is_due
    manifest = Manifest.open(folder, TARGET, new_run_id())
    assert sum(map(len, manifest.entries())) == flushes * entries
    assert manifest.compaction_is_due  # also if a killed run left them
    manifest.commit([])
    assert not manifest.compaction_is_due


# Another target, another digest, another format, damage --------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            replace(TARGET, index_url="https://b.example"),
            "the index is 'https://articles.example' there and 'https://b.ex",
        ),
        (replace(TARGET, namespace=""), "the namespace is 'articles' there and '' here"),
        (replace(TARGET, options={"id_column": "sku"}), "id_column is 'id' there and 'sku' here"),
        (replace(TARGET, options={**TARGET.options, "x": 1}), "x is None there and 1 here"),
    ],
)
@pytest.mark.parametrize("run_id", [None, "a1"])
def test_another_target_is_refused(local, target, message, run_id):
    Run(local, {}).commit()
    before = names(local)
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.open(local, target, run_id)
    assert str(caught.value).startswith(f"The manifest in {local.path} describes another target: ")
    assert "Set another manifest_path" in str(caught.value)
    assert names(local) == before


def test_options_are_compared_as_they_are_stored(local):
    target = replace(TARGET, options={"metadata_columns": ("a", "b")})
    Manifest.open(local, target, "a1").commit([])
    assert Manifest.open(local, target).generation == 2


def test_digests_of_another_version_are_unknown(folder, caplog):
    run = Run(folder, {})
    run.send({"a": A, "b": B})
    run.confirm()
    run.commit()
    run.send({"b": None, "c": C})
    run.confirm()
    run.manifest.flush()
    newer = replace(TARGET, digest_version=2)
    unknown = {"a": UNKNOWN_DIGEST, "c": UNKNOWN_DIGEST}
    manifest = Manifest.open(folder, newer, "a1")
    assert claims_of(manifest) == unknown
    assert "it has digests of a_digest/1, and not of a_digest/2. Every record is sent again." in manifest.notice
    assert manifest.notice in caplog.text
    # The new run dies: what it did not send is still unknown.
    manifest.append(["c"], [C], [100])
    manifest.flush()
    manifest = Manifest.open(folder, newer, "a2")
    assert claims_of(manifest) == unknown | {"c": C}
    manifest.commit(base_of({"a": A, "c": C}))
    manifest = Manifest.open(folder, newer)
    assert (claims_of(manifest), manifest.notice) == ({"a": A, "c": C}, None)


def test_another_format_is_read_as_empty_and_replaced(folder):
    run = Run(folder, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    run.send({"b": B})
    generation = orjson.loads(folder.read("gen-000002.json"))
    folder.delete(["gen-000002.json"])
    folder.create("gen-000002.json", orjson.dumps({**generation, "format": 2}))
    manifest = Manifest.open(folder, TARGET, "a1")
    assert "it has a format that this version does not read" in manifest.notice
    assert (claims_of(manifest), manifest.generation) == ({}, 3)
    manifest.append(["c"], [C], [100])
    manifest.commit(base_of({"c": C}))
    assert claims_in(folder) == {"c": C}
    assert names(folder) == ["base-000004-a1.parquet", "gen-000004.json"]


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [corrupt, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()]
)
@pytest.mark.parametrize("kind", ["base", "segment"])
def test_damage_is_an_error_with_a_remedy(local, tmp_path, kind, damage):
    run = Run(local, {})
    run.send({str(number): A for number in range(1_000)})
    run.confirm()
    run.commit()
    run.send({"b": B})
    [name] = [name for name in names(local) if name.startswith(kind)]
    manifest = Manifest.open(local, TARGET)
    damage(tmp_path / "manifest" / name)
    with pytest.raises(ManifestError, match=r"is damaged \(.*Delete the folder and run with audit=True"):
        claims_of(manifest)


def test_a_base_with_another_number_of_records_is_damaged(local):
    run = Run(local, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    generation = orjson.loads(local.read("gen-000002.json"))
    local.write("gen-000003.json", orjson.dumps({**generation, "number": 3, "record_count": 2}))
    with pytest.raises(ManifestError, match="it has 1 entries, and not 2"):
        claims_in(local)


def test_a_generation_that_is_not_complete_is_skipped(folder):
    run = Run(folder, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    folder.write("gen-000003.json", b'{"format": 1, "num')
    assert claims_in(folder) == {"a": A}
    assert Run(folder, {}).manifest.generation == 4
    folder.delete(["gen-000002.json", "gen-000004.json"])
    with pytest.raises(ManifestError, match=r"is damaged \(gen-000003.json: "):
        Manifest.open(folder, TARGET)


def test_a_manifest_that_is_only_read_cannot_be_written(local):
    manifest = Manifest.open(local, TARGET)
    manifest.append(["a"], [A], [1])
    with pytest.raises(RuntimeError, match="without a run id"):
        manifest.flush()


def test_digests_of_another_length_are_an_error(local):
    with pytest.raises(ValueError, match="2 digests have 31 bytes"):
        Manifest.open(local, TARGET, "a1").append(["a", "b"], [A, B[1:]], [1, 1])


# The storage fails --------------------------------------------------------------------------------------


class FailingFileSystem(MemoryFileSystem):
    """Raises an error at each access while there is one."""

    cachable = False
    store = {}  # noqa: RUF012 - of this class, not of all of memory
    error = None

    def _fail(self):
        if self.error is not None:
            raise self.error

    def pipe_file(self, path, value, **options):
        self._fail()
        super().pipe_file(path, value, **options)

    def ls(self, path, **options):
        self._fail()
        return super().ls(path, **options)


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (OSError("no route"), StorageError, "cannot be written at the moment: no route. Check that the storage can be"),
        (TimeoutError(), StorageError, "cannot be written at the moment: TimeoutError."),
        (PermissionError("denied"), ManifestError, "cannot be written: denied. Check manifest_path"),
    ],
)
def test_a_storage_that_fails_is_named_and_nothing_is_lost(raised, error, message):
    fs = FailingFileSystem()
    folder = ManifestFolder(fs, f"/{new_run_id()}")
    run = Run(folder, {})
    run.send({"a": A})
    run.confirm()
    fs.error = raised
    with pytest.raises(error, match=f"The manifest in memory://{folder.path} {message}"):
        run.manifest.flush()
    fs.error = None
    run.manifest.flush()
    assert claims_in(folder) == {"a": A}


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    folder = ManifestFolder(LocalFileSystem(), str(tmp_path / "file" / "folder"))
    with pytest.raises(ManifestError, match="Check manifest_path"):
        Manifest.open(folder, TARGET, "a1")


def test_a_missing_bucket_is_named(bucket):
    folder = ManifestFolder(bucket.fs, "no-such-bucket/manifest")
    with pytest.raises(
        ManifestError, match=r"The manifest in s3://no-such-bucket/manifest cannot be written: .*bucket"
    ):
        Manifest.open(folder, TARGET, "a1")


def test_an_error_of_the_entries_is_not_one_of_the_storage(folder):
    def entries():
        yield known_entries(["a"], [A], [1])
        raise KeyError("a bug")

    run = Run(folder, {})
    run.send({"a": A})
    with pytest.raises(KeyError, match="a bug"):
        run.manifest.commit(entries())
    run.confirm()
    run.manifest.flush()
    assert claims_in(folder) == {"a": A}


# Death at every step ------------------------------------------------------------------------------------


class Story:
    """
    Two runs, the second of which dies at some step. Keeps what the manifest must say.

    :ivar allowed: What it may say now: what was flushed, or, within a flush or commit, the same with what was entered.
    """

    def __init__(self, folder: MortalFolder) -> None:
        self.server: Claims = {}
        self.allowed: list[Claims] = [{}]
        first = Run(replace(folder, life=Life()), self.server)
        first.send({"a": A, "b": A, "c": A, "d": A})
        first.confirm()
        first.commit({"number": 1})
        first.send({"a": B, "e": B})  # killed while two records were in flight
        self.allowed = [{"a": UNKNOWN_DIGEST, "b": A, "c": A, "d": A, "e": UNKNOWN_DIGEST}]
        self._folder = folder

    def tell(self) -> None:
        run = Run(self._folder, self.server)
        for sent in ({"a": C, "b": None, "f": C}, {"a": A, "b": B}):
            self._becomes(dict.fromkeys(sent, UNKNOWN_DIGEST), lambda sent=sent: run.send(sent))
            run.confirm()
            self._becomes(sent, run.manifest.flush)
        self._becomes({"d": UNKNOWN_DIGEST}, lambda: run.send({"d": None}))
        run.commit()
        run.confirm()
        self._becomes({"d": None}, lambda: run.commit({"number": 2}))

    def _becomes(self, changes, act) -> None:
        changed = {key: found for key, found in {**self.allowed[0], **changes}.items() if found is not None}
        self.allowed = [self.allowed[0], changed]
        act()
        self.allowed = [changed]


@pytest.mark.parametrize("storage", ["local", pytest.param("bucket", marks=pytest.mark.slow)])
def test_death_at_every_step_leaves_what_was_flushed(request, storage):
    for steps in count():
        folder = request.getfixturevalue(storage)
        mortal = MortalFolder(folder.fs, f"{folder.path.rstrip('/')}/{steps}", Life(steps))
        story = Story(mortal)
        try:
            story.tell()
        except Death:
            survivor = replace(mortal, life=Life())
            assert claims_in(survivor) in story.allowed
            assert_true(survivor, story.server)
            run = Run(survivor, story.server)
            run.send(dict.fromkeys("abcdefg", A))
            run.confirm()
            run.commit({"number": 3})
            assert claims_in(survivor) == dict.fromkeys("abcdefg", A) == story.server
            assert [name.partition("-")[0] for name in names(survivor)] == ["base", "gen"]  # nothing is left over
        else:
            break
    assert steps > 50


# Any sequence equals a dict ---------------------------------------------------------------------------------

IDS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)
DIGESTS = st.integers(0, 2).map(digest)


class Journal(RuleBasedStateMachine):
    """One run at a time: appends, removals, marks, flushes, deaths and commits, against two dicts."""

    paths = count()

    @initialize()
    def start(self):
        self.folder = ManifestFolder(MemoryFileSystem(), f"/journal-{new_run_id()}")
        self.flushed, self.entered = {}, {}
        self.unsettled = set()
        self.reopen()

    @rule()
    def reopen(self):
        """The process dies, and the next one starts."""
        self.manifest = Manifest.open(self.folder, TARGET, new_run_id())
        assert claims_of(self.manifest) == self.flushed
        self.entered = dict(self.flushed)
        self.unsettled = set()

    @rule(ids=IDS, found=DIGESTS)
    def append(self, ids, found):
        self.manifest.append(ids, [found] * len(ids), [1] * len(ids))
        self.entered.update(dict.fromkeys(ids, found))
        self.unsettled -= set(ids)

    @rule(ids=IDS)
    def remove(self, ids):
        self.manifest.remove(ids)
        self.entered = {key: found for key, found in self.entered.items() if key not in ids}
        self.unsettled -= set(ids)

    @rule(ids=IDS)
    def mark_unknown(self, ids):
        self.manifest.mark_unknown(ids)
        self.entered.update(dict.fromkeys(ids, UNKNOWN_DIGEST))
        self.unsettled |= set(ids)

    @rule()
    def flush(self):
        self.manifest.flush()
        self.flushed = dict(self.entered)

    @rule(found=DIGESTS)
    def commit(self, found):
        """The table in memory has a digest for what is unsettled."""
        table = self.entered | dict.fromkeys(self.unsettled & self.entered.keys(), found)
        self.manifest.commit(base_of(table), {"found": found.hex()})
        self.flushed = dict(self.entered)
        assert Manifest.open(self.folder, TARGET).last_run == {"found": found.hex()}

    @rule(hash_bits=st.sampled_from([1, 64]))
    def compact(self, hash_bits):
        """As a run does it, from the manifest's own files."""
        self.flush()
        table = IdTable(self.manifest.entries(), hash_bits=hash_bits)
        self.manifest.commit(table.latest(self.manifest.entries))

    @invariant()
    def a_reader_finds_what_was_flushed(self):
        assert claims_in(self.folder) == self.flushed


def test_any_sequence_equals_a_dict():
    run_state_machine_as_test(Journal, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))


# Several runs at once ---------------------------------------------------------------------------------------


class Rivals(RuleBasedStateMachine):
    """
    Several runs that know nothing of each other. A request is sent right after the flush that precedes it.

    At any moment the manifest claims only what is so, and knows every record of the namespace.
    """

    @initialize()
    def start(self):
        self.folder = ManifestFolder(MemoryFileSystem(), f"/rivals-{new_run_id()}")
        self.server = {}
        self.runs = []

    @precondition(lambda self: len(self.runs) < 4)
    @rule()
    def open(self):
        self.newest = Run(self.folder, self.server)
        self.runs.append(self.newest)

    def act(self, number, action):
        """Let one of the runs do something; it stops if it finds another one."""
        if not self.runs:
            return
        run = self.runs[number % len(self.runs)]
        try:
            action(run)
        except ManifestInUseError:
            assert run is not self.newest
            self.runs.remove(run)

    @rule(number=st.integers(0, 3), ids=IDS, found=st.none() | DIGESTS)
    def send(self, number, ids, found):
        self.act(number, lambda run: run.send(dict.fromkeys(ids, found)))

    @rule(number=st.integers(0, 3))
    def confirm(self, number):
        self.act(number, lambda run: run.confirm())

    @rule(number=st.integers(0, 3))
    def flush(self, number):
        self.act(number, lambda run: run.manifest.flush())

    @rule(number=st.integers(0, 3))
    def commit(self, number):
        self.act(number, lambda run: run.commit())

    @rule(number=st.integers(0, 3))
    def die(self, number):
        self.act(number, self.runs.remove)

    @invariant()
    def claims_are_true(self):
        assert_true(self.folder, self.server)


def test_rivals_never_make_the_manifest_claim_what_is_not_so():
    run_state_machine_as_test(Rivals, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))


def test_of_eight_runs_that_start_at_once_one_can_write(folder):
    barrier = threading.Barrier(8)
    writers, stopped = [], []

    def start(number):
        barrier.wait()
        try:
            manifest = Manifest.open(folder, TARGET, new_run_id())
            barrier.wait(10)
        except ManifestInUseError:
            stopped.append(number)
            barrier.wait(10)
            return
        try:
            manifest.append([f"id-{number}"], [A], [1])
            manifest.flush()
            writers.append(number)
        except ManifestInUseError:
            stopped.append(number)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writers) == 1
    assert len(stopped) == 7
    claims = claims_in(folder)
    assert claims.pop(f"id-{writers[0]}") == A
    assert set(claims.values()) <= {UNKNOWN_DIGEST}


def test_a_run_that_was_replaced_stops_and_leaves_the_manifest_alone(folder):
    server: Claims = {}
    orphan = Run(folder, server)
    orphan.send({"a": A, "b": A})
    newer = Run(folder, server)
    newer.send({"a": B})
    newer.confirm()
    newer.commit()
    before = names(folder)
    orphan.confirm()
    with pytest.raises(
        ManifestInUseError, match=r"Another run has taken over .*generation 1 was .*Wait until it has ended"
    ):
        orphan.commit()
    [late] = set(names(folder)) - set(before)
    # Which of the two requests for "a" came last is not known.
    assert claims_in(folder) == {"a": UNKNOWN_DIGEST, "b": UNKNOWN_DIGEST}
    newer.commit()
    assert late in names(folder)
    assert claims_in(folder) == {"a": UNKNOWN_DIGEST, "b": UNKNOWN_DIGEST}
    third = Run(folder, server)
    third.send({"a": C})
    third.confirm()
    third.commit()
    assert claims_in(folder) == {"a": C, "b": UNKNOWN_DIGEST}
    assert late not in names(folder)


def test_a_run_that_slept_through_other_runs_does_not_create_a_generation(folder):
    sleeper = Run(folder, {})
    for number in range(2):
        run = Run(folder, {})
        run.send({"a": (A, B)[number]})
        run.confirm()
        run.commit()
    assert names(folder) == [names(folder)[0], "gen-000005.json"]  # the sleeper's next one is not there
    with pytest.raises(ManifestInUseError):
        sleeper.commit()
    assert claims_in(folder) == {"a": B}


def test_a_reader_during_a_commit_is_asked_to_try_again(local):
    run = Run(local, {})
    run.send({"a": A})
    run.confirm()
    run.commit()
    reader = Manifest.open(local, TARGET)
    run.send({"a": B})
    run.confirm()
    run.commit()
    with pytest.raises(ManifestInUseError):
        claims_of(reader)


# Decisions ------------------------------------------------------------------------------------------------


def test_the_segments_of_the_own_run_come_first_and_those_of_others_are_doubtful():
    generation = Generation(7, TARGET, "b", seen={"a": 2, "b": 1})
    found = [f"segment-{run}-{number:06}.parquet" for run in "abc" for number in (1, 2, 3)]
    assert unseen_segments(generation, found) == [
        Segment("segment-b-000002.parquet"),
        Segment("segment-b-000003.parquet"),
        Segment("segment-a-000003.parquet", is_doubtful=True),
        Segment("segment-c-000001.parquet", is_doubtful=True),
        Segment("segment-c-000002.parquet", is_doubtful=True),
        Segment("segment-c-000003.parquet", is_doubtful=True),
    ]


def test_only_files_of_the_manifest_are_obsolete():
    generation = Generation(
        7, TARGET, "b", base="base-000007-b.parquet", segments=(Segment("segment-a-000001.parquet"),), seen={"a": 2}
    )
    kept = [
        "base-000007-b.parquet", "segment-a-000001.parquet", "segment-a-000003.parquet", "segment-b-000001.parquet",
        "gen-000007.json", "lease-000001.json", "notes.txt", "base.parquet", "gen-000008.json.12345678.part",
    ]  # fmt: skip
    obsolete = [
        "gen-000005.json",
        "gen-000006.json",
        "base-000006-a.parquet",
        "segment-a-000002.parquet",
        "base-000006-b.parquet.12345678.part",
    ]
    assert sorted(obsolete_files(generation, [*kept, *obsolete])) == sorted(obsolete)
    assert obsolete_files(generation, [*kept, *obsolete])[:2] == ["gen-000006.json", "gen-000005.json"]


def test_a_generation_is_read_as_it_was_written():
    target = Target("https://a.example", "n", {"columns": ["a"], "none": None}, "xxh3_128", 2)
    generation = Generation(
        3, target, "r", "base", (Segment("s"), Segment("t", is_doubtful=True)), {"r": 2}, 5, 6, {"x": 1}
    )
    assert Generation.from_json(generation.as_json()) == generation


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "target": {}, "segments": []}']
)
def test_a_generation_that_is_not_complete_is_a_value_error(content):
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        Generation.from_json(content)
