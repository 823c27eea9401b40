"""What a try leaves for the next one, with the pipeline itself."""

from __future__ import annotations

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.run import upsert
from tests.pipeline.held import Held


class Store(dict):
    """A store as Airflow's, without Airflow."""

    set = dict.__setitem__
    delete = dict.pop


class BrokenStore:
    """A store whose database is down."""

    def get(self, *_):
        raise ConnectionError("the database is down")

    set = delete = get


@pytest.fixture
def try_once(index):
    """Upsert what a path holds, as one try of a task."""

    def try_once(path, store, **options):
        chosen = UpsertOptions.checked(**options)
        source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), chosen)
        with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
            return upsert(source, client, chosen, state=store, random=lambda: 0.0)

    return try_once


@pytest.fixture
def numbered(write):
    """A file of so many records."""

    def numbered(count):
        return write({"id": [f"r{row}" for row in range(count)], "values": [[1.0, float(row)] for row in range(count)]})

    return numbered


def test_what_is_confirmed_behind_a_first_batch_that_fails_is_not_sent_again(index, upserts, numbered, try_once):
    store, path = Store(), numbered(40)
    index.faults.next(Held(Fault.short_count(0), until=lambda: len(index.vectors()) >= 20), path="/vectors/upsert")
    with pytest.raises(exceptions.IncompleteUpsertError):
        try_once(path, store, batch_size=10, max_concurrency=4)
    confirmed = set(index.vectors())
    assert len(confirmed) >= 20
    before = len(upserts(index))
    report = try_once(path, store, batch_size=10, max_concurrency=4)
    again = {record_id for request in upserts(index)[before:] for record_id in request.ids}
    assert not again & confirmed
    assert (report.upserted_count, report.resumed_count) == (40, len(confirmed))
    assert len(index.vectors()) == 40


def test_the_state_shows_a_run_that_is_done(numbered, try_once):
    store = Store()
    try_once(numbered(40), store)
    assert set(store) == {"progress"}
    assert (store["progress"]["records"], store["progress"]["percent"]) == (40, 100.0)


def test_a_store_that_fails_costs_nothing_but_the_checkpoint(index, numbered, try_once, caplog):
    assert try_once(numbered(40), BrokenStore()).upserted_count == 40
    assert len(index.vectors()) == 40
    for said in (
        "The checkpoint could not be loaded: the database is down. Starting at the first row.",
        "The checkpoint could not be saved: the database is down",
        "The progress could not be saved: the database is down",
        "The checkpoint could not be deleted; delete it before you clear this task: the database is down",
    ):
        assert said in caplog.messages
