"""
Listing all ids of namespaces, in parallel.

The server lists ids by prefix, sorted by their bytes, 100 at a time. A long listing is cut: what follows is listed by
prefixes that are one character longer, several at a time. An id that is listed twice does no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from airflow_pinecone_upsert.api.limits import MAX_IDS_PER_LIST_PAGE, MAX_LIST_REQUESTS_PER_SECOND
from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport
from airflow_pinecone_upsert.reindex.entries import unknown_entries
from airflow_pinecone_upsert.reindex.keys import Keys

_PARALLEL: Final = 8
_MAX_IDS: Final = 20_000
"""Of one prefix, then it is cut: 200 pages, so that the 127 requests for its longer prefixes are the smaller part."""

_CHARACTERS: Final = range(1, 128)
"""Of ids: ASCII without NUL."""


class Index(Protocol):
    """What an audit needs of an index."""

    def list_ids(self, *, prefix: str = "", namespace: str = "") -> Iterator[str]:
        """Yield the ids of a namespace."""
        ...


@dataclass(frozen=True, eq=False)
class _Listing:
    """A prefix to list in a namespace, in the form of a request."""

    namespace: str
    prefix: str = ""
    body: bytes = b""


class Listed(NamedTuple):
    """
    Some ids of a namespace.

    :param namespace: ``""`` is the default one.
    :param ids: The first ids of a prefix.
    :param prefixes: Those that list the others.
    """

    namespace: str
    ids: list[str]
    prefixes: Sequence[str] = ()


class _Pace:
    """Lets pages start at the rate that the server allows, from several threads."""

    def __init__(self) -> None:
        self._limiter = RateLimiter(MAX_LIST_REQUESTS_PER_SECOND, None, lambda: 0.5)
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            time.sleep(self._limiter.wait_s(time.monotonic()))
            self._limiter.started(1, time.monotonic())


def list_namespaces(
    index: Index, namespaces: Iterable[str], cancellation: CancellationToken, *, max_ids: int = _MAX_IDS
) -> Iterator[Listed]:
    """
    Yield all ids of namespaces, many at a time, in no order; some of them twice.

    :param index: The index.
    :param namespaces: ``""`` is the default one. One that does not exist has no ids.
    :param cancellation: Ends the listing early.
    :param max_ids: Ids of one prefix that are listed one page after the other.
    """
    pace = _Pace()

    def perform(listing: _Listing) -> Listed:
        return _list(index, listing, pace, max_ids)

    waiting, in_flight = [*map(_Listing, namespaces)], 0
    transport: ThreadTransport[_Listing] = ThreadTransport(perform, _PARALLEL)  # type: ignore[type-var]
    with transport:
        while waiting or in_flight:
            cancellation.raise_if_cancelled()
            while waiting and in_flight < _PARALLEL:
                transport.start(waiting.pop())
                in_flight += 1
            completion = transport.next_completion(POLL_INTERVAL_S)
            if completion is None:
                continue
            in_flight -= 1
            if isinstance(completion.result, BaseException):
                raise completion.result
            listed: Listed = completion.result
            waiting += (_Listing(listed.namespace, prefix) for prefix in listed.prefixes)
            if listed.ids:
                yield listed


def listed_entries(
    index: Index,
    keys: Keys,
    namespaces: Iterable[str],
    cancellation: CancellationToken,
    on_turn: Callable[[], None],
) -> Iterator[pa.RecordBatch]:
    """
    Yield all ids of namespaces as entries of which it is not known what they hold. See :func:`list_namespaces`.

    :param keys: How they are named.
    :param on_turn: Called for each page or two hundred.
    """
    for listed in list_namespaces(index, namespaces, cancellation):
        on_turn()
        yield unknown_entries(keys.of(listed.namespace, listed.ids))


def _list(index: Index, listing: _Listing, pace: _Pace, max_ids: int) -> Listed:
    namespace, prefix = listing.namespace, listing.prefix
    found = index.list_ids(prefix=prefix, namespace=namespace)
    ids: list[str] = []
    while len(ids) < max_ids:
        pace.wait()
        page = list(islice(found, MAX_IDS_PER_LIST_PAGE))
        ids += page
        if len(page) < MAX_IDS_PER_LIST_PAGE:
            return Listed(namespace, ids)
    # The last id is longer than the prefix: the only id that is not is the first one.
    next_character = ord(ids[-1][len(prefix)])
    return Listed(namespace, ids, [prefix + chr(number) for number in _CHARACTERS if number >= next_character])
