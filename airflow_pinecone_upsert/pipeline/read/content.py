"""
Recognise a file that was replaced by one that looks the same: by a digest of what Arrow reads to open it.

That is the end of the file, at least the whole footer, so the digest costs no request, and any other writing changes it.

Invariants:

- What a checkpoint stores does not grow with the number of files: the digests of finished files are one chained digest.
- A finished file is opened again only if its storage does not itself report a version of its content, such as an ETag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.read.files import FileRef

_DIGEST_CHARACTERS = 16


class HashingHandle:
    """
    A file whose reads are hashed.

    :param handle: The file.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The digest of everything that was read."""
        return self._hash.hexdigest()[:_DIGEST_CHARACTERS]

    def read(self, size: int = -1) -> Any:
        """Read and hash."""
        content = self._handle.read(size)
        self._hash.update(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


class ContentDigests:
    """
    The digests of the files that were opened.

    :param files: All files, in the order in which they are read.
    """

    def __init__(self, files: Sequence[FileRef]) -> None:
        self._files = files
        self._by_url: dict[str, str] = {}

    def add(self, file: FileRef, digest: str) -> None:
        """Enter the digest of a file."""
        self._by_url[file.url] = digest

    def as_json(self, finished: int, begun: Iterable[int], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
        """
        Return what a checkpoint stores.

        :param finished: How many files are finished: the first ones.
        :param begun: The numbers of others that were begun.
        :param earlier: What the checkpoint that this try resumed from stored. Files finished before it are not opened.
        """
        count, chain = earlier["finished"] if earlier else (0, "")
        known = earlier["begun"] if earlier else {}
        for file in self._files[count:finished]:
            chain = _chained(chain, file, lambda file: self._by_url.get(file.url, ""))
        digests = {str(number): self._by_url.get(self._files[number].url, known.get(str(number))) for number in begun}
        return {
            "finished": [finished, chain],
            "begun": {number: digest for number, digest in digests.items() if digest},
        }


def find_change(stored: Mapping[str, Any], files: Sequence[FileRef], digest_of: Callable[[FileRef], str]) -> str | None:
    """
    Compare files with the digests that a checkpoint stores.

    :param stored: See :meth:`ContentDigests.as_json`.
    :param files: All files. Their names, sizes and versions are those of the checkpoint.
    :param digest_of: Opens a file.
    :return: What changed, as the log names it; None where nothing did.
    :raises StorageError: The storage does not answer.
    """
    for number, digest in stored["begun"].items():
        file = files[int(number)]
        if _digest_or_nothing(file, digest_of) != digest:
            return f"the content of {file.url}"
    count, expected = stored["finished"]
    chain = ""
    for file in files[:count]:
        chain = _chained(chain, file, lambda file: _digest_or_nothing(file, digest_of))
    return None if chain == expected else "the content of a file that was finished"


def _chained(chain: str, file: FileRef, digest_of: Callable[[FileRef], str]) -> str:
    if file.has_content_version:
        return chain
    return hashlib.sha256(f"{chain}{digest_of(file)}".encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _digest_or_nothing(file: FileRef, digest_of: Callable[[FileRef], str]) -> str:
    try:
        return digest_of(file)
    except SourceError:  # the file is none that could be read before
        return ""
