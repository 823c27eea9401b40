"""
What others learn of an upsert: Airflow by an asset event, lineage tools by OpenLineage.

What always holds: nothing in here fails a task, whose work is done by then; what goes wrong is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_pinecone_upsert.assets import pinecone_asset

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

log = logging.getLogger(__name__)


def outlet_alias(operator: BaseOperator) -> AssetAlias:
    """Build the outlet of a task that learns only when it runs which asset it writes."""
    return AssetAlias(f"pinecone:{operator.dag_id}.{operator.task_id}")


def emit_event(operator: BaseOperator, context: Context, output: dict[str, Any]) -> None:
    """
    Add one event for the namespace that was upserted, with the task's output as its extra.

    An outlet that the user declared for this very namespace takes it; otherwise the task's alias does. The partition
    key of a partitioned run is Airflow's to add, and it does so for either.

    :param context: Outside a run it is empty, and nothing happens.
    """
    if "outlet_events" not in context:
        return
    try:
        _add_event(operator.outlets, context, output, outlet_alias(operator))
    except Exception:
        log.warning("No asset event tells of this upsert, which is complete.", exc_info=True)


def _add_event(outlets: Iterable[Any], context: Context, output: dict[str, Any], alias: AssetAlias) -> None:
    events = context["outlet_events"]
    asset = pinecone_asset(output["indexHost"], output["namespace"])
    declared = [outlet for outlet in outlets if getattr(outlet, "uri", None) == asset.uri]
    for outlet in declared:
        events[outlet].extra.update(output)
    if not declared:
        events[alias].add(asset, extra=output)
