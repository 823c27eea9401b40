"""
Plan the mapped tasks of a load, and sum up what they did.

Invariants:

- The plan reads listings and footers, no data.
- The manifest of a namespace depends on its name only, so that every night finds it, whatever other namespaces there are.
- A sum exists only if every task of the plan has a report, and the reports account for every row of the plan.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_pinecone_upsert.exceptions import IncompleteUpsertError, SetupError, SourceError
from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.counts import ReindexCounts

if TYPE_CHECKING:
    from airflow_pinecone_upsert.pipeline.read.files import FileRef
    from airflow_pinecone_upsert.pipeline.shares import Share
    from airflow_pinecone_upsert.storage import ListedPath

log = logging.getLogger(__name__)

_PARALLEL: Final = 16
_MAX_SHOWN: Final = 5
_TEMPLATES: Final = ("{{", "{%", "{#")
_SUMMED: Final = ("resumedCount", *ReindexCounts().as_json())


def plan_tasks(
    parquet_paths: Any,
    *,
    by: Literal["namespace", "bytes"] = "namespace",
    manifests_path: Any = None,
    max_tasks: int = defaults.MAX_TASKS,
    target_bytes: int = defaults.TARGET_BYTES,
) -> list[dict[str, Any]]:
    """
    Divide Parquet files among mapped tasks, which ``.expand_kwargs(…)`` of the upsert or reindex operator creates.

    Each dict is the arguments of one task: ``parquet_paths``, perhaps ``namespace``, ``namespace_from_path`` or
    ``manifest_path``, and ``params`` with ``name``, for ``map_index_template="{{ params.name }}"``, and ``records``, the rows of
    the files, which :func:`summarize` compares with the reports.

    :param parquet_paths: By namespace, the folder that contains a folder for each namespace: ``<root>/<namespace>/*.parquet``,
        where ``__default__`` is the default namespace. By bytes, what ``parquet_paths`` of an operator may be.
    :param by: ``"namespace"``: a task has whole namespaces, or files of one that is larger than ``target_bytes``.
        ``"bytes"``: a task has any of the files, and the operator names the namespace.
    :param manifests_path: For reindexing by namespace: the folder of all manifests. Each namespace then has one task, whose
        manifest is ``<manifests_path>/<namespace>``. A namespace that has a manifest but no files any more stays in the plan.
    :param max_tasks: Tasks, at most.
    :param target_bytes: Bytes of files for one task; more where ``max_tasks`` requires it.
    :return: The arguments of each task; for upserts, the largest first.
    :raises SourceError: A path names no file, or a file cannot be read or is not in the folder of a namespace.
    :raises SetupError: ``max_tasks`` is too small, the paths are wrong, or no installed package supports a scheme.
    :raises StorageError: The storage does not respond.
    """
    from airflow_pinecone_upsert import storage

    if max_tasks < 1 or target_bytes < 1:
        raise SetupError("max_tasks and target_bytes of a plan must be 1 or more.")
    if by == "bytes":
        if manifests_path is not None:
            raise SetupError("A manifest describes a whole namespace: use manifests_path with by='namespace'.")
        return _plan_by_bytes(storage.listed_paths(parquet_paths), max_tasks, target_bytes)
    if by != "namespace":
        raise SetupError(f"by of a plan is 'namespace' or 'bytes', not {by!r}.")
    listed = storage.listed_namespaces(parquet_paths)
    if manifests_path is None:
        return _plan_by_namespace(listed, max_tasks, target_bytes)
    storage.check_manifests_path(manifests_path, parquet_paths)
    return _plan_reindexing(listed, str(manifests_path), max_tasks)


def summarize(reports: Iterable[Mapping[str, Any] | None], *, plan: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Add up the outputs of the mapped tasks of a plan. Run it with ``trigger_rule="all_done"``: otherwise it is skipped with them.

    A row of the plan is accounted for if its record was confirmed, found unchanged, or rejected where that is allowed.

    :param reports: The outputs, in the order of the plan: ``operator.output``.
    :param plan: What :func:`plan_tasks` returned.
    :return: The sums of the outputs' counts by their keys, ``taskCount`` and ``rejectsPaths``.
    :raises IncompleteUpsertError: A task of the plan has no output, or its output does not account for every row.
    """
    found = [report for report in _all(reports) if report is not None]
    if not plan:
        raise IncompleteUpsertError("There is no plan, so nothing was done. See the log of the task that makes it.")
    if len(found) != len(plan):
        raise IncompleteUpsertError(
            f"The plan has {len(plan):,} tasks, and {len(found):,} of them have an output{_missing(plan, found)}. "
            "Clear those that failed or were skipped, and then this task."
        )
    if wrong := [
        _difference(entry, report) for entry, report in zip(plan, found, strict=True) if _differs(entry, report)
    ]:
        more = f" … and {len(wrong) - _MAX_SHOWN:,} more tasks" if len(wrong) > _MAX_SHOWN else ""
        raise IncompleteUpsertError(
            f"Not every record of the plan is accounted for: {'; '.join(wrong[:_MAX_SHOWN])}{more}. "
            "Files were probably added, removed or replaced in mid-run: run the plan again once they are complete."
        )
    keys = [key for key in _SUMMED if any(key in report for report in found)]
    return {
        **{key: round(sum(report.get(key) or 0 for report in found), 3) for key in keys},
        "rejectsPaths": [path for report in found for path in report.get("rejectsPaths") or ()],
        "taskCount": len(found),
    }


def _all(reports: Iterable[Mapping[str, Any] | None] | None) -> Iterable[Mapping[str, Any] | None]:
    """Return reports; of a lazy sequence of Airflow in one request, instead of one for each and an error for the end."""
    return reports[:] if isinstance(reports, Sequence) else reports or ()


def _accounted(report: Mapping[str, Any]) -> int:
    """Return how many rows a report accounts for. Of a dry run, and of a retry of reindexing, nothing may be upserted."""
    is_reindexing = "unchangedCount" in report
    keys = ("newCount", "changedCount", "unchangedCount") if is_reindexing else ("upsertedCount",)
    return sum(report[key] for key in (*keys, "rejectedCount"))


def _differs(entry: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    return bool(_accounted(report) != entry["params"]["records"])


def _difference(entry: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    return f"{entry['params']['name']} has {entry['params']['records']:,} rows, and its task reports {_accounted(report):,}"


def _missing(plan: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]) -> str:
    """Name what has no report, where each task has one namespace."""
    if not all("namespace" in entry for entry in plan):
        return ""
    planned = Counter(entry["namespace"] for entry in plan)
    names = sorted((planned - Counter(report["namespace"] for report in reports)).keys())
    if not names:
        return ""
    more = f" … and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
    return f": missing are {', '.join(names[:_MAX_SHOWN])}{more}"


def _plan_by_bytes(listed: Sequence[ListedPath], max_tasks: int, target_bytes: int) -> list[dict[str, Any]]:
    from airflow_pinecone_upsert.pipeline.shares import divide

    urls: dict[str, str] = {}
    folders: dict[str, list[FileRef]] = {}
    whole = set()
    for one in listed:
        for file in one.files:
            url = one.url_of(file.path)
            folder = url.rpartition("/")[0]
            if one.has_whole_folders:
                whole.add(folder)
            if file.url not in urls:
                urls[file.url] = url
                folders.setdefault(folder, []).append(file)
    rows = _count_rows([file for files in folders.values() for file in files])

    def paths_of(share: Share) -> list[str]:
        paths = []
        for piece in share:
            is_folder = piece.is_whole and piece.folder in whole
            paths += [piece.folder] if is_folder else [urls[file.url] for file in piece.files]
        return paths

    shares = divide(folders, max_tasks, target_bytes)
    return [_entry(share, paths_of(share), rows, _names(paths_of(share), "paths")) for share in shares]


def _plan_by_namespace(listed: ListedPath, max_tasks: int, target_bytes: int) -> list[dict[str, Any]]:
    from airflow_pinecone_upsert.pipeline.shares import divide

    namespaces = _namespaces(listed)
    rows = _count_rows(listed.files)

    def entry_of(share: Share) -> dict[str, Any]:
        names = [piece.folder for piece in share]
        if len(share) > 1:
            paths = [listed.url_of(f"{listed.path}/{name}") for name in names]
            entry = _entry(share, paths, rows, _names(names, "namespaces"))
            return {**entry, "namespace_from_path": listed.url_of(listed.path)}
        (piece,) = share
        paths = _folders(listed, piece.files) if piece.is_whole else [listed.url_of(file.path) for file in piece.files]
        return {"namespace": piece.folder, **_entry(share, paths, rows, piece.folder)}

    return [entry_of(share) for share in divide(namespaces, max_tasks, target_bytes)]


def _plan_reindexing(listed: ListedPath, manifests_path: str, max_tasks: int) -> list[dict[str, Any]]:
    from airflow_pinecone_upsert.storage import manifests_below

    namespaces = _namespaces(listed)
    vanished = manifests_below(manifests_path, other_than=namespaces)
    if vanished:
        log.warning(
            "%s have a manifest in %s, but no files in %s any more. Their tasks fail, because a source without records deletes "
            "nothing. Restore the files, or delete the namespaces, and then the folders of their manifests.",
            _names(vanished, "namespaces"),
            manifests_path,
            listed.url_of(listed.path),
        )
    names = sorted({*namespaces, *vanished})
    if len(names) > max_tasks:
        raise SetupError(
            f"Reindexing needs a task for each of {len(names):,} namespaces, and max_tasks is {max_tasks:,}. Raise it, and "
            "Airflow's [core] max_map_length, which is 1024 by default, if it is smaller."
        )
    rows = _count_rows(listed.files)
    return [
        {
            "namespace": name,
            "parquet_paths": _one_or_many(_folders(listed, namespaces[name]))
            if name in namespaces
            else listed.url_of(f"{listed.path}/{name}"),
            "manifest_path": f"{manifests_path.rstrip('/')}/{name}",
            "params": {"name": name, "records": sum(rows[file.url] for file in namespaces.get(name, ()))},
        }
        for name in names
    ]


def _namespaces(listed: ListedPath) -> dict[str, list[FileRef]]:
    """Return the files of each namespace, by the name of its folder."""
    from airflow_pinecone_upsert.api.endpoints import shown_namespace

    found: dict[str, list[FileRef]] = {}
    for file in listed.files:
        found.setdefault(shown_namespace(file.namespace or ""), []).append(file)
    return found


def _folders(listed: ListedPath, files: Sequence[FileRef]) -> list[str]:
    """Return the folders that contain files: a folder means the files directly in it."""
    return [listed.url_of(folder) for folder in sorted({str(PurePosixPath(file.path).parent) for file in files})]


def _entry(share: Share, paths: Sequence[str], rows: Mapping[str, int], name: str) -> dict[str, Any]:
    records = sum(rows[file.url] for piece in share for file in piece.files)
    return {"parquet_paths": _one_or_many(paths), "params": {"name": name, "records": records}}


def _one_or_many(paths: Sequence[str]) -> str | list[str]:
    for path in paths:
        if any(mark in path for mark in _TEMPLATES):
            raise SourceError(f"{path} contains a mark of a template, which Airflow would render. Rename it.")
    return paths[0] if len(paths) == 1 else list(paths)


def _names(names: Sequence[str], unit: str) -> str:
    """Name one of them, or the first and the last one, for a column of 250 characters."""
    ends = [name.rstrip("/").rpartition("/")[2][:80] for name in (names[0], names[-1])]
    return ends[0] if len(names) == 1 else f"{ends[0]} … {ends[1]} ({len(names):,} {unit})"


def _count_rows(files: Sequence[FileRef]) -> dict[str, int]:
    """Return the rows of each file, by URL; in parallel, because a footer in object storage takes a round trip."""
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource

    with ThreadPoolExecutor(_PARALLEL) as pool:
        counts = pool.map(lambda file: ParquetSource([file], Columns()).count_rows(), files)
        return {file.url: count for file, count in zip(files, counts, strict=True)}
