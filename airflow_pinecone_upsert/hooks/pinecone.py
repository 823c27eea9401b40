"""An Airflow connection becomes an :class:`IndexClient`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook
from typing_extensions import Self

from airflow_pinecone_upsert.api.limits import CONTROL_PLANE_URL, MAX_CALL_ATTEMPTS
from airflow_pinecone_upsert.hooks import connection_form

if TYPE_CHECKING:
    from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
    from airflow_pinecone_upsert.api.models import IndexStats, Match, NamespaceDescription, Record
    from airflow_pinecone_upsert.pipeline.report import UpsertReport

_TEST_TIMEOUT_S: Final = 10.0
"""Somebody waits in front of the UI."""

_MASK: Final = "***"


@dataclass(frozen=True)
class _Connection:
    """What is used of an Airflow connection, whose own representation shows the password."""

    host: str | None
    port: int | None
    password: str | None = field(repr=False)
    extra_dejson: dict[str, Any] = field(repr=False)  # a proxy has a password, too


class PineconeHook(BaseHook):
    """
    One Pinecone index, as an Airflow connection describes it.

    The connection's host is the index's own host, its password the API key. The extra may hold ``namespace``,
    ``index_name`` (its host is looked up once), ``api_version``, ``timeout_s``, ``proxy``, ``ca_bundle`` and
    ``control_plane_url``. A connection of the official provider's type ``pinecone`` works as it is.

    The client is made when it is first needed; :meth:`close`, or the end of a ``with`` block, closes it. A task that
    ends anyway need not.

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
        self._subject = f"Connection {pinecone_conn_id!r}"
        self._client: IndexClient | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's own fields. Airflow before 3.2 asks; later ones read the provider's metadata."""
        return connection_form.widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return what becomes of the fields that every connection has. Airflow before 3.2 asks."""
        return connection_form.behaviour()

    @cached_property
    def _connection(self) -> _Connection:
        found = self.get_connection(self.pinecone_conn_id)
        return _Connection(found.host, found.port, found.password, found.extra_dejson)

    @property
    def _extra(self) -> dict[str, Any]:
        """What the extra holds; a field of the form that was left empty is as good as absent."""
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

        :raises SetupError: The connection names no index, has no key, or its host is unusable.
        """
        if self._client is None:
            self._client = self._connect(self._settings())
        return self._client

    def close(self) -> None:
        """Close the client, if there is one. The next call makes another."""
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
        from airflow_pinecone_upsert.api.client import IndexClient

        return IndexClient(self._find_host(settings, attempts), settings, attempts=attempts)

    def _settings(self) -> ClientSettings:
        from pydantic import SecretStr, ValidationError

        from airflow_pinecone_upsert.api.client import ClientSettings
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
        # Not in the except block: pydantic's frames would stay behind it, and hold the password of a proxy.
        raise SetupError(f"{self._subject} has an extra that is invalid: {wrong}.")

    def _find_host(self, settings: ClientSettings, attempts: int) -> str:
        from airflow_pinecone_upsert.api.client import describe_index, is_control_plane
        from airflow_pinecone_upsert.exceptions import SetupError

        if self._index_host:
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
        url = str(self._extra.get("control_plane_url", CONTROL_PLANE_URL))
        return describe_index(str(name), settings, control_plane_url=url, attempts=attempts).host

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
        :raises PineconeUpsertError: See :func:`airflow_pinecone_upsert.pipeline.run.upsert`.
        """
        from airflow_pinecone_upsert.lineage import tell_hook_lineage
        from airflow_pinecone_upsert.pipeline.options import UpsertOptions
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import rejects_folder
        from airflow_pinecone_upsert.telemetry import observed_upsert

        chosen = UpsertOptions.checked(namespace=self._or_default(namespace), **options)
        source = InMemorySource(records, chosen, origin="records")
        folder = rejects_folder(rejects_path) if rejects_path else None
        client = self.get_conn()
        tell_hook_lineage(self, client.host, chosen.namespace)
        return observed_upsert(source, client, chosen, rejects_folder=folder)

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
        """
        Ask the index for its statistics, for *Test* in Airflow's UI. Never raises, and never shows the key.

        One try, and at most 10 s for each of two requests: somebody waits, and can press the button again.

        :return: Whether the index was reached; what it is, or what is wrong and how to mend it.
        """
        from airflow_pinecone_upsert.exceptions import PineconeUpsertError

        self._subject = "This connection"  # the UI tests a copy under an id that it makes up
        try:
            return True, self._describe()
        except PineconeUpsertError as exc:
            return False, self._without_key(str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the form shows it
            return False, self._without_key(f"{type(exc).__name__}: {exc}")

    def _describe(self) -> str:
        settings = self._settings()
        hasty = settings.model_copy(update={"timeout_s": min(settings.timeout_s, _TEST_TIMEOUT_S)})
        with self._connect(hasty, attempts=1) as client:
            stats = client.describe_index_stats()
        shape = f"dimension {stats.dimension}" if stats.dimension else "sparse vectors"
        records = f"{stats.total_vector_count:,} record{'' if stats.total_vector_count == 1 else 's'}"
        return f"Reached {client.host}: {records}, {shape}, metric {stats.metric or 'unknown'}."

    def _without_key(self, message: str) -> str:
        """Mask the key, which a message quotes where it was put into another field by mistake."""
        connection = vars(self).get("_connection")  # absent where it could not be read
        key = ((connection.password if connection else None) or "").strip()
        # A host is quoted in lower case. A short key may be a part of any word.
        return re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "***", message, flags=re.IGNORECASE) if key else message

    def _or_default(self, namespace: str | None) -> str:
        return self.default_namespace if namespace is None else namespace


def _with_port(host: str, port: int | None) -> str:
    """Put a port that the connection has in a field of its own behind the host, unless it stands there already."""
    host = host.strip().rstrip("/")
    return host if not port or host.endswith(f":{port}") else f"{host}:{port}"
