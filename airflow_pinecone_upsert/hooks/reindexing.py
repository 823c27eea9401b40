"""
What a reindexing run takes from Airflow: the task that holds the lease on the manifest, and the price of a write unit.

Invariant: the lease is acquired before the manifest is opened, and given back however the run ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from airflow_pinecone_upsert.api.cost import USD_PER_MILLION_WRITE_UNITS
from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.reindex.digest import DIGEST_NAME, DIGEST_VERSION
from airflow_pinecone_upsert.reindex.forecast import forecast
from airflow_pinecone_upsert.reindex.lease import Holder, Lease
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, Target, new_run_id
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport

log = logging.getLogger(__name__)


class OpenManifest(NamedTuple):
    """
    A manifest that a run may use.

    :param manifest: The manifest.
    :param keep: Renews the lease if it is due. Called often; raises if another run has taken over.
    """

    manifest: Manifest
    keep: Callable[[], None]


def target_of(index_url: str, options: ReindexOptions) -> Target:
    """Return what a manifest must describe to be used: the index, the namespace, and how records are read."""
    return Target(index_url, options.namespace, options.identity, DIGEST_NAME, DIGEST_VERSION)


def _running_task(run_id: str) -> Holder:
    """Return the running task; outside of one, host and process are named."""
    from airflow.sdk import get_current_context

    try:
        task = get_current_context()["ti"]
    except RuntimeError:
        return Holder(run_id)
    return Holder(
        run_id,
        dag_run=task.run_id,
        task=f"{task.dag_id}.{task.task_id}",
        map_index=-1 if task.map_index is None else task.map_index,
        try_number=task.try_number,
    )


@contextmanager
def open_manifest(
    folder: ManifestFolder,
    target: Target,
    *,
    is_dry_run: bool,
    holder: Callable[[str], Holder] = _running_task,
    now: Callable[[], float] = time.time,
) -> Iterator[OpenManifest]:
    """
    Open a manifest for one run.

    :param folder: Where it is.
    :param target: What it must describe.
    :param is_dry_run: Only read it. That needs no lease, and leaves no trace.
    :param holder: Returns who holds the lease, given the id of this run.
    :param now: Returns seconds since 1970.
    :raises ManifestInUseError: Another run holds the lease.
    :raises ManifestError: It describes another target or is damaged, or the folder cannot be used.
    :raises StorageError: The storage does not respond.
    """
    if is_dry_run:
        yield OpenManifest(Manifest.open(folder, target), lambda: None)
        return
    run_id = new_run_id()
    lease = Lease.acquire(folder, holder(run_id), now())
    try:
        manifest = Manifest.open(folder, target, run_id)
        yield OpenManifest(manifest, lambda: lease.renew_if_due(now()))
    finally:
        _release(lease)


def _release(lease: Lease) -> None:
    """Give a lease back; where that fails, only log it: it expires, and the run ended as it ended."""
    try:
        lease.release()
    except PineconeUpsertError as exc:
        log.warning("The lease could not be given back, and will expire: %s", exc)


def log_forecast(report: ReindexReport, options: ReindexOptions) -> None:
    """Log what the run after a dry run would cost, at the price of Airflow's configuration, and examples."""
    from airflow.providers.common.compat.sdk import conf

    price = conf.getfloat("pinecone_upsert", "usd_per_million_write_units", fallback=USD_PER_MILLION_WRITE_UNITS)
    for line in forecast(report, options, price):
        log.info("%s", line)
