"""
Which namespaces and aliases an index has.

Invariants:

* A name belongs to a namespace or to an alias, never to both.
* A namespace exists from its first record or from its creation on, until it is deleted or loses its last record; the
  target of an alias and the default namespace as a target always exist.
* An alias points to a namespace, never to another alias.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from airflow_pinecone_upsert.emulator import rules
from airflow_pinecone_upsert.emulator.rules import ApiError
from airflow_pinecone_upsert.emulator.store import Store


@dataclass(frozen=True)
class Alias:
    """
    A movable name for a namespace.

    :param name: Its name.
    :param target: The namespace, as it is stored.
    :param created_at: When it was created, in RFC 3339.
    :param updated_at: When it was last repointed, in RFC 3339.
    """

    name: str
    target: str
    created_at: str
    updated_at: str


class Names:
    """
    The namespaces and aliases of one index.

    :param store: The records. It keeps the created namespaces and the aliases, too.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._created: dict[str, Any] = store.load("namespaces") or {}
        self._aliases = {fields["name"]: Alias(**fields) for fields in store.load("aliases") or []}
        self.importing: set[str] = set()
        """Namespaces that an import is filling."""

    # Namespaces

    def serving(self, name: str) -> str:
        """
        Return the namespace that serves a read.

        :param name: The name in the request, which may be that of an alias.
        :return: The namespace, as it is stored. It need not exist.
        :raises ApiError: It is not a possible name.
        """
        namespace = rules.normalize_namespace(name)
        alias = self._aliases.get(namespace)
        return namespace if alias is None else alias.target

    def writable(self, name: str, *, creates: bool = False) -> str:
        """
        Return the namespace that a write changes.

        :param name: The name in the request.
        :param creates: Whether the write creates a namespace that does not exist.
        :return: The namespace, as it is stored.
        :raises ApiError: It is not a possible name, or that of an alias.
        """
        namespace = rules.normalize_namespace(name)
        if alias := self._aliases.get(namespace):
            if creates:
                raise in_use(f"Namespace '{name}' cannot be created: the name is in use by a namespace alias")
            raise ApiError(
                f"'{name}' is a namespace alias, which cannot be written to. Write to its target namespace directly",
                code=rules.FAILED_PRECONDITION,
                reason="WRITE_TO_ALIAS",
                metadata={"target_namespace": rules.shown_namespace(alias.target)},
            )
        return namespace

    def own(self, name: str) -> str:
        """
        Return the namespace of an operation on the namespace itself.

        :param name: The name in the request.
        :return: The namespace, as it is stored.
        :raises ApiError: It is not a possible name, it is that of an alias, or no namespace has it.
        """
        namespace = rules.normalize_namespace(name)
        if namespace in self._aliases:
            raise ApiError(
                f"'{name}' is a namespace alias. Use /namespace-aliases/{name}",
                code=rules.FAILED_PRECONDITION,
                reason="NAMESPACE_OPERATION_ON_ALIAS",
            )
        if not self.exists(namespace):
            raise ApiError("Namespace not found", status=404, code=rules.NOT_FOUND)
        return namespace

    def exists(self, namespace: str) -> bool:
        """
        Return whether a namespace exists.

        :param namespace: The namespace, as it is stored.
        :return: Whether it exists.
        """
        return namespace in self._created or bool(self.aliases_of(namespace)) or self._store.has_records(namespace)

    def counts(self) -> dict[str, int]:
        """
        Count the visible records of each namespace that exists.

        :return: The counts by namespace, as it is stored.
        """
        targets = (alias.target for alias in self._aliases.values())
        empty = dict.fromkeys([*self._created, *targets, *self._store.namespaces()], 0)
        visible = self._store.counts()
        return {name: visible.get(name, 0) for name in sorted(empty)}

    def schema(self, namespace: str) -> Any:
        """
        Return the schema that a namespace was created with.

        :param namespace: The namespace, as it is stored.
        :return: The schema, or ``None``.
        """
        return self._created.get(namespace)

    def create(self, namespace: str, schema: Any) -> None:
        """
        Create an empty namespace.

        :param namespace: The namespace, as it is stored.
        :param schema: Its schema, or ``None``.
        """
        self._created[namespace] = schema
        self._store.save("namespaces", self._created)

    def delete(self, namespace: str) -> int:
        """
        Delete a namespace with all its records. The target of an alias stays, and is empty.

        :param namespace: The namespace, as it is stored.
        :return: The LSN.
        """
        if self._created.pop(namespace, self) is not self:
            self._store.save("namespaces", self._created)
        return self._store.delete_all(namespace)

    # Aliases

    @property
    def aliases(self) -> list[Alias]:
        """The aliases, ordered by name."""
        return [self._aliases[name] for name in sorted(self._aliases)]

    def alias(self, name: str) -> Alias | None:
        """
        Look up an alias.

        :param name: Its name.
        :return: The alias, or ``None``.
        """
        return self._aliases.get(name)

    def aliases_of(self, namespace: str) -> list[Alias]:
        """
        Return the aliases that point to a namespace.

        :param namespace: The namespace, as it is stored.
        :return: The aliases.
        """
        return [alias for alias in self._aliases.values() if alias.target == namespace]

    def point(self, name: str, target: str) -> Alias:
        """
        Create or repoint an alias.

        :param name: The alias.
        :param target: The namespace, as it is stored.
        :return: The alias.
        """
        now = timestamp()
        alias = self._aliases.get(name) or Alias(name, target, now, now)
        self._aliases[name] = replace(alias, target=target, updated_at=now)
        self._save_aliases()
        return self._aliases[name]

    def remove_alias(self, name: str) -> None:
        """
        Delete an alias.

        :param name: The alias.
        """
        del self._aliases[name]
        self._save_aliases()

    def _save_aliases(self) -> None:
        self._store.save("aliases", [asdict(alias) for alias in self._aliases.values()])


def in_use(message: str) -> ApiError:
    """
    Make the error for the name of a namespace to be created that an alias has.

    :param message: The error message.
    :return: The error.
    """
    return ApiError(message, status=409, code=rules.ALREADY_EXISTS, reason="NAME_IN_USE_BY_ALIAS")


def timestamp() -> str:
    """
    Return the current time as the API writes it.

    :return: RFC 3339, with microseconds and ``Z``.
    """
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
