"""
A reindexing run on one screen: it makes its namespaces equal to its source, and touches nothing else.

::

    read ──> compare ──> encode ──> batch ──> announce ──> send ──> journal ──> delete ──> verify ──> commit

The stages are those of an upsert (:mod:`airflow_pinecone_upsert.pipeline.stages`). The manifest says what the namespace
holds (or all namespaces that the records name, see :mod:`airflow_pinecone_upsert.reindex.keys`), as the server confirmed it,
and is the checkpoint, too: the next try reads it and sends what is still different.

Invariants:

- What is in flight is unknown to the manifest, see :mod:`airflow_pinecone_upsert.reindex.journal`.
- Nothing is deleted before every upsert of the run is confirmed, and nothing at all where the run was cancelled, the source
  could not be read to its end or yielded nothing, or more vanished than is allowed.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Protocol

import pyarrow as pa

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.cost import rewrite_units, write_units
from airflow_pinecone_upsert.exceptions import VerificationError
from airflow_pinecone_upsert.pipeline import stages as pipeline
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.counts import Counts, ReindexCounts
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.learned import Learned
from airflow_pinecone_upsert.pipeline.observer import Observer
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk, as_mask
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import Written
from airflow_pinecone_upsert.pipeline.send.deletions import send_deletions
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport, Transport
from airflow_pinecone_upsert.pipeline.stages import Books, Stages
from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore, TaskState
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from airflow_pinecone_upsert.pipeline.wording import number_of
from airflow_pinecone_upsert.reindex import deletion, verification
from airflow_pinecone_upsert.reindex.audit import listed_entries
from airflow_pinecone_upsert.reindex.changes import Changes
from airflow_pinecone_upsert.reindex.deletion import MAX_EXAMPLES, Deletions, vanished_entries
from airflow_pinecone_upsert.reindex.entries import unknown_entries
from airflow_pinecone_upsert.reindex.entry import unpack_entries
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.journal import Journal, Manifest, RecordDeletion
from airflow_pinecone_upsert.reindex.keys import keys_of
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport
from airflow_pinecone_upsert.reindex.verification import Sample, verify

log = logging.getLogger(__name__)


class Index(pipeline.Index, verification.Index, deletion.Index, Protocol):
    """What a run needs of the index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    def send(self, request: UpsertRequest | RecordDeletion) -> Any:
        """Send one request, once."""
        ...


def reindex(  # noqa: PLR0913 - what a run may be given
    source: RecordSource,
    index: Index,
    options: ReindexOptions,
    manifest: Manifest,
    *,
    manifest_path: str = "",
    rejects_folder: RejectsFolder | None = None,
    state: StateStore | None = None,
    cancellation: CancellationToken | None = None,
    observers: Sequence[Observer] = (),
    random: Random = random.random,
    sleep: Callable[[float], None] = time.sleep,
    on_turn: Callable[[], None] = lambda: None,
    transport: Callable[[], Transport[Any]] | None = None,
) -> ReindexReport:
    """
    Send what changed, delete what vanished, and compare a sample.

    :param source: The records.
    :param index: The index.
    :param options: The rest.
    :param manifest: What the namespace holds. Opened by the caller, for reading only in a dry run.
    :param manifest_path: Where it is, for the report.
    :param rejects_folder: Where rejected records are written; None for nowhere.
    :param state: Where the progress is shown; None for nowhere.
    :param cancellation: Ends the run early.
    :param observers: Called for each attempt at an upsert, and at the end.
    :param random: A source of floats in [0, 1), for the backoff and the sample.
    :param sleep: Waits for a namespace that lags, in seconds.
    :param on_turn: Called several times a second, but for the time that reading one chunk, one page of ids or one request
        takes, for example to renew a lease; what it raises ends the run.
    :param transport: Returns what carries the requests, and has the clock; None for threads and real time.
    :return: What was done; for a dry run, what would be done.
    :raises InputError: The source or a record of it is invalid.
    :raises SetupError: Key, index, quota, a parameter, or more would be deleted than is allowed; a retry cannot help.
    :raises TransientError: The index, or a storage, did not answer.
    :raises VerificationError: The namespace does not hold what the server confirmed. The next run repairs it.
    :raises IncompleteUpsertError: Records stayed unconfirmed for another reason.
    """
    cancellation = cancellation or CancellationToken("reindexing")
    open_transport = transport or (lambda: ThreadTransport(index.send, options.max_concurrency))
    run = _Run(source, index, options, manifest, open_transport, cancellation, observers, random, sleep, on_turn)

    def report() -> ReindexReport:
        books, stages = run.books, run.stages
        return ReindexReport(
            run.counts(books.tracker.totals(stages.transport.now())),
            rejects_paths=books.rejects.paths,
            distinct_count=books.tracker.distinct_count,
            namespace=options.namespace,
            index_host=index.host,
            lsn=run.journal.max_lsn,
            namespaces=run.namespaces(),
            learned=None if options.dry_run else books.limits.learned,
            manifest_path=manifest_path,
            is_dry_run=options.dry_run,
            examples=run.examples,
        )

    if options.dry_run:
        run.open(None, None)
    else:
        run.open(rejects_folder, state)
    try:
        stats = pipeline.index_stats(index, cancellation)
        log.info("Reindexing %s into %s of %s.", source, options.target, index.host)
        run.load()
        if options.audit:
            run.audit()
        if options.dry_run:
            run.plan(pipeline.index_shape(stats))
        else:
            run.send_changes(pipeline.index_shape(stats))
            run.delete_vanished()
            run.stages.wait_until_searchable(index, report(), run.wait)
            run.verify()
            run.books.writer.write(run.stages.transport.now())
            manifest.commit(run.latest(), report().as_output())
    except BaseException:
        if not options.dry_run:
            run.journal.flush_after_failure()
        run.stages.fail(run.books, report)
        raise
    finally:
        done = run.stages.end(report())
    if done.rejected_count:
        log.warning("Not every record was upserted.%s", pipeline.rejects_note(done))
    log.info("%s", done)
    return done


class _Run:
    """The parts of one run, and its phases in order."""

    books: Books
    stages: Stages
    journal: Journal
    table: IdTable
    changes: Changes

    def __init__(  # noqa: PLR0913, PLR0917 - as for a run
        self,
        source: RecordSource,
        index: Index,
        options: ReindexOptions,
        manifest: Manifest,
        open_transport: Callable[[], Transport[Any]],
        cancellation: CancellationToken,
        observers: Sequence[Observer],
        random: Random,
        sleep: Callable[[float], None],
        on_turn: Callable[[], None],
    ) -> None:
        self._source = source
        self._index = index
        self._options = options
        self._manifest = manifest
        self._open_transport = open_transport
        self._cancellation = cancellation
        self._observers = observers
        self._random = random
        self._sleep = sleep
        self._on_turn = on_turn
        self._keys = keys_of(options)
        self._named: set[str] = set()  # namespaces of the source so far
        self._listed: set[str] = set()  # namespaces that an audit has listed
        size = options.verify_sample
        self._sent, self._unsent, self._deleted = (Sample(size, random) for _ in range(3))
        self._more = ReindexCounts()  # besides those of the journal
        self._strays: list[pa.RecordBatch] = []  # of a dry run, which does not write them to the manifest
        self.examples: dict[str, tuple[str, ...]] = {}

    def open(self, rejects_folder: RejectsFolder | None, state: StateStore | None) -> None:
        """Open the books; nothing is read or sent yet."""
        transport = self._open_transport()
        options = self._options
        self.stages = Stages(self._source, options, transport, self._cancellation, self._observers, self._random)
        task_state = TaskState(state) if state else None  # the manifest is the checkpoint
        self.books = Books.open(
            self._source, options, rejects_folder, task_state, None, self._learned(), transport.now()
        )
        self.journal = Journal(self._manifest, self._keys, self.latest, transport.now)
        self.table = IdTable()
        self.changes = Changes(self.table, self._keys, is_full=options.full)

    def _learned(self) -> Learned | None:
        """Return what the last successful run learned: it may grow again, because it is another run."""
        return Learned.from_output((self._manifest.last_run or {}).get("learned"))

    def load(self) -> None:
        """Load the manifest."""
        self.table = IdTable(self._entries())
        self.changes = Changes(self.table, self._keys, is_full=self._options.full)
        log.info("The manifest has %s records.", f"{self.table.loaded_count:,}")

    def latest(self) -> Iterator[pa.RecordBatch]:
        """Yield the last entry of each id of the manifest."""
        return self.table.latest(self._entries)

    def _entries(self) -> Iterator[pa.RecordBatch]:
        for batch in chain(self._manifest.entries(), self._strays):
            self._on_turn()  # 10 million of them take longer than a lease lasts without being renewed
            yield batch

    def counts(self, totals: Counts) -> ReindexCounts:
        """Add the counts of an upsert to those of this run."""
        saved = rewrite_units(self.changes.unchanged_bytes)
        unchanged = ReindexCounts(unchanged=self.changes.unchanged, write_units_saved=saved)
        return ReindexCounts(**vars(totals)) + self.journal.counts + self._more + unchanged

    def namespaces(self) -> dict[str, Written] | None:
        """Return what was confirmed in each namespace that the source names, or that was deleted from; None for one."""
        if not self._keys.name_namespaces:
            return None
        written = self.books.tracker.namespaces()
        names = sorted({*self._named, *written, *self.journal.deleted})
        return {name: written.get(name, Written(0))._replace(lsn=self.journal.lsns.get(name)) for name in names}

    def audit(self) -> None:
        """
        Compare the ids of the namespaces of the manifest with it, so that the run repairs what differs.

        What a namespace lost is unknown, so it is sent again, and so is what the manifest does not have: if the source
        does not have it either, it has vanished.
        """
        namespaces = self._namespaces_of_manifest()
        self._listed.update(namespaces)
        for entries in self._listed_entries(namespaces):
            self._note_stray(entries.filter(as_mask(self.table.note_listed(entries.column("id")))))
        for lost in vanished_entries(self.table, self.latest()):
            self._note_unknown(lost)
            self._more += ReindexCounts(lost=len(lost))
        self.table.end_listing()
        counts = self._more
        log.info("The audit found %s ids that the manifest does not have; %s are lost.", counts.stray, counts.lost)

    def _namespaces_of_manifest(self) -> list[str]:
        if not self._keys.name_namespaces:
            return [self._options.namespace]
        columns = (self._keys.namespaces(batch.column("id")) for batch in self.latest())
        return sorted({str(name) for column in columns for name in column.dictionary.to_pylist()})

    def _listed_entries(self, namespaces: Iterable[str]) -> Iterator[pa.RecordBatch]:
        return listed_entries(self._index, self._keys, namespaces, self._cancellation, self._on_turn)

    def _note_stray(self, entries: pa.RecordBatch) -> None:
        self._note_unknown(entries)
        self._more += ReindexCounts(stray=len(entries))

    def _note_named(self, chunk: Chunk) -> None:
        """Note the namespaces of a chunk. An audit lists each that is new to the manifest before its first record is compared."""
        named = set(self._keys.named_in(chunk)) - self._named
        self._named |= named
        if self._options.audit and (unlisted := sorted(named - self._listed)):
            for entries in self._listed_entries(unlisted):
                self._note_stray(entries.filter(as_mask(self.table.note_stray(entries.column("id")))))

    def _note_unknown(self, entries: pa.RecordBatch) -> None:
        if self._options.dry_run:
            self._strays.append(entries)
        elif len(entries):
            self._manifest.mark_unknown([str(one) for one in entries.column("id").to_pylist()])
            self._manifest.flush()

    # Upserts --------------------------------------------------------------------------------------

    def send_changes(self, shape: IndexShape) -> None:
        """Send what is new or changed."""
        window = self._options.max_concurrency
        self.stages.send(
            self.stages.batcher(self._selected(shape), self.books),
            self.books,
            is_proven=self.table.loaded_count > 0,
            announced=lambda requests: self.journal.announced(requests, window),
            entered=self._enter,
            on_turn=self._turn,
        )
        self._manifest.flush()

    def _selected(self, shape: IndexShape) -> Iterator[EncodedRecords]:
        def select(chunk: Chunk) -> Chunk:
            self._chunk_was_read()
            self._note_named(chunk)
            selected = self.changes.select(chunk)
            self._sample_unsent(chunk, shape)
            return selected

        for selected, encoded in self.stages.encoded(shape, self.books, select):
            yield self.changes.with_entries(selected, encoded.records)

    def _chunk_was_read(self) -> None:
        """Do what the sender does at each turn: while records are unchanged, it waits for the next request."""
        self._cancellation.raise_if_cancelled()
        self.books.writer.write_if_due(self.stages.transport.now())
        self._on_turn()

    def _sample_unsent(self, chunk: Chunk, shape: IndexShape) -> None:
        rows = self.changes.is_unchanged.nonzero()[0]
        taken = rows[self._unsent.offer(len(rows))]
        if not len(taken):
            return
        is_taken = self.changes.is_unchanged & False
        is_taken[taken] = True
        records = encode(
            chunk.only(is_taken),
            shape,
            max_bytes=self._options.longest_request_bytes,
            wire_format=self.stages.envelope.wire_format,
            namespace=self._options.namespace,
        ).records
        for key, body in zip(self._keys.of_records(records), records.bodies, strict=True):
            self._unsent.take(key, body)

    def _enter(self, event: Event[UpsertRequest]) -> None:
        self.journal.enter(event)
        keys = self._keys.of_records(event.request.records)
        if isinstance(event, Attempt) and event.error is None:
            bodies = event.request.records.bodies
            self._unsent.discard(keys)
            self._sent.update(keys, bodies)
            for row in self._sent.offer(len(keys)):
                self._sent.take(keys[row], bodies[row])
        elif not isinstance(event, Attempt):
            # Of the same id, an earlier record may be there, and a later one may have been taken for unchanged.
            self._sent.discard(keys)
            self._unsent.discard(keys)
            self.table.forget(unknown_entries(keys).column("id"))

    def _turn(self) -> None:
        self.journal.flush_if_due()
        self._on_turn()

    # Deletions ------------------------------------------------------------------------------------

    def delete_vanished(self) -> None:
        """Delete what vanished, once every upsert is confirmed."""
        if deletions := self._deletions():
            self._send_deletions(deletions.requests())
            self._manifest.flush()

    def _deletions(self) -> Deletions | None:
        """Return what is to be deleted, which is not more than is allowed; None for nothing."""
        if not (self.table.unseen_count and self._options.delete_missing):
            return None
        if self.changes.without_namespace:
            log.warning(
                "Nothing is deleted, because the source has %s without a valid namespace: what they replace is not known. "
                "The manifest keeps %s that the source does not contain.",
                number_of(self.changes.without_namespace, "record"),
                number_of(self.table.unseen_count, "record"),
            )
            return None
        deletions = Deletions(
            self.table, self._keys, self.latest, self.journal, self._index, self._cancellation, self._on_turn
        )
        deletions.check_guard(self.changes.read, self._options.max_delete_fraction)
        return deletions

    def _send_deletions(self, requests: Iterator[RecordDeletion]) -> None:
        def enter(event: Event[RecordDeletion]) -> None:
            self.journal.enter_deletion(event)
            if isinstance(event, Attempt) and event.error is None:
                keys = self.journal.keys_of(event.request)
                for row in self._deleted.offer(len(keys)):
                    self._deleted.take(keys[row], b"")

        transport: Transport[RecordDeletion] = self._open_transport()
        window = self._options.max_concurrency
        send_deletions(
            self.journal.announced(requests, window),
            transport,
            max_unsettled=window,
            random=self._random,
            cancellation=self._cancellation,
            enter=enter,
            on_turn=self._turn,
        )

    def wait(self, seconds: float) -> None:
        """Wait for a namespace that lags."""
        self._sleep(seconds)
        self._on_turn()

    # Proof ----------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Compare a sample of what was sent, of what was not and of what was deleted."""
        expected: dict[str, bytes | None] = {**self._unsent.items, **self._sent.items}
        expected.update(dict.fromkeys(self._deleted.items))
        try:
            verified = verify(
                self._index,
                self._keys,
                expected,
                decode=self.stages.envelope.wire_format.decode,
                lsns=self.journal.lsns,
                timeout_s=self._options.verify_timeout_s,
                now=self.stages.transport.now,
                sleep=self.wait,
                cancellation=self._cancellation,
                on_turn=self._on_turn,
            )
        except VerificationError as exc:
            for namespace, record_id in zip(exc.namespaces, exc.ids, strict=True):
                self._manifest.mark_unknown(self._keys.of(namespace, [record_id]))
            self._manifest.flush()
            raise
        self._more += ReindexCounts(verified=verified)

    # Dry run --------------------------------------------------------------------------------------

    def plan(self, shape: IndexShape) -> None:
        """Count what would be sent and deleted."""
        for request in self.stages.batcher(self._selected(shape), self.books):
            _, sizes, replaced = unpack_entries(request.records.entries)
            changed = sum(map(bool, replaced))
            units = write_units(sum(sizes), sum(replaced))
            body = ReindexCounts(requests=1, request_bytes=len(request.body), write_units=units)
            self._more += body + ReindexCounts(new=len(sizes) - changed, changed=changed)
            for kind, is_kind in (("new", False), ("changed", True)):
                keys = self._keys.of_records(request.records)
                self._add_examples(
                    kind, (key for key, size in zip(keys, replaced, strict=True) if bool(size) is is_kind)
                )
        if deletions := self._deletions():
            for page in deletions.requests():
                keys = self.journal.keys_of(page)
                self._more += ReindexCounts(
                    deleted=len(keys), delete_requests=1, write_units=self.journal.deletion_units(page)
                )
                self._add_examples("deleted", keys)

    def _add_examples(self, kind: str, keys: Iterable[str]) -> None:
        found = self.examples.get(kind, ())
        labels = map(self._keys.label, keys)
        self.examples[kind] = (*found, *islice(labels, MAX_EXAMPLES - len(found)))
