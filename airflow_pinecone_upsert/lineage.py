"""
What others learn of an upsert: Airflow by an asset event, lineage tools by OpenLineage or by Airflow's hook lineage.

What always holds: nothing in here fails a task; what goes wrong is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import AssetAlias
from typing_extensions import Self

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

log = logging.getLogger(__name__)

_MAX_FILES_NAMED: Final = 100
"""With more files than these each folder is one dataset: an event names its schema for every dataset."""


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
        log.warning(
            "The asset event of this upsert could not be emitted; the upsert itself is complete.", exc_info=True
        )


def _add_event(outlets: Iterable[Any], context: Context, output: dict[str, Any], alias: AssetAlias) -> None:
    events = context["outlet_events"]
    asset = pinecone_asset(output["indexHost"], output["namespace"])
    declared = [outlet for outlet in outlets if getattr(outlet, "uri", None) == asset.uri]
    for outlet in declared:
        events[outlet].extra.update(output)
    if not declared:
        events[alias].add(asset, extra=output)


def tell_hook_lineage(hook: BaseHook, index_host: str, namespace: str) -> None:
    """
    Tell Airflow that a hook writes to a namespace; lineage tools ask where the operator of a task says nothing itself.

    What the task reads is told by the hooks that read it.
    """
    try:
        from airflow.providers.common.compat.sdk import get_hook_lineage_collector

        asset = pinecone_asset(index_host, namespace)
        get_hook_lineage_collector().add_output_asset(context=hook, uri=asset.uri)
    except Exception:
        log.warning("This upsert could not be reported to hook lineage.", exc_info=True)


@dataclass
class Trace:
    """
    What a try of a task reads and writes. Used as a context, it keeps the report of an upsert that failed.

    :param source: The records.
    :param index_host: The index.
    :param namespace: Where they go.
    :param output: The report at the end, as the task's output holds it; empty before that.
    """

    source: RecordSource
    index_host: str
    namespace: str
    output: Mapping[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.output = getattr(error, "report", self.output)


def openlineage(trace: Trace | None) -> OperatorLineage[Any, Any]:
    """
    Tell OpenLineage which files were to be read, and what was written until the end of the task, good or bad.

    Rows and bytes written are those of all tries, as in the task's output; the bytes are those of the requests.

    :param trace: None where the task failed before it knew what to do.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    if trace is None:
        return OperatorLineage()
    try:
        return OperatorLineage(inputs=list(_inputs(trace.source)), outputs=[_output(trace)])
    except Exception:
        log.warning("This upsert could not be reported to OpenLineage.", exc_info=True)
        return OperatorLineage()


def _output(trace: Trace) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as facet

    names = openlineage_name(pinecone_asset(trace.index_host, trace.namespace))
    if not trace.output:
        return OutputDataset(*names)
    statistics = facet.OutputStatisticsOutputDatasetFacet(trace.output["upsertedCount"], trace.output["requestBytes"])
    return OutputDataset(*names, outputFacets={"outputStatistics": statistics})


def _inputs(source: RecordSource) -> Iterator[InputDataset]:
    """Name the files; records that come from another task are no dataset."""
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

    if not isinstance(source, ParquetSource):
        return
    named = [(_openlineage_name(file), file) for file in source.files]
    if len(named) > _MAX_FILES_NAMED:
        named = [((namespace, name.rpartition("/")[0] or "/"), file) for (namespace, name), file in named]
    for names, found in groupby(sorted(named, key=itemgetter(0)), key=itemgetter(0)):
        yield _input(names, [file for _, file in found], source)


def _openlineage_name(file: FileRef) -> tuple[str, str]:
    """Return namespace and name by https://openlineage.io/docs/spec/naming: a bucket with its scheme, and the key."""
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
