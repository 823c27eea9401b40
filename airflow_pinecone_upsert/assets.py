"""
What a namespace is called as an Airflow asset: ``pinecone://{index host}/{namespace}``.

Airflow tells assets apart by name *and* URI, so all who mean one namespace must write both alike: they leave here in one
normal form, with the URI for a name. No user information can be in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset

SCHEME: Final = "pinecone"

_DEFAULT_NAMESPACE: Final = "__default__"
"""Pinecone's own name for the namespace ``""``, which a URI could not tell from none."""

_PLAIN: Final = "!$&'()*+,;=:@"
"""What a segment of a path may hold as it is, beside letters, digits and ``-._~`` (RFC 3986, section 3.3)."""


def pinecone_asset(index_host: str, namespace: str = "", *, extra: dict[str, Any] | None = None) -> Asset:
    """
    Build the asset that stands for a namespace, for ``DAG(schedule=…)``, ``outlets`` or ``inlets``.

    :param index_host: The index's own host as the Pinecone console shows it, with or without a scheme.
    :param namespace: ``""`` is Pinecone's default one.
    :param extra: The asset's own extra, which is not that of its events.
    :raises ValueError: ``index_host`` is no host.
    """
    from airflow.sdk import Asset

    host = index_host.strip().rpartition("://")[2].rstrip("/")
    parts = urlsplit(f"{SCHEME}://{host}/{quote(namespace, safe=_PLAIN)}")
    return Asset(uri=normalize_uri(parts).geturl(), extra=extra)


def normalize_uri(uri: SplitResult) -> SplitResult:
    """
    Bring the URI of a namespace into its one form; Airflow calls this for every asset with this scheme.

    :raises ValueError: It names no namespace of an index.
    """
    if "@" in uri.netloc:  # not quoted: it may hold a key
        raise ValueError(f"A {SCHEME}:// URI contains user information. The API key belongs in the Airflow connection.")
    namespace = uri.path.removeprefix("/")
    if not uri.hostname or "/" in namespace or uri.query or uri.fragment:
        raise ValueError(f"{uri.geturl()!r} is not {SCHEME}://<index host>/<namespace>, with / in a namespace as %2F.")
    path = f"/{quote(unquote(namespace) or _DEFAULT_NAMESPACE, safe=_PLAIN)}"
    return uri._replace(scheme=SCHEME, netloc=uri.netloc.lower(), path=path)


def openlineage_dataset(asset: Asset, lineage_context: Any) -> Dataset:  # noqa: ARG001 - Airflow passes the hook
    """Name a namespace as OpenLineage does: the index is OpenLineage's namespace, Pinecone's namespace is its name."""
    from openlineage.client.event_v2 import Dataset

    return Dataset(*openlineage_name(asset))


def openlineage_name(asset: Asset) -> tuple[str, str]:
    """Return OpenLineage's namespace and name of a namespace."""
    parts = urlsplit(asset.uri)
    return f"{SCHEME}://{parts.netloc}", unquote(parts.path.removeprefix("/"))
