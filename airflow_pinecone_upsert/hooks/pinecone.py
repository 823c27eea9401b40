"""The hook: creates the client of an index from an Airflow connection, and runs upserts and reindexing with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow.sdk import BaseHook
from typing_extensions import Self, Unpack

from airflow_pinecone_upsert.api.limits import CONTROL_PLANE_URL, MAX_CALL_ATTEMPTS
from airflow_pinecone_upsert.hooks import connection_form
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_pinecone_upsert.api.http import ClientSettings
    from airflow_pinecone_upsert.api.models import IndexStats, Match, NamespaceAlias, NamespaceDescription, Record
    from airflow_pinecone_upsert.client import IndexClient
    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.delete.report import DeletionReport
    from airflow_pinecone_upsert.pipeline.delete.selection import Selection
    from airflow_pinecone_upsert.pipeline.freshness import Freshness
    from airflow_pinecone_upsert.pipeline.observer import Observer
    from airflow_pinecone_upsert.pipeline.options import UpsertOptions, UpsertParameters
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.report import UpsertReport
    from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore
    from airflow_pinecone_upsert.reindex.options import ReindexOptions, ReindexParameters
    from airflow_pinecone_upsert.reindex.report import ReindexReport
    from airflow_pinecone_upsert.reindex.swap_options import SwapParameters, SwapReport

_TEST_TIMEOUT_S: Final = 10.0
"""For *Test* in the UI, because the user waits for it."""

_MASK: Final = "***"


@dataclass(frozen=True)
class _Connection:
    """The parts of an Airflow connection that the hook uses. The repr of Airflow's class shows the password."""

    host: str | None
    port: int | None
    password: str | None = field(repr=False)
    extra_dejson: dict[str, Any] = field(repr=False)  # may contain a proxy's password


class PineconeHook(BaseHook):
    """
    One Pinecone index, as an Airflow connection describes it.

    The connection's host is the index's own host, its password the API key. The extra may hold ``namespace``,
    ``index_name`` (its host is looked up once), ``transport``, ``api_version``, ``timeout_s``, ``total_timeout_s``, ``proxy``,
    ``ca_bundle``, ``allowed_host_suffixes``, ``control_plane_url`` and ``grpc_port``. A connection of the official provider's type ``pinecone`` works as it is.

    The client is created when it is first needed; :meth:`close`, or the end of a ``with`` block, closes it.

    :param pinecone_conn_id: The Airflow connection.
    :param index_host: Instead of the connection's host.
    :param index_name: Instead of the connection's host: the index whose host is looked up.
    :param check_index_host: Whether ``index_host`` comes from outside the DAG's code, such as from the parameters of a DAG
        run, so that it must be Pinecone's or one that the connection allows.
    """

    conn_name_attr = "pinecone_conn_id"
    default_conn_name = "pinecone_default"
    conn_type = "pinecone_upsert"
    hook_name = "Pinecone (upsert)"

    def __init__(
        self,
        pinecone_conn_id: str = default_conn_name,
        *,
        index_host: str | None = None,
        index_name: str | None = None,
        check_index_host: bool = False,
    ) -> None:
        super().__init__()
        self.pinecone_conn_id = pinecone_conn_id
        self._index_host = index_host
        self._index_name = index_name
        self._check_index_host = check_index_host
        self._subject = f"Connection {pinecone_conn_id!r}"
        self._client: IndexClient | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form, for Airflow before 3.2; later versions read the provider's metadata."""
        return connection_form.widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return labels and placeholders of the standard fields, for Airflow before 3.2."""
        return connection_form.behaviour()

    @cached_property
    def _connection(self) -> _Connection:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        from airflow_pinecone_upsert.exceptions import SetupError

        try:
            found = self.get_connection(self.pinecone_conn_id)
        except AirflowNotFoundException as exc:
            raise SetupError(
                f"There is no connection {self.pinecone_conn_id!r}. Add it in Airflow's UI, under Admin, Connections, or "
                "name another one with pinecone_conn_id."
            ) from exc
        return _Connection(found.host, found.port, found.password, found.extra_dejson)

    @property
    def _extra(self) -> dict[str, Any]:
        """The connection's extra, without the fields of the form that were left empty."""
        from airflow_pinecone_upsert.exceptions import SetupError

        extra = self._connection.extra_dejson
        if not isinstance(extra, dict):
            raise SetupError(f'{self._subject} has an extra that is not a JSON object, such as {{"timeout_s": 30}}.')
        return {key: value for key, value in extra.items() if value not in (None, "")}

    @property
    def default_namespace(self) -> str:
        """The connection's namespace, used where none is given; ``""`` is Pinecone's default one."""
        return str(self._extra.get("namespace", ""))

    def get_conn(self) -> IndexClient:
        """
        Return the client of the index, the same one each time until :meth:`close`.

        :raises SetupError: The connection does not name an index, has no key, or has an unusable host.
        """
        if self._client is None:
            self._client = self._connect(self._settings())
        return self._client

    def close(self) -> None:
        """Close the client, if there is one. The next call creates another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        """Return the hook itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def _connect(self, settings: ClientSettings, *, attempts: int = MAX_CALL_ATTEMPTS) -> IndexClient:
        from airflow_pinecone_upsert.client import IndexClient

        return IndexClient(self._find_host(settings, attempts), settings, attempts=attempts)

    def _settings(self) -> ClientSettings:
        from pydantic import SecretStr, ValidationError

        from airflow_pinecone_upsert.api.http import ClientSettings
        from airflow_pinecone_upsert.exceptions import SetupError

        # Masked at once: some tools report an error together with the variables of its frames.
        key = SecretStr((self._connection.password or "").strip())
        if not key:
            raise SetupError(f"{self._subject} has no password. Put the Pinecone API key there.")
        if key.get_secret_value() == _MASK:
            raise SetupError(
                f"{self._subject} has Airflow's mask {_MASK} instead of the API key. Enter the key again. If this came "
                "from Test in the UI of an Airflow 3.1: some of its releases pass the mask on; use a task instead."
            )
        names = [name for name in ClientSettings.model_fields if name in self._extra]
        try:
            return ClientSettings(**{**{name: self._extra[name] for name in names}, "api_key": key})
        except ValidationError as exc:
            wrong = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        # Not in the except block: pydantic's frames, which contain the password of a proxy, would stay attached.
        raise SetupError(f"{self._subject} has an extra that is invalid: {wrong}.")

    def _find_host(self, settings: ClientSettings, attempts: int) -> str:
        from airflow_pinecone_upsert.api.hosts import is_control_plane
        from airflow_pinecone_upsert.client import describe_index
        from airflow_pinecone_upsert.exceptions import SetupError

        if self._index_host:
            if self._check_index_host:
                self._check_host(self._index_host, settings)
            return self._index_host
        host, port = self._connection.host or "", self._connection.port
        if not self._index_name and host and not is_control_plane(host):
            return _with_port(host, port)
        name = self._index_name or self._extra.get("index_name")
        if not name:
            found = f"its host {host!r} is the control plane's" if host else "its host is empty"
            raise SetupError(
                f"{self._subject} names no index ({found}). Set its host to the index's own host "
                "(https://….pinecone.io, from the console), or name the index with index_host or index_name."
            )
        return describe_index(str(name), settings, control_plane_url=self._control_plane_url, attempts=attempts).host

    @property
    def _control_plane_url(self) -> str:
        return str(self._extra.get("control_plane_url", CONTROL_PLANE_URL))

    def _check_host(self, host: str, settings: ClientSettings) -> None:
        """
        Check a host that neither the connection nor the DAG's code names.

        :raises SetupError: It is not Pinecone's, nor the connection's own, nor allowed. A host on this machine is allowed
            where the connection itself is for this machine, as for an emulator.
        """
        from airflow_pinecone_upsert.api.hosts import check_allowed, have_one_host, index_url, is_loopback

        url = index_url(host)
        own = [index_url(one) for one in (self._connection.host, self._control_plane_url) if one]
        is_local = is_loopback(url) and any(map(is_loopback, own))
        if not is_local and not any(have_one_host(url, one) for one in own):
            check_allowed(url, settings.allowed_host_suffixes, chosen_by="The rendered index_host")

    def upsert(
        self,
        records: Any = None,
        *,
        parquet_paths: Any = None,
        namespace: str | None = None,
        rejects_path: str | ObjectStoragePath | None = None,
        **parameters: Unpack[UpsertParameters],
    ) -> UpsertReport:
        """
        Upsert records from inside a task, as the operator does.

        :param records: A list of dicts or tuples ``(id, values[, metadata])``, a pandas DataFrame, a pyarrow Table, or
            an iterable (also a generator) of any of these, which is read while its records are sent.
        :param parquet_paths: Instead of ``records``: files, folders or globs, as in the operator.
        :param namespace: None for the connection's.
        :param rejects_path: Where rejected records are written, as in the operator.
        :param parameters: As in the operator: ``batch_size``, ``max_concurrency``, ``id_column`` …
        :return: What the server confirmed.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.pipeline.run.upsert`.
        """
        options = self.upsert_options(namespace, **parameters)
        source = self._source("upsert()", records, parquet_paths, rejects_path, options)
        return self.upsert_source(source, options, rejects_path=rejects_path)

    def _source(
        self,
        caller: str,
        records: Any,
        parquet_paths: Any,
        rejects_path: str | ObjectStoragePath | None,
        options: UpsertOptions,
    ) -> RecordSource:
        """Return the records that a method of the hook was given, and report them to Airflow's hook lineage."""
        from airflow_pinecone_upsert.exceptions import SetupError
        from airflow_pinecone_upsert.lineage import report_to_hook_lineage
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import check_rejects_path, parquet_source

        if (records is None) == (parquet_paths is None):
            raise SetupError(f"{caller} takes exactly one of records and parquet_paths.")
        source: RecordSource
        if parquet_paths is None:
            source = InMemorySource(records, options, origin=caller)
        else:
            check_rejects_path(rejects_path, parquet_paths, options)
            source = parquet_source(parquet_paths, options)
        report_to_hook_lineage(self, source, self.get_conn().host, options.only_namespace)
        return source

    def upsert_options(self, namespace: str | None = None, **parameters: Unpack[UpsertParameters]) -> UpsertOptions:
        """
        Validate the options of an upsert.

        :param namespace: None for the connection's.
        :param parameters: The others.
        :raises SetupError: An option is invalid. The message names every invalid one, with its value.
        """
        from airflow_pinecone_upsert.pipeline.options import UpsertOptions

        parameters["transport"] = self._transport(parameters.get("transport"))
        return UpsertOptions.checked(self._or_default(namespace), **parameters)

    def upsert_source(  # noqa: PLR0913 - the parts of a run
        self,
        source: RecordSource,
        options: UpsertOptions,
        *,
        rejects_path: str | ObjectStoragePath | None = None,
        state: StateStore | None = None,
        cancellation: CancellationToken | None = None,
        observers: Sequence[Observer] = (),
    ) -> UpsertReport:
        """
        Upsert the records of a source, with metrics and a span. The operators and :meth:`upsert` share it.

        :param source: The records.
        :param options: See :meth:`upsert_options`.
        :param rejects_path: As for :meth:`upsert`.
        :param state: Where the checkpoint is stored; None for no checkpoint.
        :param cancellation: Ends the run early.
        :param observers: Called for each attempt, and at the end.
        :return: What the server confirmed.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.pipeline.run.upsert`.
        """
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.pipeline.run import upsert
        from airflow_pinecone_upsert.storage import rejects_folder
        from airflow_pinecone_upsert.supervisor import cancellation_token
        from airflow_pinecone_upsert.telemetry import UpsertTelemetry

        cancellation = cancellation or cancellation_token()
        folder = rejects_folder(rejects_path) if rejects_path else None
        client = call_in_background(self.get_conn, cancellation)
        with UpsertTelemetry(client.host, options.only_namespace) as telemetry:
            return upsert(
                source,
                client,
                options,
                rejects_folder=folder,
                state=state,
                cancellation=cancellation,
                observers=[telemetry, *observers],
            )

    def reindex(
        self,
        records: Any = None,
        *,
        manifest_path: str | ObjectStoragePath,
        parquet_paths: Any = None,
        namespace: str | None = None,
        rejects_path: str | ObjectStoragePath | None = None,
        **parameters: Unpack[ReindexParameters],
    ) -> ReindexReport:
        """
        Make a namespace equal to its source from inside a task, as the operator does: send what changed, delete what vanished.

        :param records: As for :meth:`upsert`: all records that the namespace is to hold; with ``namespace_column``, all records
            of all namespaces.
        :param manifest_path: The folder of the manifest, as in the operator.
        :param parquet_paths: Instead of ``records``, as for :meth:`upsert`.
        :param namespace: None for the connection's.
        :param rejects_path: Where rejected records are written, as in the operator.
        :param parameters: As in the operator: ``max_delete_fraction``, ``audit``, ``batch_size``, ``id_column`` …
        :return: What the server confirmed; for a dry run, what would be done.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.reindex.run.reindex`.
        """
        from airflow_pinecone_upsert.storage import check_manifest_path

        options = self.reindex_options(namespace, **parameters)
        if parquet_paths is not None:
            check_manifest_path(manifest_path, parquet_paths, options)
        source = self._source("reindex()", records, parquet_paths, rejects_path, options)
        return self.reindex_source(source, options, manifest_path=manifest_path, rejects_path=rejects_path)

    def reindex_options(self, namespace: str | None = None, **parameters: Unpack[ReindexParameters]) -> ReindexOptions:
        """
        Validate the options of a reindexing run.

        :param namespace: None for the connection's.
        :param parameters: The others.
        :raises SetupError: An option is invalid. The message names every invalid one, with its value.
        """
        from airflow_pinecone_upsert.reindex.options import ReindexOptions

        _check_that_digests_can_be_computed()
        parameters["transport"] = self._transport(parameters.get("transport"))
        return ReindexOptions.checked(self._or_default(namespace), **parameters)

    def reindex_source(  # noqa: PLR0913 - the parts of a run
        self,
        source: RecordSource,
        options: ReindexOptions,
        *,
        manifest_path: str | ObjectStoragePath,
        rejects_path: str | ObjectStoragePath | None = None,
        state: StateStore | None = None,
        cancellation: CancellationToken | None = None,
        observers: Sequence[Observer] = (),
    ) -> ReindexReport:
        """
        Make namespaces equal to a source, with metrics and a span. The operators and :meth:`reindex` share it.

        :param source: The records.
        :param options: See :meth:`reindex_options`.
        :param manifest_path: As for :meth:`reindex`.
        :param rejects_path: As for :meth:`reindex`.
        :param state: Where the progress is shown; None for nowhere.
        :param cancellation: Ends the run early.
        :param observers: Called for each attempt, and at the end.
        :return: What was done; for a dry run, what would be done.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.reindex.run.reindex`.
        """
        from airflow_pinecone_upsert.hooks.reindexing import log_forecast, open_manifest, target_of
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.reindex.run import reindex
        from airflow_pinecone_upsert.storage import manifest_folder, rejects_folder
        from airflow_pinecone_upsert.supervisor import cancellation_token
        from airflow_pinecone_upsert.telemetry import UpsertTelemetry

        cancellation = cancellation or cancellation_token("reindexing")
        folder = manifest_folder(manifest_path)
        rejects = rejects_folder(rejects_path) if rejects_path else None
        client = call_in_background(self.get_conn, cancellation)
        target = target_of(client.host, options)
        with (
            UpsertTelemetry(client.host, options.only_namespace, operation="reindex") as telemetry,
            open_manifest(folder, target, is_dry_run=options.dry_run) as (manifest, keep_lease),
        ):
            report = reindex(
                source,
                client,
                options,
                manifest,
                manifest_path=folder.url,
                rejects_folder=rejects,
                state=state,
                cancellation=cancellation,
                observers=[telemetry, *observers],
                on_turn=keep_lease,
            )
        if options.dry_run:
            log_forecast(report, options)
        return report

    def freshness(
        self, namespace: str | None = None, *, lsn: int | None = None, min_records: int | None = None
    ) -> Freshness:
        """
        Return what polls a namespace until it shows what was written.

        :param namespace: None for the connection's.
        :param lsn: The log sequence number of the last write: ``lsn`` of an upsert's output.
        :param min_records: The namespace must also hold at least so many records.
        """
        from airflow_pinecone_upsert.pipeline.freshness import Freshness, Goal

        return Freshness(self.get_conn(), Goal(self._or_default(namespace), lsn, min_records), time.monotonic)

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts. Counts lag behind writes by seconds."""
        return self.get_conn().describe_index_stats()

    def fetch(self, ids: Sequence[str], *, namespace: str | None = None) -> dict[str, Record]:
        """
        Return the records with these ids, by id. Unknown ids are absent.

        :param ids: Any number.
        :param namespace: None for the connection's.
        """
        return self.get_conn().fetch(ids, namespace=self._or_default(namespace))

    def list_ids(self, *, prefix: str = "", namespace: str | None = None) -> Iterator[str]:
        """
        Yield the ids of a namespace, page by page.

        :param prefix: Only ids that begin with it.
        :param namespace: None for the connection's.
        """
        return self.get_conn().list_ids(prefix=prefix, namespace=self._or_default(namespace))

    def query(  # noqa: PLR0913 - the API's own parameters
        self,
        *,
        vector: Any = None,
        id: str | None = None,  # noqa: A002 - the API's word
        sparse_vector: Any = None,
        top_k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        include_values: bool = False,
        include_metadata: bool = False,
        namespace: str | None = None,
    ) -> list[Match]:
        """
        Return the nearest records, best first.

        :param vector: Components of a dense query, finite: a list, a numpy or Arrow array, or a Series of pandas or
            Polars. Shape (dimension,).
        :param id: Instead of ``vector``: the id of a record whose vector is used.
        :param sparse_vector: ``{"indices": …, "values": …}``, each in one of these forms, or ``SparseValues``.
        :param top_k: 1 to 10,000.
        :param filter: A filter on metadata, such as ``{"year": {"$gte": 2020}}``.
        :param include_values: Also return the vectors.
        :param include_metadata: Also return the metadata.
        :param namespace: None for the connection's.
        """
        return self.get_conn().query(
            vector=vector,
            id=id,
            sparse_vector=sparse_vector,
            top_k=top_k,
            filter=filter,
            include_values=include_values,
            include_metadata=include_metadata,
            namespace=self._or_default(namespace),
        )

    def delete(
        self,
        *,
        ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        delete_all: bool = False,
        namespace: str | None = None,
    ) -> None:
        """
        Delete records of one namespace, selected in exactly one of three ways.

        :param ids: Any number, read while they are sent, at Pinecone's rate of at most 5,000 ids a second.
        :param filter: A filter on metadata.
        :param delete_all: All records of the namespace.
        :param namespace: None for the connection's.
        :raises NotFoundError: ``delete_all`` on a namespace that does not exist.
        """
        from airflow_pinecone_upsert.supervisor import cancellation_token

        self.get_conn().delete(
            ids=ids,
            filter=filter,
            delete_all=delete_all,
            namespace=self._or_default(namespace),
            cancellation=cancellation_token("deletion"),
        )

    def delete_selected(
        self,
        selected: Selection,
        *,
        namespace: str | None = None,
        max_deletes: int | None = None,
        dry_run: bool = False,
        cancellation: CancellationToken | None = None,
    ) -> DeletionReport:
        """
        Delete records of one namespace, counted and guarded. The operator uses it; :meth:`delete` is the simple form.

        :param selected: Which ones.
        :param namespace: None for the connection's.
        :param max_deletes: With more ids or records than this, nothing is deleted; None for any number.
        :param dry_run: Count, and delete nothing.
        :param cancellation: Ends the run early.
        :return: What the server confirmed. A namespace that does not exist is success.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.pipeline.delete.run.delete`.
        """
        from airflow_pinecone_upsert.pipeline.delete.run import delete
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.supervisor import cancellation_token

        cancellation = cancellation or cancellation_token("deletion")
        # First, because it reads the connection, which only the main thread may request from Airflow.
        namespace = self.upsert_options(namespace).namespace
        client = call_in_background(self.get_conn, cancellation)
        return delete(selected, client, namespace, max_deletes=max_deletes, dry_run=dry_run, cancellation=cancellation)

    def swap_namespace(
        self,
        *,
        state: StateStore | None = None,
        cancellation: CancellationToken | None = None,
        **parameters: Unpack[SwapParameters],
    ) -> SwapReport:
        """
        Point a namespace alias to a namespace that was filled, verify it, and delete old namespaces, as the operator does.

        :param state: Where a try leaves what the next one needs; None for nowhere.
        :param cancellation: Ends the run early.
        :param parameters: As in the operator: ``alias``, ``target_namespace``, ``lsn``, ``min_records`` …
        :return: What the alias points to, and what was deleted.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.reindex.swap.swap`.
        """
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.reindex.swap import swap
        from airflow_pinecone_upsert.reindex.swap_options import SwapOptions
        from airflow_pinecone_upsert.supervisor import cancellation_token

        options = SwapOptions.checked(**parameters)
        cancellation = cancellation or cancellation_token("swap")
        _ = self._connection  # read by the main thread, because only that one may request it from Airflow
        client = call_in_background(self.get_conn, cancellation)
        return swap(client, options, state=state, cancellation=cancellation)

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces of the index."""
        return self.get_conn().list_namespaces()

    def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace with all its records. The parameter has no default, on purpose."""
        self.get_conn().delete_namespace(namespace)

    def describe_namespace(self, namespace: str | None = None) -> NamespaceDescription:
        """
        Count the records of a namespace. The count lags behind writes by seconds.

        :param namespace: None for the connection's.
        """
        return self.get_conn().describe_namespace(self._or_default(namespace))

    def create_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        r"""
        Create a namespace alias, a movable name that reads may use like a namespace. One with this target is success.

        :param name: 1 to 512 printable ASCII characters, without space and ``/ ? # % & = \ ; +``.
        :param target_namespace: The namespace that it points to.
        """
        return self.get_conn().create_alias(name, target_namespace)

    def repoint_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        """Change the target of a namespace alias, at once: reads that start after this returns see the new target."""
        return self.get_conn().repoint_alias(name, target_namespace)

    def describe_alias(self, name: str) -> NamespaceAlias:
        """Return a namespace alias and its target."""
        return self.get_conn().describe_alias(name)

    def list_aliases(self, *, prefix: str = "", target_namespace: str | None = None) -> Iterator[NamespaceAlias]:
        """
        Yield the namespace aliases, ordered by name.

        :param prefix: Only aliases whose names begin with it.
        :param target_namespace: Only aliases of this namespace.
        """
        return self.get_conn().list_aliases(prefix=prefix, target_namespace=target_namespace)

    def delete_alias(self, name: str) -> None:
        """Delete a namespace alias. Its target stays."""
        self.get_conn().delete_alias(name)

    def test_connection(self) -> tuple[bool, str]:
        """
        Ask the index for its statistics, for *Test* in Airflow's UI. Never raises, and never shows the key.

        One attempt, and at most 10 s for each of two requests: the user waits, and can press the button again.

        :return: Whether the index was reached; what it is, or what is wrong and how to fix it.
        """
        from airflow_pinecone_upsert.exceptions import PineconeUpsertError

        self._subject = "This connection"  # the UI tests a copy under an id of its own
        try:
            return True, self._describe()
        except PineconeUpsertError as exc:
            return False, self._without_key(str(exc))
        except Exception as exc:  # noqa: BLE001 - the form shows it
            return False, self._without_key(f"{type(exc).__name__}: {exc}")

    def _describe(self) -> str:
        settings = self._settings()
        quick = settings.model_copy(
            update={"timeout_s": min(settings.timeout_s, _TEST_TIMEOUT_S), "total_timeout_s": _TEST_TIMEOUT_S}
        )
        with self._connect(quick, attempts=1) as client:
            stats = client.describe_index_stats()
        records = f"{stats.total_vector_count:,} record{'' if stats.total_vector_count == 1 else 's'}"
        return f"Reached {client.host}: {records}, {stats.vectors}, metric {stats.metric or 'unknown'}."

    def _without_key(self, message: str) -> str:
        """Mask the key, which a message quotes if it was put into another field by mistake."""
        from airflow_pinecone_upsert.api.masking import KeyMask

        connection = vars(self).get("_connection")  # absent if it could not be read
        key = ((connection.password if connection else None) or "").strip()
        return KeyMask(key)(message) if key else message

    def _transport(self, chosen: Literal["rest", "grpc"] | None) -> Literal["rest", "grpc"]:
        """Return the transport that a caller chose, otherwise the connection's. The options check it."""
        return chosen or self._extra.get("transport", defaults.TRANSPORT)

    def _or_default(self, namespace: str | None) -> str:
        return self.default_namespace if namespace is None else namespace


def _check_that_digests_can_be_computed() -> None:
    from airflow_pinecone_upsert.exceptions import SetupError

    if find_spec("xxhash") is None:
        raise SetupError(
            "Reindexing needs the package xxhash, which is not installed here. Install it where the task runs: "
            "pip install 'airflow-pinecone-upsert[reindex]'"
        )


def _with_port(host: str, port: int | None) -> str:
    """Add the connection's port to the host, unless the host already has it."""
    host = host.strip().rstrip("/")
    scheme, separator, address = host.rpartition("://")
    authority, slash, path = address.partition("/")
    if not port or authority.endswith(f":{port}"):
        return host
    return f"{scheme}{separator}{authority}:{port}{slash}{path}"
