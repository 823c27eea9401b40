"""
A pytest plugin with emulated Pinecone indexes, and runs of DAGs against them, as fixtures.

The package registers it (entry point ``pytest11``), so tests can use the fixtures at once::

    def test_load(pinecone_index, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
        operator.execute({})
        assert set(pinecone_index.vectors("articles")) == {"a", "b"}
        assert pinecone_index.requests[0].record_count == 2

    def test_my_dag(pinecone_dag_run, pinecone_index):
        assert pinecone_dag_run("dags/my_dag.py").state == "success"
        assert set(pinecone_index.vectors("articles")) == {"a", "b"}

Invariants:

* Importing this module imports only pytest and the standard library, because every pytest run imports it wherever the
  package is installed. The server and Airflow are imported when a test first requests a fixture.
* Each index starts empty, listens on 127.0.0.1, records its requests, and is closed at the end of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from typing_extensions import Unpack

    from airflow_pinecone_upsert.emulator.dag_runs import DagRunner
    from airflow_pinecone_upsert.emulator.server import EmulatedIndex

_DIMENSION: Final = 8
_API_KEY: Final = "local-key"
_EXTRA_MODULES: Final = ("starlette", "uvicorn")
"""What the extra ``emulator`` installs."""


class IndexOptions(TypedDict, total=False):
    """The keyword parameters of ``EmulatedIndex``, which documents them."""

    metric: str | None
    vector_type: str
    name: str
    document_schema: Mapping[str, Any] | None
    api_key: str | None
    host: str
    port: int
    grpc_port: int | None
    data: Path | None
    max_request_bytes: int
    measure: str | None
    lag_s: float
    import_duration_s: float
    clock: Callable[[], float]
    record_requests: bool
    grace_s: float


class IndexFactory(Protocol):
    """Starts emulated indexes."""

    def __call__(self, dimension: int | None = None, **options: Unpack[IndexOptions]) -> EmulatedIndex:
        """
        Start an index.

        :param dimension: By default 8, and none for a sparse index.
        :param options: As for ``EmulatedIndex``, but by default ``api_key`` is ``local-key`` and ``record_requests`` is
            true.
        :return: The index, listening.
        """
        ...


@pytest.fixture
def pinecone_index_factory() -> Iterator[IndexFactory]:
    """
    Start any number of emulated indexes.

    :return: A function that starts one and takes the parameters of ``EmulatedIndex``.
    """
    index_class = _load_index_class()
    with ExitStack() as stack:

        def start(dimension: int | None = None, **options: Unpack[IndexOptions]) -> EmulatedIndex:
            if dimension is None and options.get("vector_type", "dense") == "dense":
                dimension = _DIMENSION
            options.setdefault("api_key", _API_KEY)
            options.setdefault("record_requests", True)
            return stack.enter_context(index_class(dimension, **options))

        yield start


@pytest.fixture
def pinecone_index(pinecone_index_factory: IndexFactory) -> EmulatedIndex:
    """
    Start an emulated index with 8 dimensions and the metric cosine.

    :return: The index, listening.
    """
    return pinecone_index_factory()


@pytest.fixture(scope="session")
def _airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from airflow_pinecone_upsert.emulator.dag_runs import create_database

    return create_database(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def pinecone_dag_run(
    pinecone_index: EmulatedIndex,
    _airflow_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[DagRunner]:
    """
    Run DAGs with ``dag.test()``, on a database of their own, with the connection ``pinecone_default`` to the index.

    :return: A function that runs a DAG file; see :class:`airflow_pinecone_upsert.emulator.dag_runs.DagRunner`.
    """
    from airflow_pinecone_upsert.emulator.dag_runs import running_in

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    with running_in(tmp_path_factory.mktemp("airflow"), _airflow_database, monkeypatch) as runner:
        yield runner


def _load_index_class() -> type[EmulatedIndex]:
    if missing := [name for name in _EXTRA_MODULES if find_spec(name) is None]:
        pytest.fail(
            f"The Pinecone emulator needs {' and '.join(missing)}. Run: pip install 'airflow-pinecone-upsert[emulator]'",
            pytrace=False,
        )
    from airflow_pinecone_upsert.emulator.server import EmulatedIndex

    return EmulatedIndex
