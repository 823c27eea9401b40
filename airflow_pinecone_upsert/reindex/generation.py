"""
Generations: which files are the manifest. Decisions only: nothing here touches a storage.

::

    gen-000018.json                     names the files below, the target and the run that created it
    base-000018-5f2c9e01a7b3.parquet    all entries at the last compaction; written by run 5f2c9e01a7b3
    segment-5f2c9e01a7b3-000001.parquet what this run journaled since, in order
    lease-000009.json                   which run may write, see lease.py

The newest generation that can be read is the state. Its entries, the later ones overriding the earlier ones, are

1. its base,
2. the segments that it names, in order, where those that it calls *doubtful* only make their ids unknown,
3. the segments of the run that created it, in the order of their numbers, if they are newer than those it has *seen*,
4. doubtful ones: all other segments that are newer than those it has seen.

A run creates a generation when it starts, so number 4 are segments of earlier runs that went on although a newer one had
taken over. Their claims may have been overwritten in the namespace, or may have overwritten it, so neither claim is
kept: such a record is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from airflow_pinecone_upsert.pipeline.whole_file import PARTIAL_SUFFIX

FORMAT: Final = 1
"""Raised when the files change: a manifest of another format is not read."""

_GENERATION: Final = re.compile(r"gen-(\d{6,})\.json")
_BASE: Final = re.compile(r"base-\d{6,}-[0-9a-z]+\.parquet")
_SEGMENT: Final = re.compile(r"segment-([0-9a-z]+)-(\d{6,})\.parquet")
_PARTIAL: Final = re.compile(rf"(base|segment)-.*{re.escape(PARTIAL_SUFFIX)}")

JSON = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """
    What a manifest describes.

    :param index_url: The index's URL.
    :param namespace: ``""`` is the default namespace. Where records name theirs, that of those that name none.
    :param options: Other options that change what is sent, such as the columns; JSON values.
    :param digest_name: The function of the digests.
    :param digest_version: Raised when the same record gets another digest.
    """

    index_url: str
    namespace: str
    options: JSON = field(default_factory=dict)
    digest_name: str = ""
    digest_version: int = 0

    @property
    def digest_function(self) -> str:
        """Name and version of the digest."""
        return f"{self.digest_name}/{self.digest_version}"

    @property
    def has_many_namespaces(self) -> bool:
        """Whether the records name their namespaces, so that an id of an entry is a key that does so, too."""
        return any(self.options.get(name) for name in ("namespace_column", "namespace_from_path"))

    def differences(self, other: Target) -> list[str]:
        """Return what is another target, for a message; the digest does not count."""
        mine, theirs = self._named(), other._named()
        return [
            f"{name} is {mine.get(name)!r} there and {theirs.get(name)!r} here"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]

    def _named(self) -> dict[str, Any]:
        options: dict[str, Any] = orjson.loads(orjson.dumps(dict(self.options)))  # as they are stored: tuples are lists
        return {"the index": self.index_url, "the namespace": self.namespace, **options}


class Segment(NamedTuple):
    """
    A file of journaled entries.

    :param name: The file's.
    :param is_doubtful: Its ids are unknown, because another run wrote at the same time.
    """

    name: str
    is_doubtful: bool = False


@dataclass(frozen=True)
class Generation:
    """
    One state of a manifest.

    :param number: Counted from 1; there may be gaps.
    :param run_id: The run that created it, and whose further segments belong to it.
    :param base: The file's name; None before the first compaction.
    :param segments: In order.
    :param seen: By run, the number of the last segment that is in the base or in ``segments``.
    :param record_count: Entries of the base.
    :param total_bytes: Of the records in the base, by Pinecone's cost rule.
    :param last_run: What the last successful run reported.
    """

    number: int
    target: Target
    run_id: str
    base: str | None = None
    segments: tuple[Segment, ...] = ()
    seen: Mapping[str, int] = field(default_factory=dict)
    record_count: int = 0
    total_bytes: int = 0
    last_run: JSON | None = None

    def as_json(self) -> bytes:
        """Return the stored form."""
        stored = {"format": FORMAT, **asdict(self), "segments": [list(segment) for segment in self.segments]}
        return orjson.dumps(stored, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, content: bytes) -> Generation:
        """
        Read the stored form.

        :raises OtherFormatError: It has another format.
        :raises ValueError: It is not complete.
        """
        try:
            stored = orjson.loads(content)
            if (found := stored.pop("format")) != FORMAT:
                raise OtherFormatError(found)
            stored["target"] = Target(**stored["target"])
            stored["segments"] = tuple(Segment(name, bool(is_doubtful)) for name, is_doubtful in stored["segments"])
            return cls(**stored)
        except (AttributeError, LookupError, TypeError) as exc:
            raise ValueError(str(exc)) from exc


class OtherFormatError(ValueError):
    """A generation of another format. Its argument is the format."""


def generation_name(number: int) -> str:
    """Return the name of a generation's file."""
    return f"gen-{number:06}.json"


def base_name(number: int, run_id: str) -> str:
    """Return the name of the base of a generation that a run wants to create."""
    return f"base-{number:06}-{run_id}.parquet"


def segment_name(run_id: str, number: int) -> str:
    """Return the name of the segment of a run. Its number is higher than those of its earlier segments."""
    return f"segment-{run_id}-{number:06}.parquet"


def generation_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the generations among some files, the newest first."""
    return sorted((int(found[1]) for name in names if (found := _GENERATION.fullmatch(name))), reverse=True)


def unseen_segments(generation: Generation, names: Iterable[str]) -> list[Segment]:
    """Return the segments that belong to a generation although it does not name them, in the order of their entries."""
    found = _segments(names)
    unseen = [(run_id, number) for run_id, number in found if number > generation.seen.get(run_id, 0)]
    # The generation's own run first: what is doubtful overrides it.
    unseen.sort(key=lambda segment: (segment[0] != generation.run_id, segment))
    return [Segment(found[key], is_doubtful=key[0] != generation.run_id) for key in unseen]


def seen_segments(names: Iterable[str]) -> dict[str, int]:
    """Return the number of the last segment of each run."""
    seen: dict[str, int] = {}
    for run_id, number in _segments(names):
        seen[run_id] = max(number, seen.get(run_id, 0))
    return seen


def obsolete_files(generation: Generation, names: Collection[str]) -> list[str]:
    """
    Return the files that the newest generation has made superfluous, and what dead processes left.

    The generations come first: where a deletion is interrupted, no generation names a file that is gone.

    :param names: A listing in which this generation is the newest.
    """
    named = {generation.base, *(segment.name for segment in generation.segments)}
    named.update(segment.name for segment in unseen_segments(generation, names))
    older = [generation_name(number) for number in generation_numbers(names) if number < generation.number]
    others = [name for name in names if (_BASE.fullmatch(name) or _SEGMENT.fullmatch(name)) and name not in named]
    return [*older, *others, *(name for name in names if _PARTIAL.fullmatch(name))]


def _segments(names: Iterable[str]) -> dict[tuple[str, int], str]:
    return {(found[1], int(found[2])): name for name in names if (found := _SEGMENT.fullmatch(name))}
