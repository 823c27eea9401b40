"""
The notes of a release: the section of the changelog for a tag.

Exits with an error if the tag is not the package's version, or if the changelog is not ready. Used by the workflow that
publishes a release, before anything is installed: only the standard library is imported.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_version(root: Path) -> str:
    """Return ``__version__``, the only place that says it."""
    source = (root / "airflow_pinecone_upsert" / "__init__.py").read_text()
    return re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]


def sections(changelog: str) -> dict[str, str]:
    """Return the sections of a changelog by heading, without the date that follows a version."""
    parts = re.split(r"^## (.+)\n", changelog, flags=re.MULTILINE)
    return {heading.partition(" ")[0]: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def notes(tag: str, root: Path = ROOT) -> str:
    """
    Return the notes of a release.

    :param tag: Such as ``v0.2.0``.
    :param root: The root of the repository.
    :raises SystemExit: The tag, the version and the changelog contradict one another.
    """
    version = package_version(root)
    if tag != f"v{version}":
        raise SystemExit(
            f"The tag is {tag!r}, but the version of the package is {version!r}: the tag must be 'v{version}'."
        )
    found = sections((root / "CHANGELOG.md").read_text())
    if not found.get(version):
        raise SystemExit(f"CHANGELOG.md has no section '## {version} (date)', or it is empty.")
    if found.get("Unreleased"):
        raise SystemExit(f"CHANGELOG.md has entries under Unreleased: move them to '## {version} (date)'.")
    return found[version]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Usage: release_notes.py TAG")
    print(notes(sys.argv[1]))
