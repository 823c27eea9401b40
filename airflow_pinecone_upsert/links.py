"""The link from a task instance in Airflow's UI to its index in the Pinecone console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

_INDEXES: Final = "https://app.pinecone.io/organizations/-/projects/-/indexes"
"""The console replaces each ``-`` with the organization or the project of the signed-in user."""


class PineconeConsoleLink(BaseOperatorLink):
    """A link to the index that a task wrote to."""

    name = "Pinecone console"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the URL of the index's page; empty if the task ended before it knew its index."""
        index_url = getattr(operator, "index_url", None)
        return console_url(index_url) if index_url else ""


def console_url(index_url: str) -> str:
    """
    Return the URL of an index's page in the console, or of the list of indexes if the host does not contain a name.

    :param index_url: The URL of the index: ``https://{name}-{project}.svc.….pinecone.io``.
    """
    host = urlsplit(index_url).hostname or ""
    name, _, _project = host.partition(".")[0].rpartition("-")
    return f"{_INDEXES}/{name}" if name and host.endswith(".pinecone.io") else _INDEXES
