"""An Airflow connection becomes an :class:`IndexClient`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
    from airflow_pinecone_upsert.api.models import IndexStats, Match, NamespaceDescription, Record
    from airflow_pinecone_upsert.upsert.report import UpsertReport


class PineconeHook(BaseHook):
    """
    One Pinecone index, as an Airflow connection describes it.

    The connection's host is the index's own host, its password the API key. The extra may hold ``namespace``,
    ``index_name`` (its host is looked up once), ``api_version``, ``timeout_s``, ``proxy``, ``ca_bundle`` and
    ``control_plane_url``. A connection of the official provider's type ``pinecone`` works as it is.

    :param pinecone_conn_id: The Airflow connection.
    :param index_host: In place of the connection's host.
    :param index_name: In place of the connection's host: the index whose host is looked up.
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
    ) -> None:
        super().__init__()
        self.pinecone_conn_id = pinecone_conn_id
        self._index_host = index_host
        self._index_name = index_name

    @cached_property
    def _connection(self) -> Connection:
        return self.get_connection(self.pinecone_conn_id)

    @cached_property
    def _extra(self) -> dict[str, Any]:
        """What the extra holds; a field of the form that was left empty is as good as absent."""
        return {key: value for key, value in self._connection.extra_dejson.items() if value not in (None, "")}

    @cached_property
    def _client(self) -> IndexClient:
        from airflow_pinecone_upsert.api.client import IndexClient

        return IndexClient(self._find_host(), self._settings())

    @property
    def default_namespace(self) -> str:
        """The connection's namespace, used where none is given; ``""`` is Pinecone's default one."""
        return str(self._extra.get("namespace", ""))

    def get_conn(self) -> IndexClient:
        """
        Return the client of the index, the same one each time.

        :raises SetupError: The connection names no index, has no key, or its host is unusable.
        """
        return self._client

    def _settings(self) -> ClientSettings:
        from pydantic import ValidationError

        from airflow_pinecone_upsert.api.client import ClientSettings
        from airflow_pinecone_upsert.api.errors import SetupError

        key = (self._connection.password or "").strip()
        if not key:
            raise SetupError(f"Connection {self.pinecone_conn_id!r} has no password. Put the Pinecone API key there.")
        chosen = {name: self._extra[name] for name in ClientSettings.model_fields if name in self._extra}
        try:
            return ClientSettings(**{**chosen, "api_key": key})
        except ValidationError as exc:
            wrong = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
            raise SetupError(f"The extra of connection {self.pinecone_conn_id!r} is invalid: {wrong}.") from None

    def _find_host(self) -> str:
        from airflow_pinecone_upsert.api.client import describe_index, is_control_plane
        from airflow_pinecone_upsert.api.errors import SetupError
        from airflow_pinecone_upsert.api.limits import CONTROL_PLANE_URL

        if self._index_host:
            return self._index_host
        connection = self._connection
        host = connection.host or ""
        if not self._index_name and host and not is_control_plane(host):
            return f"{host}:{connection.port}" if connection.port else host
        name = self._index_name or self._extra.get("index_name")
        if not name:
            found = f"its host {host!r} is the control plane's" if host else "its host is empty"
            raise SetupError(
                f"Connection {self.pinecone_conn_id!r} names no index ({found}). Set its host to the index's own host "
                "(https://….pinecone.io, from the console), or name the index with index_host or index_name."
            )
        url = self._extra.get("control_plane_url", CONTROL_PLANE_URL)
        return describe_index(name, self._settings(), control_plane_url=url).host

    def upsert(
        self, records: Any, *, namespace: str | None = None, rejects_path: Any = None, **options: Any
    ) -> UpsertReport:
        """
        Upsert records from inside a task; the same pipeline as the operator's.

        :param records: A list of dicts or tuples ``(id, values[, metadata])``, a pandas DataFrame, a pyarrow Table, or
            an iterable (a generator, too) of any of these: it is read as it is sent.
        :param namespace: None for the connection's.
        :param rejects_path: Where records are written that ``max_rejects`` lets be set aside; as the operator's.
        :param options: As the operator's: ``batch_size``, ``max_concurrency``, ``id_column`` …
        :return: What the server confirmed.
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.upsert.run.upsert`.
        """
        from airflow_pinecone_upsert.storage import rejects_folder
        from airflow_pinecone_upsert.upsert.options import UpsertOptions
        from airflow_pinecone_upsert.upsert.records import RecordsSource
        from airflow_pinecone_upsert.upsert.run import upsert

        chosen = UpsertOptions.checked(namespace=self.default_namespace if namespace is None else namespace, **options)
        source = RecordsSource(records, chosen, origin="records")
        folder = rejects_folder(rejects_path) if rejects_path else None
        return upsert(source, self.get_conn(), chosen, rejects_folder=folder)

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts. Counts lag behind writes by seconds."""
        return self.get_conn().describe_index_stats()

    def fetch(self, ids: Sequence[str], *, namespace: str | None = None) -> dict[str, Record]:
        """Return the records with these ids, by id. See :meth:`IndexClient.fetch`."""
        return self.get_conn().fetch(ids, namespace=self._or_default(namespace))

    def list_ids(self, *, prefix: str = "", namespace: str | None = None) -> Iterator[str]:
        """Yield the ids of a namespace. See :meth:`IndexClient.list_ids`."""
        return self.get_conn().list_ids(prefix=prefix, namespace=self._or_default(namespace))

    def query(self, *, namespace: str | None = None, **query: Any) -> list[Match]:
        """Return the nearest records, best first. See :meth:`IndexClient.query` for the parameters."""
        return self.get_conn().query(namespace=self._or_default(namespace), **query)

    def delete(
        self,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        delete_all: bool = False,
        namespace: str | None = None,
    ) -> None:
        """Delete records of one namespace. See :meth:`IndexClient.delete`."""
        self.get_conn().delete(ids=ids, filter=filter, delete_all=delete_all, namespace=self._or_default(namespace))

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces of the index."""
        return self.get_conn().list_namespaces()

    def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace with all its records. There is no default here, on purpose."""
        self.get_conn().delete_namespace(namespace)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the index for its statistics, for the *Test* button of the connection form."""
        from airflow_pinecone_upsert.api.errors import PineconeUpsertError

        try:
            client = self.get_conn()
            stats = client.describe_index_stats()
        except PineconeUpsertError as exc:
            return False, str(exc)
        return True, (
            f"Reached {client.host}: {stats.total_vector_count:,} records, dimension {stats.dimension or 'none'}, "
            f"metric {stats.metric or 'unknown'}."
        )

    def _or_default(self, namespace: str | None) -> str:
        return self.default_namespace if namespace is None else namespace
