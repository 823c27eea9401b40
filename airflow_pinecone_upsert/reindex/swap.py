"""
A swap: an alias starts to point to a namespace that was filled, once that namespace is proven to be complete.

::

    look up ──> wait until searchable ──> guard ──> point ──> verify ──> clean up

Invariants:

- Nothing changes before the target is searchable and holds enough records.
- Old namespaces are deleted only after a query through the alias was served by the target. Never deleted are the target,
  a namespace that any alias points to, the default one, and one without the prefix.
- Each step looks at the index first, so that a swap that failed anywhere, or whose response was lost, converges when it is
  repeated.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.api.models import NamespaceAlias, NamespaceDescription
from airflow_pinecone_upsert.exceptions import NotFoundError, SetupError, VerificationError
from airflow_pinecone_upsert.pipeline import freshness
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.freshness import Freshness, Goal, Polling, wait_until_searchable
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore
from airflow_pinecone_upsert.reindex.swap_options import SwapOptions, SwapReport

log = logging.getLogger(__name__)

_STATE_KEY: Final = "swap"

_COUNT_TIMEOUT_S: Final = 15.0
"""How long counts may lag behind the position of the last write."""

_VERIFY_TIMEOUT_S: Final = 30.0
"""How long queries may be served by another namespace after the alias was pointed to the target; it takes about a second."""

_T = TypeVar("_T")


class Index(freshness.Index, Protocol):
    """What a swap needs of the index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    def describe_namespace(self, namespace: str) -> NamespaceDescription:
        """Count the records of a namespace."""
        ...

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces."""
        ...

    def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace with all its records."""
        ...

    def describe_alias(self, name: str) -> NamespaceAlias:
        """Return an alias."""
        ...

    def create_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        """Create an alias."""
        ...

    def repoint_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        """Change the target of an alias."""
        ...

    def list_aliases(self) -> Iterator[NamespaceAlias]:
        """Yield the aliases."""
        ...

    def serving_namespace(self, name: str) -> str:
        """Return the namespace that serves the queries of a name."""
        ...


def swap(  # noqa: PLR0913 - its seams
    index: Index,
    options: SwapOptions,
    *,
    state: StateStore | None = None,
    cancellation: CancellationToken | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> SwapReport:
    """
    Point an alias to a namespace, and delete old namespaces.

    :param index: The index.
    :param options: The options.
    :param state: Where a try leaves what the next one needs; None for nowhere. Without it, a try that finds the alias at
        its target does not know the previous one, and keeps old namespaces by their names alone.
    :param cancellation: Ends the run between two requests.
    :param now: Returns monotonic seconds.
    :param sleep: Waits, in seconds.
    :return: What the alias points to, and what was deleted.
    :raises NotFoundError: The target does not exist, or the host is not an index's.
    :raises SetupError: The target does not hold enough records, or the names are wrong.
    :raises NotSearchableError: The target is not searchable in time.
    :raises VerificationError: A query through the alias is served by another namespace.
    :raises IncompleteUpsertError: The run was cancelled.
    """
    run = _Swap(index, options, _Memory(state, options), cancellation or CancellationToken("swap"), now, sleep)
    run.look_up()
    run.wait_until_searchable()
    run.check_guard()
    run.point()
    run.verify()
    run.clean_up()
    report = run.report()
    log.info("%s", report)
    return report


class _Swap:
    """One run."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        index: Index,
        options: SwapOptions,
        memory: _Memory,
        cancellation: CancellationToken,
        now: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._index = index
        self._options = options
        self._target = shown_namespace(options.target_namespace)
        self._memory = memory
        self._cancellation = cancellation
        self._now = now
        self._sleep = sleep
        self._current: str | None = None  # what the alias points to
        self._count = 0
        self._previous_count: int | None = None

    def look_up(self) -> None:
        """Find what the alias points to, and check that the target exists."""
        self._ask(self._index.describe_index_stats)  # a wrong host is a 404, as is an unknown alias
        try:
            self._current = self._ask(lambda: self._index.describe_alias(self._options.alias)).target_namespace
        except NotFoundError:
            self._current = None
        if self._current != self._target:
            self._memory.begin(self._current)
        count = self._count_of(self._target)
        if count is None:
            raise NotFoundError(
                f"target_namespace {self._target!r} does not exist in {self._index.host}. Write it first, or fix its name. "
                f"{self._unchanged}"
            )
        self._count = count

    def wait_until_searchable(self) -> None:
        """Wait until queries see the last write to the target."""
        goal = Goal(self._target, self._options.lsn, fallback_records=0)
        wait_until_searchable(
            Freshness(self._index, goal, self._now), self._polling(self._options.searchable_timeout_s)
        )

    def check_guard(self) -> None:
        """
        Check that the target holds enough records.

        :raises SetupError: It does not, also after the time by which counts lag.
        """
        previous, options = self._memory.previous, self._options
        self._previous_count = self._count_of(previous) if previous else None
        shrunk = math.ceil((1 - options.max_shrink_fraction) * (self._previous_count or 0))
        least = max(options.min_records, shrunk)
        lag_s = (
            0.0 if options.lsn is None else _COUNT_TIMEOUT_S
        )  # without a position, it was the count that has settled
        if self._polling(lag_s).until(lambda: self._recount() >= least):
            return
        if shrunk > options.min_records:
            why = f"{previous!r} holds {self._previous_count:,}, and max_shrink_fraction is {options.max_shrink_fraction:g}"
        else:
            why = f"min_records is {options.min_records:,}"
        raise SetupError(
            f"target_namespace {self._target!r} holds {self._count:,} records, and at least {least:,} are required ({why}). "
            f"{self._unchanged} Check that the namespace is complete; if it is, change that parameter for one run."
        )

    def point(self) -> None:
        """Create or repoint the alias, unless an earlier try has."""
        alias = self._options.alias
        if self._current == self._target:
            log.info("The alias %r points to %r already.", alias, self._target)
        elif self._current is None:
            self._ask(lambda: self._index.create_alias(alias, self._target))
        else:
            self._ask(lambda: self._index.repoint_alias(alias, self._target))

    def verify(self) -> None:
        """
        Query through the alias until the target serves it.

        :raises VerificationError: Another namespace does.
        """
        alias, served_by = self._options.alias, ""

        def is_served() -> bool:
            nonlocal served_by
            served_by = shown_namespace(self._ask(lambda: self._index.serving_namespace(alias)))
            return served_by == self._target

        if not self._polling(_VERIFY_TIMEOUT_S).until(is_served):
            raise VerificationError(
                f"The alias {alias!r} was pointed to {self._target!r}, and after {_VERIFY_TIMEOUT_S:g} s its queries are served "
                f"by {served_by!r}. No namespace was deleted. Check whether something else repoints the alias, and run the "
                "task again."
            )

    def clean_up(self) -> None:
        """Delete old namespaces."""
        for name in self._old_namespaces():
            self._cancellation.raise_if_cancelled()
            try:
                self._ask(lambda name=name: self._index.delete_namespace(name))  # type: ignore[misc]
            except NotFoundError:  # an earlier try, whose response was lost, has deleted it
                pass
            except SetupError as exc:
                if exc.response is None or exc.response.reason != "NAMESPACE_TARGETED_BY_ALIAS":
                    raise
                log.warning("Namespace %r is not deleted: an alias was pointed to it meanwhile.", name)
                continue
            self._memory.add_deleted(name)

    def _old_namespaces(self) -> list[str]:
        """Return the namespaces to delete, by name: all older ones but those to keep, of which the previous one is the first."""
        prefix = self._options.namespace_prefix
        if prefix is None:
            return []
        names = self._ask(lambda: [namespace.name for namespace in self._index.list_namespaces()])
        targets = self._ask(lambda: {alias.target_namespace for alias in self._index.list_aliases()})
        older = [
            name for name in names if name.startswith(prefix) and name < self._target and name != shown_namespace("")
        ]
        by_age = sorted(older, key=lambda name: (name == self._memory.previous, name), reverse=True)
        return sorted(set(by_age[self._options.keep :]) - targets)

    def report(self) -> SwapReport:
        """Return the result, and forget what only a further try would need."""
        memory = self._memory
        memory.clear()
        return SwapReport(
            self._options.alias,
            self._target,
            memory.previous,
            self._count,
            self._previous_count,
            memory.deleted,
            self._index.host,
        )

    @property
    def _unchanged(self) -> str:
        served = f"still points to {self._current!r}" if self._current else "was not created"
        return f"The alias {self._options.alias!r} {served}."

    def _count_of(self, namespace: str) -> int | None:
        """Count the records of a namespace; None where it does not exist."""
        try:
            return self._ask(lambda: self._index.describe_namespace(namespace)).record_count
        except NotFoundError:
            return None

    def _recount(self) -> int:
        self._count = self._count_of(self._target) or 0
        return self._count

    def _polling(self, timeout_s: float) -> Polling:
        return Polling(timeout_s, self._now, self._sleep, self._cancellation)

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Call the index in another thread, so that a task that is cancelled does not wait for it."""
        return call_in_background(call, self._cancellation)


class _Memory:
    """
    What one try leaves to the next one. A store that fails does not fail the swap.

    :ivar previous: What the alias pointed to, which cannot be found out after it was repointed.
    :ivar deleted: The namespaces that were deleted.
    """

    def __init__(self, store: StateStore | None, options: SwapOptions) -> None:
        self._store = store
        self._names = {"alias": options.alias, "target": options.target_namespace}
        self.previous: str | None = None
        self.deleted: list[str] = []
        self._load()

    def _load(self) -> None:
        try:
            stored = None if self._store is None else self._store.get(_STATE_KEY)
            if stored and {key: stored[key] for key in self._names} == self._names:
                self.previous, self.deleted = stored["previous"], list(stored["deleted"])
        except Exception as exc:  # noqa: BLE001 - namespaces are then kept by name alone
            log.warning("What an earlier try has done could not be loaded: %s.", exc)

    def begin(self, previous: str | None) -> None:
        """Note what the alias points to, before it is repointed."""
        self.previous, self.deleted = previous, []
        self._save()

    def add_deleted(self, name: str) -> None:
        """Note a namespace that was deleted."""
        self.deleted.append(name)
        self._save()

    def clear(self) -> None:
        """Forget everything, so that a task that is cleared later starts from the beginning."""
        try:
            if self._store is not None:
                self._store.delete(_STATE_KEY)
        except Exception as exc:  # noqa: BLE001
            log.warning("The state of the swap could not be deleted: %s.", exc)

    def _save(self) -> None:
        try:
            if self._store is not None:
                self._store.set(_STATE_KEY, {**self._names, "previous": self.previous, "deleted": self.deleted})
        except Exception as exc:  # noqa: BLE001
            log.warning("The state of the swap could not be saved: %s.", exc)
