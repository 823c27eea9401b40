"""Which part may know what: `api`, `upsert` and `local` know no Airflow, `api` knows no Arrow, a DAG file pays for nothing."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import airflow_pinecone_upsert

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
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement):
    """Tell which modules a fresh interpreter holds after a statement. What was printed on the way is not the answer."""
    code = f"{statement}\nimport json, sys\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(python(code).splitlines()[-1]))


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("airflow_pinecone_upsert.api", {"airflow", "pyarrow", "fsspec", "pandas"}),
        ("airflow_pinecone_upsert.pipeline", {"airflow", "pandas"}),
        ("airflow_pinecone_upsert.emulator", {"airflow", "pyarrow", "pandas"}),
    ],
)
def test_a_part_imports_without_what_it_must_not_know(package, blocked):
    python(BLOCK.format(blocked=blocked) + IMPORT_ALL.format(package=package))


def test_the_blocker_blocks():
    with pytest.raises(AssertionError, match="airflow is blocked"):
        python(BLOCK.format(blocked={"airflow"}) + "import airflow")


@pytest.fixture(scope="module")
def airflows_own():
    return modules_after("import airflow.sdk")


@pytest.mark.parametrize("heavy", ["pyarrow", "numpy", "httpx", "pydantic", "orjson", "fsspec", "pandas"])
@pytest.mark.parametrize("name", airflow_pinecone_upsert.__all__)
def test_a_dag_file_that_names_us_pays_for_nothing_beyond_airflow(airflows_own, imported_names, name, heavy):
    added = imported_names[name] - airflows_own
    assert not {module for module in added if module.partition(".")[0] == heavy}


@pytest.fixture(scope="module")
def imported_names():
    statement = "import airflow.sdk\nfrom airflow_pinecone_upsert import {}"
    return {name: modules_after(statement.format(name)) for name in airflow_pinecone_upsert.__all__}


def test_the_package_by_itself_imports_next_to_nothing():
    added = modules_after("import airflow_pinecone_upsert") - modules_after("import importlib, typing")
    assert {name for name in added if not name.startswith("airflow_pinecone_upsert")} <= {"__future__"}


def test_the_public_names_exist_and_are_all_there_is():
    for name in airflow_pinecone_upsert.__all__:
        assert getattr(airflow_pinecone_upsert, name) is not None
    assert dir(airflow_pinecone_upsert) == sorted(airflow_pinecone_upsert.__all__)
    assert set(airflow_pinecone_upsert.__all__) == {
        "PineconeHook",
        "PineconeUpsertOperator",
        "__version__",
        "pinecone_asset",
    }
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        airflow_pinecone_upsert.Nothing  # noqa: B018 - looking is enough


def test_reading_and_encoding_a_file_does_not_import_pandas(tmp_path):
    """Arrow does so in many of its conversions; it costs 30 MB and a third of a second."""
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
assert len(encode(chunk, IndexShape(1), max_bytes=1_000).fragments.ids) == 1
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
