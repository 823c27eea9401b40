"""
``docs/migration.md``: the code after a migration does what the code before did.

The official provider and LangChain exclude versions that the tests pin. So the code before is run in the environment of
`make bench`, as slow tests: ``BENCH_VENV``, by default ``.venv-bench``. The SDK is part of the tests' own environment.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, PineconeUpsertOperator, ReindexReport

from .airflow_home import HOME
from .readme import ROOT, dags_of, page_text, table

PAGE = page_text("migration.md")
SNIPPETS = dags_of("migration.md")
SDK_HOST = "https://articles-abc123.svc.aped-4627-b74a.pinecone.io"

MY_PROJECT = '''
import json
import os
from types import SimpleNamespace


def embed(text):
    return [float(len(text)), *[1.0] * 7]


def load_documents():
    """LangChain's documents where it is installed, otherwise objects with the same attributes."""
    try:
        from langchain_core.documents import Document
    except ImportError:
        Document = SimpleNamespace
    texts = {"t1": "Solaris", "t2": "Fiasco"}
    return [Document(page_content=text, metadata={"source": id, "author": "Lem"}) for id, text in texts.items()]


def vector_store():
    """What langchain-pinecone does, which excludes newer versions of the SDK."""
    from langchain_core.vectorstores import VectorStore
    from pinecone import Pinecone

    connection = json.loads(os.environ["AIRFLOW_CONN_PINECONE_DEFAULT"])

    class Store(VectorStore):
        index = Pinecone(api_key=connection["password"]).Index(host=connection["host"])

        def add_documents(self, documents, *, ids, **_):
            pairs = zip(ids, documents, strict=True)
            vectors = [(id, embed(one.page_content), {"text": one.page_content, **one.metadata}) for id, one in pairs]
            self.index.upsert(vectors=vectors, namespace="articles")

        def delete(self, ids=None, **_):
            self.index.delete(ids=list(ids), namespace="articles")

        def similarity_search(self, *_, **__):
            raise NotImplementedError

        @classmethod
        def from_texts(cls, *_, **__):
            raise NotImplementedError

    return Store()
'''


@pytest.fixture
def my_project(monkeypatch):
    """Create the user's module, in place of that of other tests."""
    (HOME / "my_project.py").write_text(MY_PROJECT)
    monkeypatch.syspath_prepend(str(HOME))
    monkeypatch.delitem(sys.modules, "my_project", raising=False)
    yield
    sys.modules.pop("my_project", None)


@pytest.fixture
def connection(pinecone_index, monkeypatch):
    """Connect as the official provider does: its type, and the control plane as the host."""
    value = {
        "conn_type": "pinecone",
        "host": pinecone_index.url,
        "password": pinecone_index.api_key,
        "extra": {"control_plane_url": pinecone_index.url, "region": "us-east-1"},
    }

    def connect():
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", json.dumps(value))
        return {"AIRFLOW_CONN_PINECONE_DEFAULT": json.dumps(value)}

    return connect


@pytest.fixture
def run_with_peers(my_project, connection, tmp_path):
    """Run Python code in the environment of `make bench`, on an Airflow of its own, and return its last line."""
    python = Path(os.environ.get("BENCH_VENV", ROOT / ".venv-bench")).absolute() / "bin" / "python"
    if not python.exists():
        pytest.skip("needs the environment of the benchmarks: make .venv-bench/.bench")
    home = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags")}
    environment = os.environ | home | connection() | {"PYTHONPATH": os.pathsep.join([str(HOME), str(ROOT)])}

    def run(code, *arguments):
        command = [str(python), "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    return run


RUN_DAG = """
import runpy, sys
from airflow.utils.db import initdb
initdb()
print(runpy.run_path(sys.argv[1])["dag"].test().state)
"""


@pytest.fixture
def run_before(run_with_peers, tmp_path):
    """Run a DAG of the page in that environment."""

    def run(code):
        path = tmp_path / "dags" / "before.py"
        path.parent.mkdir()
        path.write_text(code)
        assert run_with_peers(RUN_DAG, path) == "success"

    return run


def contents(index, namespace):
    return {key: (tuple(one.values), one.metadata) for key, one in index.vectors(namespace).items()}


TITLES = {
    "t1": ((7.0, *[1.0] * 7), {"title": "Solaris"}),
    "t2": ((6.0, *[1.0] * 7), {"title": "Fiasco"}),
}


def with_the_emulators_name(code):
    """The control plane of the emulator knows one index, ``local``."""
    assert code.count('index_name="articles"') == 1
    return code.replace('index_name="articles"', 'index_name="local"')


@pytest.mark.slow
def test_before_with_the_official_operator(run_before, pinecone_index):
    run_before(with_the_emulators_name(SNIPPETS["ingest_before"]))
    assert contents(pinecone_index, "titles") == TITLES


def test_after_the_official_operator(run_dag, my_project, connection, pinecone_index):
    connection()
    run = run_dag(with_the_emulators_name(SNIPPETS["ingest_after"]))
    assert run.state == "success"
    assert contents(pinecone_index, "titles") == TITLES
    assert "/indexes/local" in [request.path for request in pinecone_index.requests]


ARTICLES = {
    ((7.0, *[1.0] * 7), "Solaris", "t1"),
    ((6.0, *[1.0] * 7), "Fiasco", "t2"),
}


def articles_in(index):
    return {
        (tuple(one.values), one.metadata["text"], one.metadata["source"]) for one in index.vectors("articles").values()
    }


@pytest.mark.slow
def test_before_with_langchain(run_before, pinecone_index, tmp_path):
    run_before(SNIPPETS["langchain_before"].replace("/var/lib/records.db", str(tmp_path / "records.db")))
    assert articles_in(pinecone_index) == ARTICLES


def test_after_langchain(run_dag, my_project, pinecone_index, tmp_path):
    """The first run audits the namespace that LangChain has filled, under ids that are hashes."""
    PineconeHook().upsert([("2a79bd1e", [1.0] * 8, {"text": "Solaris", "source": "t1"})], namespace="articles")
    code = SNIPPETS["langchain_after"].replace("s3://my-bucket", str(tmp_path))
    first = code.replace('namespace="articles",', 'namespace="articles", audit=True, max_delete_fraction=1.0,')
    run = run_dag(first)
    assert run.state == "success"
    assert run.output("index_documents")["deletedCount"] == 1
    assert articles_in(pinecone_index) == ARTICLES
    assert set(pinecone_index.vectors("articles")) == {"t1", "t2"}
    assert run_dag(code.replace("langchain_after", "langchain_later")).output("index_documents")["unchangedCount"] == 2


@pytest.fixture
def run_with_file(run_dag, my_project, pinecone_index, tmp_path):
    """Run a DAG of the page with a file instead of an object, and with the emulator as the index."""
    pq.write_table(pa.table({"id": ["a", "b"], "values": [[1.0] * 8] * 2}), tmp_path / "1.parquet")

    def run(code):
        code = code.replace("s3://my-bucket/embeddings", str(tmp_path)).replace(SDK_HOST, pinecone_index.url)
        assert run_dag(code.replace("YOUR_API_KEY", pinecone_index.api_key)).state == "success"

    return run


@pytest.mark.parametrize("name", ["sdk_before", "sdk_after"])
def test_the_sdk(run_with_file, pinecone_index, name):
    run_with_file(SNIPPETS[name])
    assert contents(pinecone_index, "titles") == TITLES
    assert set(pinecone_index.vectors("articles")) == {"a", "b"}


def parameters_of(operator):
    kinds = [kind for kind in operator.__mro__ if kind.__module__.startswith("airflow_pinecone_upsert")]
    return {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}


PEER_SIGNATURES = """
import inspect, json
from airflow.providers.pinecone.hooks.pinecone import PineconeHook
from airflow.providers.pinecone.operators.pinecone import PineconeIngestOperator
from langchain_classic.indexes import index
from langchain_core.indexing.api import IndexingResult
from pinecone import Pinecone

sdk = Pinecone(api_key="k").Index(host="http://127.0.0.1:1")
print(json.dumps({
    "ingest": sorted({*inspect.signature(PineconeIngestOperator.__init__).parameters} - {"self", "kwargs"}),
    "hook": [name for name in vars(PineconeHook)],
    "index": sorted(inspect.signature(index).parameters),
    "result": sorted(IndexingResult.__annotations__),
    "frame": sorted(inspect.signature(sdk.upsert_from_dataframe).parameters),
}))
"""
INGEST, HOOK, INDEX, RESULT = (
    *(table(PAGE, "From PineconeIngestOperator", number) for number in (0, 1)),
    *(table(PAGE, "From LangChain's index()", number) for number in (0, 1)),
)


SDK = table(PAGE, "From Pinecone's SDK")


def names_in(rows, column):
    return {name for row in rows for name in re.findall(r"`(\w+)(?=[`(])", row[column])}


@pytest.mark.slow
def test_every_parameter_of_a_peer_has_a_row(run_with_peers):
    peers = json.loads(run_with_peers(PEER_SIGNATURES))
    assert names_in(INGEST, 0) == {*peers["ingest"]}
    assert names_in(HOOK, 0) - {"PineconeHook", "index_name"} <= {*peers["hook"]}
    assert names_in(INDEX, 0) == {*peers["index"]}
    assert names_in(RESULT, 0) == {*peers["result"]}
    assert names_in(SDK, 0) - {"Pinecone", "vectors"} == {*peers["frame"]}


def test_every_counterpart_exists():
    assert names_in(INGEST, 1) - {"max_concurrency"} <= parameters_of(PineconeUpsertOperator)
    assert names_in(INDEX, 1) - {"True", "False", "None"} <= parameters_of(PineconeReindexOperator)
    assert names_in(RESULT, 1) <= set(ReindexReport().as_output())
    assert all(callable(getattr(PineconeHook, name)) for name in names_in(HOOK, 1) - {"PineconeHook"})
