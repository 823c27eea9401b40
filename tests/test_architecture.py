"""Which module may import which: the wings of the pipeline, no Airflow below the hooks, no weight on a DAG file."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import airflow_pinecone_upsert
from airflow_pinecone_upsert import exceptions

PACKAGE = Path(airflow_pinecone_upsert.__file__).parent

LAYERS = [
    ["exceptions"],
    ["api"],
    [
        f"pipeline.{name}"
        for name in (
            "defaults",
            "cancellation",
            "counts",
            "index_shape",
            "learned",
            "namespaces",
            "position",
            "violation",
            "whole_file",
            "wording",
        )
    ],
    ["pipeline.options", "pipeline.report"],
    ["capacity"],
    ["pipeline.read"],
    ["pipeline.encode"],
    ["pipeline.send"],
    ["pipeline.freshness", "pipeline.observer", "pipeline.track"],
    ["pipeline.stages"],
    ["pipeline.bulk_import", "pipeline.delete", "pipeline.run", "pipeline.shares", "client"],
    ["reindex"],
    ["assets", "links", "storage", "supervisor", "telemetry"],
    ["lineage", "plan"],
    ["hooks"],
    ["triggers"],
    ["operators"],
    ["decorators", "sensors"],
    ["provider_info", "reindex.__main__"],
]
"""From the bottom to the top. A module imports its own part and the layers below it: nothing sideways, nothing back."""

ALONE = ["emulator"]
"""Parts that import nothing else of the package, and that nothing else of it imports."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text())


def part_of(module):
    parts = [part for layer in [*LAYERS, ALONE] for part in layer if f"{module}.".startswith(f"{part}.")]
    return max(parts, key=len, default=None)


def layer_of(part):
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def imports(tree):
    """Yield the modules of the package that a module imports, wherever in it, also for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_pinecone_upsert"):
            base = node.module.removeprefix("airflow_pinecone_upsert").removeprefix(".")
            for alias in node.names:
                submodule = f"{base}.{alias.name}".removeprefix(".")
                is_module = (PACKAGE / f"{submodule.replace('.', '/')}.py").exists()
                is_package = (PACKAGE / submodule.replace(".", "/")).is_dir()
                yield submodule if is_module or is_package else base


@pytest.mark.parametrize(("module", "tree"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_a_module_imports_only_its_own_part_and_the_layers_below(module, tree):
    part = part_of(module)
    if module in ("", "pipeline", "__init__"):
        return
    assert part, f"{module} has no layer"
    for imported in filter(None, imports(tree)):
        other = part_of(imported)
        if other == part:
            continue
        assert part not in ALONE, f"{module} imports {imported}"
        assert other not in ALONE, f"{module} imports {imported}"
        assert layer_of(other) < layer_of(part), f"{module} imports {imported}"


def test_the_rules_see_every_module():
    names = {name for name, _ in modules()}
    assert {"pipeline.send.sender", "pipeline.read.in_memory", "client", "operators.base", "emulator.app"} <= names
    assert "pipeline.read.chunk" in imports(ast.parse("from airflow_pinecone_upsert.pipeline.read import chunk"))
    assert "pipeline.read.chunk" in imports(ast.parse("from airflow_pinecone_upsert.pipeline.read.chunk import Chunk"))


BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
"""

IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(getattr(package, '__path__', []), package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement):
    """Return the modules that a new interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(python(code).splitlines()[-1]))


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("airflow_pinecone_upsert.api", {"airflow", "pyarrow", "fsspec", "pandas"}),
        ("airflow_pinecone_upsert.client", {"airflow", "pyarrow", "fsspec", "pandas"}),
        ("airflow_pinecone_upsert.capacity", {"airflow", "pyarrow", "fsspec", "pandas", "httpx", "pydantic"}),
        ("airflow_pinecone_upsert.pipeline", {"airflow", "pandas"}),
        ("airflow_pinecone_upsert.reindex", {"airflow", "pandas"}),
        ("airflow_pinecone_upsert.emulator", {"airflow", "pyarrow", "pandas"}),
    ],
)
def test_a_part_imports_without_the_packages_that_it_must_not_use(package, blocked):
    python(BLOCK.format(blocked=blocked) + IMPORT_ALL.format(package=package))


def test_the_blocker_blocks():
    with pytest.raises(AssertionError, match="airflow is blocked"):
        python(BLOCK.format(blocked={"airflow"}) + "import airflow")


DAG_FILE_NAMES = [
    "PineconeBulkImportOperator",
    "PineconeDeleteOperator",
    "PineconeFreshnessSensor",
    "PineconeHook",
    "PineconeReindexOperator",
    "PineconeSwapNamespaceOperator",
    "PineconeUpsertOperator",
    "pinecone_asset",
    "plan_tasks",
    "summarize",
    "SetupError",
]
"""What a DAG file imports; options and reports are for code that runs inside of a task."""


@pytest.fixture(scope="module")
def airflow_modules():
    return modules_after("import airflow.sdk")


@pytest.mark.parametrize("heavy", ["pyarrow", "numpy", "httpx", "pydantic", "orjson", "fsspec", "pandas"])
@pytest.mark.parametrize("name", DAG_FILE_NAMES)
def test_a_dag_file_loads_nothing_heavy_beyond_airflow(airflow_modules, imported_names, name, heavy):
    added = imported_names[name] - airflow_modules
    assert not {module for module in added if module.partition(".")[0] == heavy}


@pytest.fixture(scope="module")
def imported_names():
    statement = "import airflow.sdk\nfrom airflow_pinecone_upsert import {}"
    return {name: modules_after(statement.format(name)) for name in DAG_FILE_NAMES}


def test_the_package_alone_imports_next_to_nothing():
    added = modules_after("import airflow_pinecone_upsert") - modules_after("import importlib, typing")
    assert {name for name in added if not name.startswith("airflow_pinecone_upsert")} <= {"__future__"}


def test_the_public_names_exist():
    for name in airflow_pinecone_upsert.__all__:
        assert getattr(airflow_pinecone_upsert, name) is not None
    assert dir(airflow_pinecone_upsert) == sorted(airflow_pinecone_upsert.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        airflow_pinecone_upsert.Nothing  # noqa: B018 - the access is the test


def test_every_error_class_is_public():
    classes = {
        name
        for name, kind in vars(exceptions).items()
        if inspect.isclass(kind) and kind.__module__ == exceptions.__name__
    }
    others = {
        "Counts",
        "PineconeBulkImportOperator",
        "PineconeDeleteOperator",
        "PineconeFreshnessSensor",
        "PineconeHook",
        "PineconeReindexOperator",
        "PineconeSwapNamespaceOperator",
        "PineconeUpsertOperator",
        "ReindexCounts",
        "ReindexOptions",
        "ReindexReport",
        "UpsertOptions",
        "UpsertReport",
        "__version__",
        "pinecone_asset",
        "plan_tasks",
        "summarize",
    }
    assert set(airflow_pinecone_upsert.__all__) == classes | others


def test_reading_and_encoding_a_file_does_not_import_pandas(tmp_path):
    """Many of Arrow's conversions import it, for 30 MB and a third of a second."""
    table = pa.table({"id": ["a"], "values": [[0.5]], "metadata": [{"year": 2024, "score": 0.5, "title": "x"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    code = f"""
import sys
from fsspec.implementations.local import LocalFileSystem
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files

source = ParquetSource(find_parquet_files(LocalFileSystem(), {str(tmp_path)!r}), Columns())
(chunk,) = source.chunks(IndexShape(1))
assert len(encode(chunk, IndexShape(1), max_bytes=1_000).records.ids) == 1
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reindexing_does_not_import_pandas(tmp_path):
    """As above: a comparison, a compaction and a deletion go through Arrow, too."""
    table = pa.table({"id": ["a", "b"], "values": [[0.5], None], "metadata": [{"year": 2024}, {"year": None}]})
    pq.write_table(table, tmp_path / "a.parquet")
    code = f"""
import sys
import pyarrow.parquet as pq
from airflow_pinecone_upsert.pipeline.read.chunk import PARTS, Chunk
from airflow_pinecone_upsert.reindex.changes import Changes
from airflow_pinecone_upsert.reindex.deletion import vanished_entries
from airflow_pinecone_upsert.reindex.entries import known_entries
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.keys import IdKeys

(records,) = pq.ParquetFile({str(tmp_path / "a.parquet")!r}).read().to_batches()
entries = lambda: iter([known_entries(["a", "c"], [b"x" * 16] * 2, [10, 10])])
table = IdTable(entries())
changes = Changes(table, IdKeys(""), is_full=False)
assert len(changes.select(Chunk("f", range(2), records, PARTS)).rows) == 2
assert [len(batch) for batch in vanished_entries(table, table.latest(entries))] == [1]
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
