"""
The command ``python -m airflow_pinecone_upsert.reindex show PATH``: prints what a manifest says.

It is the only module of this part that may import Airflow, and does so for a path with an Airflow connection
(``s3://aws_default@bucket/folder``) only. fsspec opens the others, with the credentials that it finds itself.

The exit status is 0, or 1 if the manifest cannot be read, or 2 if an argument is invalid.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SetupError
from airflow_pinecone_upsert.reindex.folder import ManifestFolder
from airflow_pinecone_upsert.reindex.show import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print what a manifest says.

    :param arguments: The command line without the program name; by default ``sys.argv[1:]``.
    :return: The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        print(describe(_open(options.path)))  # noqa: T201 - the output of a command
    except PineconeUpsertError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airflow_pinecone_upsert.reindex", description="Manifests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="print what a manifest says", description="Print what a manifest says.")
    show.add_argument(
        "path",
        metavar="PATH",
        help="the manifest_path of a task: a local folder, or s3://bucket/folder, or with an "
        "Airflow connection s3://aws_default@bucket/folder",
    )
    return parser


def _open(path: str) -> ManifestFolder:
    if "@" in urlsplit(path).netloc:
        from airflow_pinecone_upsert.storage import manifest_folder

        return manifest_folder(path)
    try:
        return ManifestFolder(*url_to_fs(path))
    except (ValueError, ImportError) as exc:
        raise SetupError(f"No file system for {path} is installed here ({exc}). Check the scheme.") from exc


if __name__ == "__main__":
    sys.exit(main())
