"""A namespace, runs that write to it, and storage that dies: what the tests of the manifest share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.reindex.entries import UNKNOWN_DIGEST, known_entries
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, Target, new_run_id

TARGET = Target("https://articles.example", "articles", {"id_column": "id"}, "a_digest", 1)

Claims = dict[str, bytes]
"""Digests by id, as a table in memory has them."""


def digest(number: int) -> bytes:
    """Return one of a few digests, none of which is the unknown one."""
    return bytes([number + 1] * 16)


def claims_of(manifest: Manifest) -> Claims:
    """Load the entries of a manifest."""
    claims: Claims = {}
    for batch in manifest.entries():
        for entry in batch.to_pylist():
            if entry["digest"] is None:
                claims.pop(entry["id"], None)
            else:
                claims[entry["id"]] = entry["digest"]
    return claims


def claims_in(folder: ManifestFolder) -> Claims:
    """Load a manifest as a reader does."""
    return claims_of(Manifest.open(folder, TARGET))


def base_of(claims: Claims) -> list:
    """Return claims as the entries of a base."""
    return [known_entries([record_id], [found], [100]) for record_id, found in claims.items()]


class Run:
    """
    A run, as the code that uses the manifest behaves.

    :param server: The namespace: digests by id.
    :ivar table: What it has in memory: updated when a record is sent, not when it is confirmed.
    """

    def __init__(self, folder: ManifestFolder, server: Claims) -> None:
        self.manifest = Manifest.open(folder, TARGET, new_run_id())
        self.table = claims_of(self.manifest)
        self._server = server
        self._unsettled: dict[str, bytes | None] = {}

    def send(self, records: dict[str, bytes | None]) -> None:
        """Send records (deletions, where the digest is None), which the server applies. Nothing is confirmed yet."""
        self.manifest.mark_unknown(list(records))
        self.manifest.flush()
        for record_id, found in records.items():
            for claims in (self._server, self.table):
                if found is None:
                    claims.pop(record_id, None)
                else:
                    claims[record_id] = found
        self._unsettled.update(records)

    def confirm(self) -> None:
        """Enter that the server has confirmed everything that was sent."""
        upserts = {record_id: found for record_id, found in self._unsettled.items() if found is not None}
        self.manifest.append(list(upserts), list(upserts.values()), [100] * len(upserts))
        self.manifest.remove([record_id for record_id, found in self._unsettled.items() if found is None])
        self._unsettled = {}

    def commit(self, summary: dict | None = None) -> None:
        self.manifest.commit(base_of(self.table), summary)


def assert_true(folder: ManifestFolder, server: Claims) -> None:
    """Assert that a manifest claims nothing that is not so, and knows every record of the namespace."""
    claims = claims_in(folder)
    wrong = {key: found for key, found in claims.items() if found not in (UNKNOWN_DIGEST, server.get(key))}
    assert wrong == {}
    assert server.keys() <= claims.keys()


class Death(BaseException):
    """The process is gone."""


@dataclass
class Life:
    """
    How many steps a process has left.

    :param steps: None for any number.
    """

    steps: int | None = None
    taken: int = 0

    def step(self) -> None:
        if self.steps is not None and self.taken >= self.steps:
            raise Death
        self.taken += 1


@dataclass(frozen=True)
class MortalFolder(ManifestFolder):
    """A folder of a process that dies before, in or after one of its accesses to the storage."""

    life: Life = field(default_factory=Life)

    def sizes(self) -> dict[str, int]:
        self.life.step()
        return super().sizes()

    def write(self, name: str, content: bytes) -> None:
        self.life.step()
        super().write(name, content)
        self.life.step()

    def create(self, name: str, content: bytes) -> bool:
        self.life.step()
        is_created = super().create(name, content)
        self.life.step()
        return is_created

    @contextmanager
    def create_large(self, name: str) -> Iterator:
        self.life.step()
        try:
            with super().create_large(name) as file:
                yield file
                self.life.step()
        except Death:
            if isinstance(self.fs, LocalFileSystem):  # a process that is killed does not remove it
                super().write(f"{name}.0badcafe.part", b"PAR1")
            raise
        self.life.step()

    def delete(self, names) -> None:
        for name in names:
            self.life.step()
            super().delete([name])
            self.life.step()
