"""
The hosts that may receive the API key.

Invariants: a host is https, or on this machine; a host that someone else than the author of the connection or of the DAG
chose is Pinecone's, or one that the connection allows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Final

import httpx
from pydantic import BeforeValidator

from airflow_pinecone_upsert.api.limits import CONTROL_PLANE_URL
from airflow_pinecone_upsert.exceptions import SetupError

_PINECONE_DOMAIN: Final = "pinecone.io"
"""Also the end of the hosts of private endpoints."""


def index_url(host: str) -> str:
    """
    Complete and check the URL of a host that will receive the API key.

    :param host: ``name-abc.svc.region.pinecone.io``, with or without a scheme; of a gateway, also with a path.
    :return: The URL without a trailing slash.
    :raises SetupError: The URL is unusable, or plain ``http`` to another machine.
    """
    text = host.strip()
    if "@" in text:  # not quoted: it may contain a password
        raise SetupError("The index host contains user information. Put the API key into the connection's password.")
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise SetupError(f"Index host {host!r} is not a URL: {exc}. Copy it from the Pinecone console.") from exc
    # A path at Pinecone itself is the address of a page of the console.
    is_page = url.path not in ("", "/") and _ends_with(url.host, [_PINECONE_DOMAIN])
    if url.scheme not in ("http", "https") or not url.host or is_page or url.query or url.fragment:
        raise SetupError(f"Index host {host!r} is not a host. Copy it from the Pinecone console, without a path.")
    if url.scheme == "http" and not is_loopback(str(url)):
        raise SetupError(f"Index host {host!r} is plain http: the API key would be sent unencrypted. Use https.")
    return str(url).rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether a URL names this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_control_plane(host: str) -> bool:
    """Return whether a host is Pinecone's control plane, old or new, and not an index's own host."""
    try:
        name = httpx.URL(host if "://" in host else f"https://{host}").host
    except (httpx.InvalidURL, UnicodeError):
        return False
    return name == httpx.URL(CONTROL_PLANE_URL).host or (
        name.startswith("controller.") and _ends_with(name, [_PINECONE_DOMAIN])
    )


def have_one_host(url: str, other: str) -> bool:
    """Return whether two URLs name the same host, at any port."""
    return httpx.URL(url).host == httpx.URL(other).host


def check_allowed(url: str, suffixes: Collection[str], *, chosen_by: str) -> None:
    """
    Check a host that neither the connection nor the DAG's code names.

    :param url: As :func:`index_url` returns it.
    :param suffixes: What the connection allows besides Pinecone's own domain.
    :param chosen_by: What named the host, for the message.
    :raises SetupError: The host is not allowed.
    """
    host = httpx.URL(url).host
    if not _ends_with(host, [_PINECONE_DOMAIN, *suffixes]):
        raise SetupError(
            f"{chosen_by} names the host {host!r}, which is not Pinecone's, so the API key is not sent there. If it should "
            "be, add the host to allowed_host_suffixes in the extra of the connection."
        )


def _ends_with(host: str, suffixes: Iterable[str]) -> bool:
    return any(f".{host}".endswith(f".{suffix}") for suffix in suffixes)


def _to_suffixes(value: Any) -> Any:
    """Split text, and normalize ``*.example.com`` and ``.example.com``."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected host names, such as example.com, separated by commas")
    suffixes = tuple(name.strip().lower().removeprefix("*").removeprefix(".") for name in names)
    for name, suffix in zip(names, suffixes, strict=True):
        if not re.fullmatch(r"[a-z0-9:][a-z0-9.:-]*", suffix):
            raise ValueError(f"{name.strip()!r} is not the end of a host name, such as example.com")
    return suffixes


HostSuffixes = Annotated[tuple[str, ...], BeforeValidator(_to_suffixes)]
"""Ends of host names: ``example.com`` is the end of itself and of ``a.example.com``, not of ``badexample.com``."""
