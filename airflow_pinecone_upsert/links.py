"""The task's button that leads to its index in Pinecone's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

_INDEXES: Final = "https://app.pinecone.io/organizations/-/projects/-/indexes"
"""The console finds organisation and project of whoever is signed in."""


class PineconeConsoleLink(BaseOperatorLink):
    """Leads to the index that a task wrote to."""

    name = "Pinecone console"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the index's page; empty where the task did not get as far as to know its index."""
        host = getattr(operator, "index_url", None)
        return console_url(host) if host else ""


def console_url(index_url: str) -> str:
    """
    Return an index's page in the console, or that of all indexes where the host does not tell its name.

    :param index_url: ``https://{name}-{project}.svc.….pinecone.io``.
    """
    host = urlsplit(index_url).hostname or ""
    name, _, _project = host.partition(".")[0].rpartition("-")
    return f"{_INDEXES}/{name}" if name and host.endswith(".pinecone.io") else _INDEXES
