"""
The records of one index, in SQLite.

What always holds: a write is one transaction, and it is in the file when the method returns, so a killed process loses
nothing that it acknowledged; every write has a log sequence number (LSN) greater than all before it; the default
namespace is ``""``; a namespace exists as long as it holds a record; one process at a time owns a data folder.
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
from airflow_pinecone_upsert.emulator.search import Match, Query, Searchable

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
    """The data folder holds an index of another kind, or another process is using it (``database is locked``)."""


class Store:
    """
    Keeps records and finds them. Safe to share between threads.

    :param spec: What the index is.
    :param folder: Where the data live, created when absent; ``None`` keeps them in memory.
    :raises DataFolderError: The folder holds an index of another kind, or is in use.
    """

    def __init__(self, spec: IndexSpec, folder: Path | None = None) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._searchables: dict[str, Searchable] = {}
        self._connection = _connect(folder)
        try:
            self._lsn = _claim(self._connection, spec)
        except (DataFolderError, sqlite3.DatabaseError) as exc:
            self._connection.close()
            raise DataFolderError(f"{folder} cannot be used: {exc}. Choose another folder.") from exc

    @property
    def lsn(self) -> int:
        """The number of the last write; whatever is read after asking for it contains that write."""
        return self._lsn

    def upsert(self, namespace: str, rows: Sequence[Row]) -> int:
        """
        Write records over whatever has their ids.

        :param namespace: Where to.
        :param rows: The records; of those with the same id the last one stays.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            cursor.executemany(
                f"INSERT OR REPLACE INTO records (namespace, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                ((namespace, *row) for row in rows),
            )
        return self._lsn

    def change(self, namespace: str, record_id: str, change: Callable[[Row], Row]) -> int:
        """
        Change one record. Nothing happens when there is none with this id.

        :param namespace: Where it is.
        :param record_id: Its id.
        :param change: Gives the record as it is to be; what it raises leaves the record as it was.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            for row in _select(cursor, "namespace = ? AND id = ?", namespace, record_id):
                cursor.execute(
                    "UPDATE records SET dense = ?, sparse_indices = ?, sparse_values = ?, metadata = ?"
                    " WHERE namespace = ? AND id = ?",
                    (*change(row)[1:], namespace, record_id),
                )
        return self._lsn

    def delete(self, namespace: str, ids: Collection[str]) -> int:
        """
        Delete records by id. Unknown ids are no error.

        :param namespace: Where they are.
        :param ids: The ids.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            _delete(cursor, namespace, ids)
        return self._lsn

    def delete_matching(self, namespace: str, wanted: Predicate) -> int:
        """
        Delete the records whose metadata match.

        :param namespace: Where they are.
        :param wanted: Which ones.
        :return: The LSN.
        """
        with self._writing(namespace) as cursor:
            rows = cursor.execute("SELECT id, metadata FROM records WHERE namespace = ?", (namespace,)).fetchall()
            matching = [row_id for row_id, metadata in rows if wanted(orjson.loads(metadata or b"{}"))]
            _delete(cursor, namespace, matching)
        return self._lsn

    def delete_namespace(self, namespace: str) -> int | None:
        """
        Delete a namespace with all its records.

        :param namespace: Which one.
        :return: The LSN; ``None`` when there is no such namespace.
        """
        with self._writing(namespace) as cursor:
            deleted = cursor.execute("DELETE FROM records WHERE namespace = ?", (namespace,)).rowcount
        return self._lsn if deleted else None

    def counts(self) -> dict[str, int]:
        """
        Count the records of each namespace.

        :return: Counts by name, ordered by name.
        """
        with self._reading() as cursor:
            return dict(cursor.execute("SELECT namespace, count(*) FROM records GROUP BY 1 ORDER BY 1").fetchall())

    def fetch(self, namespace: str, ids: Collection[str]) -> list[Row]:
        """
        Look records up by id.

        :param namespace: Where they are.
        :param ids: The ids; unknown ones are left out of the answer.
        :return: The records, in the order in which their ids were first named.
        """
        with self._reading() as cursor:
            return [
                row
                for record_id in dict.fromkeys(ids)
                for row in _select(cursor, "namespace = ? AND id = ?", namespace, record_id)
            ]

    def ids(self, namespace: str, *, prefix: str = "", after: str = "", limit: int) -> list[str]:
        """
        List ids in their order as bytes.

        :param namespace: Where they are.
        :param prefix: What they begin with.
        :param after: Only those behind this one.
        :param limit: How many at most.
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
        Give a namespace as a whole.

        :param namespace: Which one.
        :return: Its records, ordered by id.
        """
        with self._reading() as cursor:
            return list(_select(cursor, "namespace = ? ORDER BY id", namespace))

    def search(self, namespace: str, query: Query) -> list[Match]:
        """
        Find the records nearest to a query.

        :param namespace: Where to look.
        :param query: What to look for.
        :return: The best first.
        """
        with self._reading() as cursor:
            searchable = self._searchables.get(namespace)
            if searchable is None:
                searchable = Searchable(list(_select(cursor, "namespace = ? ORDER BY id", namespace)), self.spec)
                self._searchables[namespace] = searchable
        return searchable.search(query)

    def close(self) -> None:
        """Wait for the operation under way and close. Data in memory are gone."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, closing(self._connection.cursor()) as cursor:
            yield cursor

    @contextmanager
    def _writing(self, namespace: str) -> Iterator[sqlite3.Cursor]:
        """Hold one transaction, with its LSN inside, and drop what was prepared for searching the namespace."""
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
            self._searchables.pop(namespace, None)


def _connect(folder: Path | None) -> sqlite3.Connection:
    # The lock of the store keeps threads apart; transactions are ours to begin and end.
    if folder is None:
        return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    folder.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(folder / _FILE_NAME, check_same_thread=False, isolation_level=None, timeout=0)


def _claim(connection: sqlite3.Connection, spec: IndexSpec) -> int:
    """Lock the file, and create the tables or check whose they are; give the LSN of the last write."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode this survives a killed process; only a power cut may take the last writes.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_SCHEMA)
    wanted = orjson.dumps({"format": 1, "spec": spec}).decode()
    connection.execute("INSERT OR IGNORE INTO facts VALUES ('index', ?)", (wanted,))
    facts: dict[str, Any] = dict(connection.execute("SELECT name, value FROM facts"))
    if facts["index"] != wanted:
        held = IndexSpec(**orjson.loads(facts["index"])["spec"])
        raise DataFolderError(f"it contains a {held}, not a {spec}")
    return int(facts["lsn"])


def _select(cursor: sqlite3.Cursor, condition: str, *arguments: str) -> Iterator[Row]:
    rows = cursor.execute(f"SELECT {_COLUMNS} FROM records WHERE {condition}", arguments).fetchall()  # noqa: S608 - ours
    return map(Row._make, rows)


def _delete(cursor: sqlite3.Cursor, namespace: str, ids: Collection[str]) -> None:
    cursor.executemany(
        "DELETE FROM records WHERE namespace = ? AND id = ?", ((namespace, record_id) for record_id in ids)
    )
