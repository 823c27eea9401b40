"""
Airflow assets and OpenLineage datasets of a namespace: ``pinecone://{index host}/{namespace}``.

Airflow identifies an asset by its name *and* its URI, so every asset of a namespace must have the same of both.

Invariants: a namespace has one normalized URI, which is also the asset's name; a URI contains no user information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

if TYPE_CHECKING:
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset

SCHEME: Final = "pinecone"

_DEFAULT_NAMESPACE: Final = "__default__"
"""Pinecone's name for the namespace ``""``: a URI with an empty path would not name a namespace."""

_UNQUOTED: Final = "!$&'()*+,;=:@"
"""Allowed unquoted in a segment of a path, as are letters, digits and ``-._~`` (RFC 3986, section 3.3)."""


def pinecone_asset(index_host: str, namespace: str = "", *, extra: dict[str, Any] | None = None) -> Asset:
    """
    Return the asset of a namespace, for ``DAG(schedule=…)``, ``outlets`` or ``inlets``.

    :param index_host: The host of the index, as the Pinecone console shows it, with or without a scheme; or the URL of a
        gateway with a path, which becomes a part of the host, with ``/`` as ``%2F``.
    :param namespace: ``""`` is Pinecone's default namespace.
    :param extra: The extra of the asset, which is not the extra of its events.
    :raises ValueError: ``index_host`` is not a host.
    """
    from airflow.sdk import Asset

    scheme, _, host = index_host.strip().rpartition("://")
    host = host.rstrip("/")
    if scheme and not host.partition("/")[0].endswith(".pinecone.io"):
        host = host.replace("/", "%2F")
    parts = urlsplit(f"{SCHEME}://{host}/{quote(namespace, safe=_UNQUOTED)}")
    return Asset(uri=normalize_uri(parts).geturl(), extra=extra)


def normalize_uri(uri: SplitResult) -> SplitResult:
    """
    Normalize the URI of a namespace. Airflow calls this for every asset with this scheme.

    :raises ValueError: The URI does not name a namespace of an index.
    """
    if "@" in uri.netloc:  # the message does not quote the URI, which may contain a key
        raise ValueError(f"A {SCHEME}:// URI contains user information. The API key belongs in the Airflow connection.")
    namespace = uri.path.removeprefix("/")
    if not uri.hostname or "/" in namespace or uri.query or uri.fragment:
        raise ValueError(f"{uri.geturl()!r} is not {SCHEME}://<index host>/<namespace>, with / in a namespace as %2F.")
    path = f"/{quote(unquote(namespace) or _DEFAULT_NAMESPACE, safe=_UNQUOTED)}"
    return uri._replace(scheme=SCHEME, netloc=uri.netloc.lower(), path=path)


def openlineage_dataset(asset: Asset, lineage_context: Any) -> Dataset:  # noqa: ARG001 - Airflow passes the hook
    """Return the OpenLineage dataset of a namespace, named as :func:`openlineage_name` says."""
    from openlineage.client.event_v2 import Dataset

    return Dataset(*openlineage_name(asset))


def openlineage_name(asset: Asset) -> tuple[str, str]:
    """Return the dataset's namespace, which is the URI of the index, and its name, which is Pinecone's namespace."""
    parts = urlsplit(asset.uri)
    return f"{SCHEME}://{parts.netloc}", unquote(parts.path.removeprefix("/"))
