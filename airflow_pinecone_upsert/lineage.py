"""
Lineage: asset events for Airflow, datasets for OpenLineage, and Airflow's hook lineage.

Invariant: nothing here fails a task; an error becomes a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import AssetAlias

from airflow_pinecone_upsert.assets import openlineage_name, pinecone_asset

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import BaseHook, BaseOperator, Context
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.facet_v2 import schema_dataset

    from airflow_pinecone_upsert.pipeline.read.files import FileRef
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.report import UpsertReport
    from airflow_pinecone_upsert.pipeline.send.events import Attempt
    from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest

log = logging.getLogger(__name__)

_MAX_FILES_NAMED: Final = 100
"""With more files, each folder is one dataset: an event contains the schema of every dataset."""


def outlet_alias(dag_id: str, task_id: str) -> AssetAlias:
    """Build the outlet of a task whose asset is known only when it runs."""
    return AssetAlias(f"pinecone:{dag_id}.{task_id}")


def with_outlet(outlets: Iterable[Any], dag_id: str, task_id: str) -> list[Any]:
    """Add that outlet to those of a task, unless it is one of them."""
    alias = outlet_alias(dag_id, task_id)
    return [*(outlet for outlet in outlets if outlet != alias), alias]


def emit_event(operator: BaseOperator, context: Context, output: dict[str, Any]) -> None:
    """
    Add one event for the namespace that was upserted, with the task's output as its extra.

    The event belongs to the outlet that the user declared for this namespace, or else to the task's alias. In a
    partitioned run, Airflow adds the partition key to it. A dry run changed nothing, so it has no event of its own; Airflow
    emits that of a declared outlet, whose extra then says ``dryRun``.

    :param context: Outside a run it is empty, and nothing happens.
    """
    if "outlet_events" not in context:
        return
    try:
        _add_event(operator.outlets, context, output, outlet_alias(operator.dag_id, operator.task_id))
    except Exception:
        what = getattr(operator, "operation", "upsert")
        log.warning(
            "The asset event of this %s could not be emitted; the %s itself is complete.", what, what, exc_info=True
        )


def _add_event(outlets: Iterable[Any], context: Context, output: dict[str, Any], alias: AssetAlias) -> None:
    events = context["outlet_events"]
    asset = pinecone_asset(output["indexHost"], output["namespace"])
    declared = [outlet for outlet in outlets if getattr(outlet, "uri", None) == asset.uri]
    for outlet in declared:
        events[outlet].extra.update(output)
    if not declared and not output.get("dryRun"):
        events[alias].add(asset, extra=output)


def report_to_hook_lineage(hook: BaseHook, source: RecordSource, index_host: str, namespace: str | None) -> None:
    """
    Report to Airflow what a hook reads and writes, for tasks whose operator does not report lineage itself.

    What else the task reads is reported by the hooks that read it.

    :param source: Its files are reported; records in memory are not a dataset.
    :param namespace: None where the records name theirs, which nothing knows before they are read.
    """
    try:
        from airflow.providers.common.compat.sdk import get_hook_lineage_collector

        collector = get_hook_lineage_collector()
        parquet = _parquet(source)
        for file in parquet.files[:_MAX_FILES_NAMED] if parquet else ():
            collector.add_input_asset(context=hook, uri=f"file://{file.path}" if file.is_local else file.url)
        if namespace is not None:
            collector.add_output_asset(context=hook, uri=pinecone_asset(index_host, namespace).uri)
    except Exception:
        log.warning("This upsert could not be reported to hook lineage.", exc_info=True)


@dataclass
class Trace:
    """
    What one try of a task reads and writes. It observes the run, so that it also has the report of a failed one.

    :param source: The records.
    :param report: None until the run ends.
    """

    source: RecordSource
    report: UpsertReport | None = None

    def attempted(self, attempt: Attempt[UpsertRequest]) -> None:
        """Do nothing: the report counts the attempts."""

    def ended(self, report: UpsertReport) -> None:
        """Remember the report."""
        self.report = report


def openlineage(trace: Trace | None) -> OperatorLineage[Any, Any]:
    """
    Return the input files and the output namespace of a task, successful or not.

    Rows and bytes written are those of all tries, as in the task's output; the bytes are those of the requests.

    :param trace: None if the task failed before it had a source; without a report if it failed before the upsert began.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    if trace is None or trace.report is None:
        return OperatorLineage()
    try:
        outputs = [] if trace.report.is_dry_run else _outputs(trace.report)
        return OperatorLineage(inputs=list(_inputs(trace.source)), outputs=outputs)
    except Exception:
        log.warning("This upsert could not be reported to OpenLineage.", exc_info=True)
        return OperatorLineage()


def _outputs(report: UpsertReport) -> list[OutputDataset]:
    """Return one dataset; where the records name their namespaces, one for each of the largest, whose bytes are unknown."""
    if report.namespaces is None:
        return [_output(report.index_host, report.namespace, report.counts.upserted, report.counts.request_bytes)]
    return [_output(report.index_host, name, count, None) for name, count in report.largest_namespaces.items()]


def _output(index_host: str, namespace: str, rows: int, size: int | None) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as facet

    names = openlineage_name(pinecone_asset(index_host, namespace))
    statistics = facet.OutputStatisticsOutputDatasetFacet(rows, size)
    return OutputDataset(*names, outputFacets={"outputStatistics": statistics})


def _parquet(source: RecordSource) -> ParquetSource | None:
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

    return source if isinstance(source, ParquetSource) else None


def _inputs(source: RecordSource) -> Iterator[InputDataset]:
    """Yield one dataset per file, or per folder if there are many; records from another task are not a dataset."""
    parquet = _parquet(source)
    if parquet is None:
        return
    named = [(_openlineage_name(file), file) for file in parquet.files]
    if len(named) > _MAX_FILES_NAMED:
        named = [((namespace, name.rpartition("/")[0] or "/"), file) for (namespace, name), file in named]
    for names, found in groupby(sorted(named, key=itemgetter(0)), key=itemgetter(0)):
        yield _input(names, [file for _, file in found], parquet)


def _openlineage_name(file: FileRef) -> tuple[str, str]:
    """Return namespace and name as https://openlineage.io/docs/spec/naming has them: scheme and bucket, and the key."""
    if file.is_local:
        return "file", file.path
    scheme, _, rest = file.url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _input(names: tuple[str, str], files: list[FileRef], source: ParquetSource) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset as facet

    schema = next((source.schemas[file.url] for file in files if file.url in source.schemas), None)
    statistics = facet.InputStatisticsInputDatasetFacet(size=sum(file.size for file in files), fileCount=len(files))
    return InputDataset(
        *names,
        inputFacets={"inputStatistics": statistics},
        facets={} if schema is None else {"schema": _schema(schema)},
    )


def _schema(schema: pa.Schema) -> schema_dataset.SchemaDatasetFacet:
    from openlineage.client.facet_v2 import schema_dataset

    columns = [schema_dataset.SchemaDatasetFacetFields(column.name, str(column.type)) for column in schema]
    return schema_dataset.SchemaDatasetFacet(columns)
