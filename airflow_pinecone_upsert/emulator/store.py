"""
The records of one index, in SQLite.

Invariants:

* A write is one transaction. It is in the file when the method returns, so a killed process loses no acknowledged write.
* Every write has a log sequence number (LSN) that is greater than those of all earlier writes.
* The default namespace is ``""``. A namespace exists as long as it has a record.
* Only one process at a time can use a data folder.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from airflow_pinecone_upsert.emulator.filters import Predicate
from airflow_pinecone_upsert.emulator.records import IndexSpec, Row
from airflow_pinecone_upsert.emulator.search import Match, Query, Snapshot

_FILE_NAME: Final = "index.sqlite3"

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS records (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        dense BLOB,
        sparse_indices BLOB,
        sparse_values BLOB,
        metadata BLOB,
        PRIMARY KEY (namespace, id)
    );
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value NOT NULL);
    INSERT OR IGNORE INTO facts VALUES ('lsn', 0);
"""
_COLUMNS: Final = "id, dense, sparse_indices, sparse_values, metadata"


class DataFolderError(Exception):
    """The data folder contains a different kind of index, or another process uses it (``database is locked``)."""


class Store:
    """
    The records of one index. Safe to share between threads.

    :param spec: The properties of the index.
    :param folder: The data folder, created if it does not exist; ``None`` stores the records in memory.
    :raises DataFolderError: The folder contains a different kind of index, or is in use.
    """

    def __init__(self, spec: IndexSpec, folder: Path | None = None) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._connection = _connect(folder)
        try:
            self._lsn = _open_index(self._connection, spec)
        except (DataFolderError, sqlite3.DatabaseError) as exc:
            self._connection.close()
            raise DataFolderError(f"{folder} cannot be used: {exc}. Choose another folder.") from exc

    @property
    def lsn(self) -> int:
        """The LSN of the last write. Every later read sees that write."""
        return self._lsn

    def upsert(self, namespace: str, rows: Sequence[Row]) -> int:
        """
        Write records. They replace records with the same ids.

        :param namespace: The namespace.
        :param rows: The records; the last one of the same id wins.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            cursor.executemany(
                f"INSERT OR REPLACE INTO records (namespace, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                ((namespace, *row) for row in rows),
            )
        return self._lsn

    def update(self, namespace: str, record_id: str, update: Callable[[Row], Row]) -> int:
        """
        Update one record. An unknown id is ignored.

        :param namespace: The namespace.
        :param record_id: The id.
        :param update: Returns the new record. If it raises, the record stays unchanged.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            for row in _select(cursor, "namespace = ? AND id = ?", namespace, record_id):
                cursor.execute(
                    "UPDATE records SET dense = ?, sparse_indices = ?, sparse_values = ?, metadata = ?"
                    " WHERE namespace = ? AND id = ?",
                    (*update(row)[1:], namespace, record_id),
                )
        return self._lsn

    def delete(self, namespace: str, ids: Collection[str]) -> int:
        """
        Delete records by id. Unknown ids are ignored.

        :param namespace: The namespace.
        :param ids: The ids.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            _delete(cursor, namespace, ids)
        return self._lsn

    def delete_matching(self, namespace: str, predicate: Predicate) -> int:
        """
        Delete the records whose metadata match.

        :param namespace: The namespace.
        :param predicate: Whether metadata match.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            rows = cursor.execute("SELECT id, metadata FROM records WHERE namespace = ?", (namespace,)).fetchall()
            matching = [row_id for row_id, metadata in rows if predicate(orjson.loads(metadata or b"{}"))]
            _delete(cursor, namespace, matching)
        return self._lsn

    def delete_namespace(self, namespace: str) -> int | None:
        """
        Delete a namespace with all its records.

        :param namespace: The namespace.
        :return: The LSN; ``None`` if the namespace does not exist.
        """
        with self._writing(namespace) as cursor:
            deleted = cursor.execute("DELETE FROM records WHERE namespace = ?", (namespace,)).rowcount
        return self._lsn if deleted else None

    def counts(self) -> dict[str, int]:
        """
        Count the records of each namespace.

        :return: The counts by namespace, ordered by name.
        """
        with self._reading() as cursor:
            return dict(cursor.execute("SELECT namespace, count(*) FROM records GROUP BY 1 ORDER BY 1").fetchall())

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
                for row in _select(cursor, "namespace = ? AND id = ?", namespace, record_id)
            ]

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
                "SELECT id FROM records WHERE namespace = ? AND id > ? AND id >= ? AND substr(id, 1, ?) = ?"
                " ORDER BY id LIMIT ?",
                (namespace, after, prefix, len(prefix), prefix, limit),
            )
            return [record_id for (record_id,) in found]

    def rows(self, namespace: str) -> list[Row]:
        """
        Return all records of a namespace.

        :param namespace: The namespace.
        :return: The records, ordered by id.
        """
        with self._reading() as cursor:
            return _select_all(cursor, namespace)

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
                snapshot = self._snapshots[namespace] = Snapshot(_select_all(cursor, namespace), self.spec)
        return snapshot.search(query)

    def close(self) -> None:
        """Wait for the operation in progress and close. Records in memory are lost."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, closing(self._connection.cursor()) as cursor:
            yield cursor

    @contextmanager
    def _writing(self, namespace: str) -> Iterator[sqlite3.Cursor]:
        """Run one transaction, which includes the new LSN, and drop the snapshot of the namespace."""
        with self._lock, closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("UPDATE facts SET value = ? WHERE name = 'lsn'", (self._lsn + 1,))
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            self._lsn += 1
            self._snapshots.pop(namespace, None)


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


def _select(cursor: sqlite3.Cursor, condition: str, *arguments: str) -> Iterator[Row]:
    rows = cursor.execute(f"SELECT {_COLUMNS} FROM records WHERE {condition}", arguments).fetchall()  # noqa: S608 - constants
    return map(Row._make, rows)


def _select_all(cursor: sqlite3.Cursor, namespace: str) -> list[Row]:
    return list(_select(cursor, "namespace = ? ORDER BY id", namespace))


def _delete(cursor: sqlite3.Cursor, namespace: str, ids: Collection[str]) -> None:
    cursor.executemany(
        "DELETE FROM records WHERE namespace = ? AND id = ?", ((namespace, record_id) for record_id in ids)
    )
