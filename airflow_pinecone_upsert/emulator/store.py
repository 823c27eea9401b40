"""
The records of one index, in SQLite.

Invariants:

* A write is one transaction. It is in the file when the method returns, so a killed process loses no acknowledged write.
* Every write has a log sequence number (LSN) that is greater than those of all earlier writes.
* ``counts``, ``fetch``, ``fetch_matching``, ``ids`` and ``search`` see the writes that are visible: by default all of
  them, with a lag those up to ``visible_lsn``. All other methods, and later writes, see all writes.
* The default namespace is ``""``.
* Only one process at a time can use a data folder.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from airflow_pinecone_upsert.emulator.filters import Predicate
from airflow_pinecone_upsert.emulator.records import IndexSpec, Row
from airflow_pinecone_upsert.emulator.search import Match, Query, Snapshot
from airflow_pinecone_upsert.emulator.visibility import PendingWrites, Write

_FILE_NAME: Final = "index.sqlite3"

_TABLE: Final = """(
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        dense BLOB,
        sparse_indices BLOB,
        sparse_values BLOB,
        metadata BLOB,
        PRIMARY KEY (namespace, id)
    )"""
_SCHEMA: Final = f"""
    CREATE TABLE IF NOT EXISTS records {_TABLE};
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value NOT NULL);
    INSERT OR IGNORE INTO facts VALUES ('lsn', 0);
"""  # noqa: S608 - constants, here and below
_VISIBLE_SCHEMA: Final = f"""
    BEGIN;
    CREATE TEMP TABLE visible {_TABLE};
    INSERT INTO visible SELECT * FROM records;
    COMMIT;
"""  # noqa: S608
_COLUMNS: Final = "id, dense, sparse_indices, sparse_values, metadata"


class DataFolderError(Exception):
    """The data folder contains a different kind of index, or another process uses it (``database is locked``)."""


class Store:
    """
    The records of one index. Safe to share between threads.

    :param spec: The properties of the index.
    :param folder: The data folder, created if it does not exist; ``None`` stores the records in memory.
    :param lag_s: Seconds until a write is visible to readers.
    :param clock: Returns the time in seconds.
    :raises DataFolderError: The folder contains a different kind of index, or is in use.
    :raises ValueError: The lag is negative.
    """

    def __init__(
        self,
        spec: IndexSpec,
        folder: Path | None = None,
        *,
        lag_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._pending = PendingWrites(lag_s, clock)
        self._lock = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._connection = _connect(folder)
        try:
            self._lsn = self._visible_lsn = _open_index(self._connection, spec)
            self._seen = "records"
            if lag_s:
                self._connection.executescript(_VISIBLE_SCHEMA)
                self._seen = "visible"
        except (DataFolderError, sqlite3.DatabaseError) as exc:
            self._connection.close()
            raise DataFolderError(f"{folder} cannot be used: {exc}. Choose another folder.") from exc

    @property
    def lsn(self) -> int:
        """The LSN of the last write."""
        return self._lsn

    @property
    def visible_lsn(self) -> int:
        """The LSN of the last visible write. Every later read sees that write."""
        with self._reading():
            return self._visible_lsn

    def upsert(self, namespace: str, rows: Sequence[Row]) -> int:
        """
        Write records. They replace records with the same ids.

        :param namespace: The namespace.
        :param rows: The records; the last one of the same id wins.
        :return: The LSN.
        """

        def write(cursor: sqlite3.Cursor, table: str) -> int:
            statement = f"INSERT OR REPLACE INTO {table} (namespace, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
            return cursor.executemany(statement, ((namespace, *row) for row in rows)).rowcount

        return self._write(namespace, write)[0]

    def update(self, namespace: str, record_id: str, update: Callable[[Row], Row]) -> int:
        """
        Update one record. An unknown id is ignored.

        :param namespace: The namespace.
        :param record_id: The id.
        :param update: Returns the new record. If it raises, the record stays unchanged.
        :return: The LSN.
        """

        def write(cursor: sqlite3.Cursor, table: str) -> int:
            rows = _select(cursor, table, "namespace = ? AND id = ?", namespace, record_id)
            return _update(cursor, table, namespace, list(map(update, rows)))

        return self._write(namespace, write)[0]

    def update_matching(self, namespace: str, predicate: Predicate, update: Callable[[Row], Row]) -> tuple[int, int]:
        """
        Update the records whose metadata match.

        :param namespace: The namespace.
        :param predicate: Whether metadata match.
        :param update: Returns the new record. If it raises, all records stay unchanged.
        :return: The LSN and the number of records that matched.
        """

        def write(cursor: sqlite3.Cursor, table: str) -> int:
            return _update(cursor, table, namespace, list(map(update, _matching(cursor, table, namespace, predicate))))

        return self._write(namespace, write)

    def delete(self, namespace: str, ids: Collection[str]) -> int:
        """
        Delete records by id. Unknown ids are ignored.

        :param namespace: The namespace.
        :param ids: The ids.
        :return: The LSN.
        """
        return self._write(namespace, lambda cursor, table: _delete(cursor, table, namespace, ids))[0]

    def delete_matching(self, namespace: str, predicate: Predicate) -> int:
        """
        Delete the records whose metadata match.

        :param namespace: The namespace.
        :param predicate: Whether metadata match.
        :return: The LSN.
        """

        def write(cursor: sqlite3.Cursor, table: str) -> int:
            return _delete(cursor, table, namespace, [row.id for row in _matching(cursor, table, namespace, predicate)])

        return self._write(namespace, write)[0]

    def delete_all(self, namespace: str) -> int:
        """
        Delete all records of a namespace.

        :param namespace: The namespace.
        :return: The LSN.
        """

        def write(cursor: sqlite3.Cursor, table: str) -> int:
            return cursor.execute(f"DELETE FROM {table} WHERE namespace = ?", (namespace,)).rowcount  # noqa: S608

        return self._write(namespace, write)[0]

    def namespaces(self) -> list[str]:
        """
        Return the namespaces that have a record.

        :return: Their names, in order.
        """
        with self._reading() as cursor:
            return [name for (name,) in cursor.execute("SELECT DISTINCT namespace FROM records ORDER BY 1")]

    def has_records(self, namespace: str) -> bool:
        """
        Return whether a namespace has a record.

        :param namespace: The namespace.
        :return: Whether it has one.
        """
        with self._reading() as cursor:
            found = cursor.execute("SELECT 1 FROM records WHERE namespace = ? LIMIT 1", (namespace,))
            return found.fetchone() is not None

    def counts(self) -> dict[str, int]:
        """
        Count the records of each namespace.

        :return: The counts by namespace, ordered by name.
        """
        with self._reading() as cursor:
            counts = cursor.execute(f"SELECT namespace, count(*) FROM {self._seen} GROUP BY 1 ORDER BY 1")  # noqa: S608
            return dict(counts.fetchall())

    def fetch(self, namespace: str, ids: Collection[str]) -> list[Row]:
        """
        Look up records by id.

        :param namespace: The namespace.
        :param ids: The ids; unknown ones are ignored.
        :return: The records, each once, in the order of ``ids``.
        """
        with self._reading() as cursor:
            return [
                row
                for record_id in dict.fromkeys(ids)
                for row in _select(cursor, self._seen, "namespace = ? AND id = ?", namespace, record_id)
            ]

    def fetch_matching(self, namespace: str, predicate: Predicate, *, after: str, limit: int) -> list[Row]:
        """
        Look up records by their metadata.

        :param namespace: The namespace.
        :param predicate: Whether metadata match.
        :param after: Return only records with a greater id.
        :param limit: The maximum number of records.
        :return: The records, ordered by id.
        """
        with self._reading() as cursor:
            return list(islice(_matching(cursor, self._seen, namespace, predicate, after=after), limit))

    def count_matching(self, namespace: str, predicate: Predicate) -> int:
        """
        Count the records whose metadata match, as a write finds them.

        :param namespace: The namespace.
        :param predicate: Whether metadata match.
        :return: Their number.
        """
        with self._reading() as cursor:
            return sum(1 for _ in _matching(cursor, "records", namespace, predicate))

    def ids(self, namespace: str, *, prefix: str = "", after: str = "", limit: int) -> list[str]:
        """
        List ids, sorted by their bytes.

        :param namespace: The namespace.
        :param prefix: Return only ids that start with this.
        :param after: Return only ids greater than this.
        :param limit: The maximum number of ids.
        :return: The ids.
        """
        with self._reading() as cursor:
            found = cursor.execute(
                f"SELECT id FROM {self._seen} WHERE namespace = ? AND id > ? AND id >= ? AND substr(id, 1, ?) = ?"  # noqa: S608
                " ORDER BY id LIMIT ?",
                (namespace, after, prefix, len(prefix), prefix, limit),
            )
            return [record_id for (record_id,) in found]

    def rows(self, namespace: str) -> list[Row]:
        """
        Return all records of a namespace, also those that are not visible yet.

        :param namespace: The namespace.
        :return: The records, ordered by id.
        """
        with self._reading() as cursor:
            return _select_all(cursor, "records", namespace)

    def search(self, namespace: str, query: Query) -> list[Match]:
        """
        Find the records nearest to a query.

        :param namespace: The namespace.
        :param query: The query.
        :return: The matches, best first.
        """
        with self._reading() as cursor:
            snapshot = self._snapshots.get(namespace)
            if snapshot is None:
                rows = _select_all(cursor, self._seen, namespace)
                snapshot = self._snapshots[namespace] = Snapshot(rows, self.spec)
        return snapshot.search(query)

    def load(self, name: str) -> Any:
        """
        Return a fact about the index.

        :param name: The name of the fact.
        :return: What ``save`` stored, or ``None``.
        """
        with self._lock:
            found = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else orjson.loads(found[0])

    def save(self, name: str, value: object) -> None:
        """
        Store a fact about the index.

        :param name: The name of the fact.
        :param value: Anything that is JSON.
        """
        with self._lock:
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, orjson.dumps(value)))

    def close(self) -> None:
        """Wait for the operation in progress and close. Records in memory are lost."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, closing(self._connection.cursor()) as cursor:
            for pending in self._pending.take_due():
                with _transaction(cursor):
                    pending.write(cursor, self._seen)
                self._visible_lsn = pending.lsn
                self._snapshots.pop(pending.namespace, None)
            yield cursor

    def _write(self, namespace: str, write: Write) -> tuple[int, int]:
        """Run one transaction, which includes the new LSN. Return the LSN and the number of records found."""
        with self._lock, closing(self._connection.cursor()) as cursor:
            with _transaction(cursor):
                found = write(cursor, "records")
                cursor.execute("UPDATE facts SET value = ? WHERE name = 'lsn'", (self._lsn + 1,))
            self._lsn += 1
            if self._pending.lag_s:
                self._pending.add(self._lsn, namespace, write)
            else:
                self._visible_lsn = self._lsn
                self._snapshots.pop(namespace, None)
            return self._lsn, found


@contextmanager
def _transaction(cursor: sqlite3.Cursor) -> Iterator[None]:
    cursor.execute("BEGIN IMMEDIATE")
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        cursor.execute("ROLLBACK")
        raise


def _connect(folder: Path | None) -> sqlite3.Connection:
    # The store's lock serializes threads, and the store begins and commits its transactions.
    if folder is None:
        return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    folder.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(folder / _FILE_NAME, check_same_thread=False, isolation_level=None, timeout=0)


def _open_index(connection: sqlite3.Connection, spec: IndexSpec) -> int:
    """Lock the file, create the tables or check that they belong to this kind of index, and return the last LSN."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode this survives a killed process; only a power failure can lose the last writes.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_SCHEMA)
    expected = orjson.dumps({"format": 1, "spec": spec}).decode()
    connection.execute("INSERT OR IGNORE INTO facts VALUES ('index', ?)", (expected,))
    facts: dict[str, Any] = dict(connection.execute("SELECT name, value FROM facts"))
    if facts["index"] != expected:
        stored = IndexSpec(**orjson.loads(facts["index"])["spec"])
        raise DataFolderError(f"it contains a {stored}, not a {spec}")
    return int(facts["lsn"])


# The names of tables and columns in the statements below are constants of this module.


def _select(cursor: sqlite3.Cursor, table: str, condition: str, *arguments: str) -> Iterator[Row]:
    rows = cursor.execute(f"SELECT {_COLUMNS} FROM {table} WHERE {condition}", arguments).fetchall()  # noqa: S608
    return map(Row._make, rows)


def _select_all(cursor: sqlite3.Cursor, table: str, namespace: str) -> list[Row]:
    return list(_select(cursor, table, "namespace = ? ORDER BY id", namespace))


def _matching(
    cursor: sqlite3.Cursor, table: str, namespace: str, predicate: Predicate, *, after: str = ""
) -> Iterator[Row]:
    for row in _select(cursor, table, "namespace = ? AND id > ? ORDER BY id", namespace, after):
        if predicate(orjson.loads(row.metadata or b"{}")):
            yield row


def _update(cursor: sqlite3.Cursor, table: str, namespace: str, rows: Sequence[Row]) -> int:
    cursor.executemany(
        f"UPDATE {table} SET dense = ?, sparse_indices = ?, sparse_values = ?, metadata = ?"  # noqa: S608
        " WHERE namespace = ? AND id = ?",
        ((*row[1:], namespace, row.id) for row in rows),
    )
    return len(rows)


def _delete(cursor: sqlite3.Cursor, table: str, namespace: str, ids: Collection[str]) -> int:
    statement = f"DELETE FROM {table} WHERE namespace = ? AND id = ?"  # noqa: S608
    return cursor.executemany(statement, ((namespace, record_id) for record_id in ids)).rowcount
