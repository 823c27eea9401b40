"""
Bulk imports: records that the service reads from files itself.

https://docs.pinecone.io/guides/index-data/import-data

An import takes as long as the index is configured for. It is ``Pending`` for the first tenth of that time, ``InProgress``
until the end, at 100 % for the last fifth, as the real service often is. Its files are read, and its records are written,
when the first request after that time arrives.

Invariants:

* The namespaces of an import must not exist. Those that were filled before the import failed remain, so a second import of
  the same files fails.
* Within a namespace, a record with the same values as an earlier one is invalid.
* An invalid record fails the import if the error mode is ``abort``, and is left out without a trace if it is ``continue``.
* Imports are forgotten when the emulator stops.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import limits, rules
from airflow_pinecone_upsert.emulator.import_files import ImportFailedError, ImportFolder
from airflow_pinecone_upsert.emulator.names import Names, timestamp
from airflow_pinecone_upsert.emulator.paging import page_limit, page_start, pagination
from airflow_pinecone_upsert.emulator.records import IndexSpec, Row
from airflow_pinecone_upsert.emulator.responses import json_response
from airflow_pinecone_upsert.emulator.rules import ApiError, Message
from airflow_pinecone_upsert.emulator.store import Store

_START_FIELDS: Final = frozenset({"uri", "integrationId", "errorMode"})
_ERROR_MODE_FIELDS: Final = frozenset({"onError"})
_ERROR_MODES: Final = ("abort", "continue")
_PENDING_SHARE: Final = 0.1
_READ_SHARE: Final = 0.8


@dataclass
class Import:
    """
    One import.

    :param id: Its id, a number.
    :param uri: The folder with one folder per namespace.
    :param aborts: Whether an invalid record fails it.
    :param started_at: When it was started, in seconds.
    :param created_at: The same in RFC 3339.
    """

    id: str
    uri: str
    aborts: bool
    started_at: float
    created_at: str
    status: str = "Pending"
    percent_complete: float = 0.0
    imported: int = 0
    finished_at: str | None = None
    error: str | None = None
    folder: ImportFolder | None = None
    namespaces: frozenset[str] = frozenset()

    @property
    def is_finished(self) -> bool:
        """Whether its status is final."""
        return self.finished_at is not None

    def finish(self, status: str, error: str | None = None) -> None:
        """
        Set the final status.

        :param status: The status.
        :param error: Why it failed.
        """
        self.status, self.error, self.finished_at = status, error, timestamp()

    def description(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "id": self.id,
            "uri": self.uri,
            "status": self.status,
            "createdAt": self.created_at,
            **({} if self.finished_at is None else {"finishedAt": self.finished_at}),
            "percentComplete": self.percent_complete,
            "recordsImported": self.imported,
            **({} if self.error is None else {"error": self.error}),
        }


class ImportOperations:
    """
    The operations on the imports of one index, named as in Pinecone's OpenAPI file.

    :param store: The records.
    :param names: The namespaces and aliases.
    :param duration_s: How many seconds an import takes; the real service needs at least ten minutes.
    :param clock: Returns the time in seconds.
    :raises ValueError: The duration is negative.
    """

    def __init__(
        self, store: Store, names: Names, *, duration_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not duration_s >= 0:
            raise ValueError(f"The duration of an import must not be negative, but is {duration_s:g} seconds.")
        self._store = store
        self._names = names
        self._duration_s = duration_s
        self._clock = clock
        self._imports: dict[str, Import] = {}

    def start_bulk_import(self, _: Request, body: bytes) -> Response:
        """Start an import."""
        message = Message.parse(body, _START_FIELDS)
        uri = message.text("uri")
        if not 1 <= len(uri) <= limits.MAX_IMPORT_URI_LENGTH:
            raise ApiError(f"uri must be 1 to {limits.MAX_IMPORT_URI_LENGTH} characters, but got {len(uri)}")
        if "\0" in uri:
            raise ApiError("uri must not contain null character")
        started = Import(str(len(self._imports) + 1), uri, _aborts(message), self._clock(), timestamp())
        self._imports[started.id] = started
        return json_response({"id": started.id})

    def list_bulk_imports(self, request: Request, _: bytes) -> Response:
        """Return a page of imports, in the order of their start."""
        limit = page_limit(request.query_params)
        ids = list(self._imports)
        if after := page_start(request.query_params.get("paginationToken", "")):
            ids = ids[ids.index(after) + 1 if after in ids else len(ids) :]
        data = [self._imports[import_id].description() for import_id in ids[:limit]]
        return json_response({"data": data, **pagination(ids, limit)})

    def describe_bulk_import(self, request: Request, _: bytes) -> Response:
        """Return an import."""
        return json_response(self._existing(request).description())

    def cancel_bulk_import(self, request: Request, _: bytes) -> Response:
        """Cancel an import. A finished one stays as it is."""
        cancelled = self._existing(request)
        if not cancelled.is_finished:
            cancelled.finish("Cancelled")
            self._names.importing -= cancelled.namespaces
        return json_response({})

    def advance(self) -> None:
        """Bring the imports to the state of this moment. Every request does so before anything else."""
        now = self._clock()
        for running in self._imports.values():
            if not running.is_finished:
                self._advance(running, now)

    def _advance(self, running: Import, now: float) -> None:
        share = (now - running.started_at) / self._duration_s if self._duration_s else 1.0
        if share < _PENDING_SHARE:
            return
        try:
            folder = running.folder or self._begin(running)
            running.percent_complete = min(100 * (share - _PENDING_SHARE) / (_READ_SHARE - _PENDING_SHARE), 100.0)
            if share >= 1:
                self._run(running, folder)
                running.finish("Completed")
        except ImportFailedError as exc:
            running.finish("Failed", str(exc))
        if running.is_finished:
            self._names.importing -= running.namespaces

    def _begin(self, running: Import) -> ImportFolder:
        folder = ImportFolder.open(running.uri)
        namespaces = {name: self._writable(name) for name in folder.paths}
        for name, namespace in namespaces.items():
            if namespace in self._names.importing or self._names.exists(namespace):
                raise ImportFailedError(f"Namespace '{name}' already exists. Import needs namespaces that do not exist")
        folder.check_columns(self._store.spec)
        running.status, running.folder, running.namespaces = "InProgress", folder, frozenset(namespaces.values())
        self._names.importing |= running.namespaces
        return folder

    def _run(self, running: Import, folder: ImportFolder) -> None:
        for name in folder.paths:
            namespace = self._writable(name)
            seen: set[bytes] = set()
            for vectors in folder.batches(name):
                rows = []
                for vector in vectors:
                    try:
                        rows.append(_new_row(vector, self._store.spec, seen))
                    except ApiError as exc:
                        if running.aborts:
                            raise ImportFailedError(f"Invalid record: {exc.message}") from exc
                self._store.upsert(namespace, rows)
                running.imported += len(rows)

    def _writable(self, name: str) -> str:
        try:
            return self._names.writable(name, creates=True)
        except ApiError as exc:
            raise ImportFailedError(exc.message) from exc

    def _existing(self, request: Request) -> Import:
        found = self._imports.get(request.path_params["import"])
        if found is None:
            raise ApiError("Import not found", status=404, code=rules.NOT_FOUND)
        return found


def _new_row(vector: Mapping[str, Any], spec: IndexSpec, seen: set[bytes]) -> Row:
    """Validate a record, and that its values are not among those ``seen``, which it adds them to."""
    row = rules.parse_record(vector, spec)
    # Digests, because the values of a whole namespace may not fit into memory.
    parts = (row.values, row.sparse_indices, row.sparse_values)
    digest = hashlib.blake2b(b"|".join(part or b"" for part in parts), digest_size=16).digest()
    if digest in seen:
        raise ApiError(f"Vector ID '{row.id}' has the same values as another record of its namespace")
    seen.add(digest)
    return row


def _aborts(message: Message) -> bool:
    """Return whether an invalid record fails the import. The default is that of Pinecone's SDK for Python."""
    mode = message.message("errorMode", _ERROR_MODE_FIELDS)
    on_error = "" if mode is None else mode.text("onError")
    if on_error and on_error not in _ERROR_MODES:
        raise ApiError(f"errorMode.onError must be one of {', '.join(_ERROR_MODES)}, but got '{on_error}'")
    return on_error == "abort"
