"""The pages in ``docs/``: every snippet runs, and every link and key exists."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook
from airflow_pinecone_upsert.pipeline.delete.report import DeletionReport
from airflow_pinecone_upsert.reindex.swap_options import SwapReport

from .readme import ROOT, dags_of, page_text, table

PAGES = {
    "bulk-import.md": {"first_load"},
    "wait-until-searchable.md": {"searchable_articles", "fresh_articles"},
    "delete.md": {"withdrawn_articles", "expired_articles"},
    "metadata-for-readers.md": {"for_langchain", "for_llama_index", "for_haystack", "books"},
    "reindexing.md": {"adopt_articles", "preview_articles", "reindex_chapters", "reindex_tenants"},
    "many-namespaces.md": {"tenants_by_column", "tenants_by_folder", "load_tenants"},
    "swap-namespaces.md": {"new_articles", "show_aliases"},
    "migration.md": {f"{peer}_{time}" for peer in ("ingest", "langchain", "sdk") for time in ("before", "after")},
    "testing.md": {"test_upsert", "test_my_dag"},
    "how-to/upsert-parquet-files.md": {"products"},
    "how-to/use-the-hook.md": {"appendix"},
}
"""The pages with the names of their snippets, each of which has a test: below, in test_readers.py or in test_…_page.py."""


@pytest.fixture
def articles(pinecone_index, monkeypatch):
    """Upsert four articles."""
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    PineconeHook().upsert(
        [(article, [1.0] * 8, {"year": year}) for article, year in zip("abcd", (1990, 2020, 1995, 2021), strict=True)],
        namespace="articles",
    )


def test_every_page_with_snippets_is_here():
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "```python\n" in path.read_text()]
    assert {str(path.relative_to(ROOT / "docs")) for path in pages} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_has_a_test(page):
    assert set(dags_of(page)) == PAGES[page]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_links_point_to_files(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_plain_columns(run_dag, pinecone_index, tmp_path):
    columns = {
        "sku": [1, 2, 3],
        "embedding": [[1.0] * 8] * 3,
        "title": ["a", "b", "c"],
        "price": [1.5, 2.0, None],
        "released_on": pa.array([1, 2, 3], pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")
    code = dags_of("how-to/upsert-parquet-files.md")["products"].replace("s3://my-bucket/products/", str(tmp_path))
    assert run_dag(code).state == "success"
    assert pinecone_index.vectors()["1"].metadata == {"title": "a", "price": 1.5, "released_on": "1970-01-02"}
    assert pinecone_index.vectors()["3"].metadata == {"title": "c", "released_on": "1970-01-04"}


def test_the_hook(run_dag, pinecone_index, my_project):
    run = run_dag(dags_of("how-to/use-the-hook.md")["appendix"])
    assert run.state == "success"
    assert run.output("upsert_appendix") == 3
    assert set(pinecone_index.vectors("appendix")) == set("ABC")


def test_the_methods_of_the_hook_exist():
    methods = re.findall(
        r"`(\w+)`", page_text("how-to/use-the-hook.md").partition("It also has\n")[2].partition("\n\nAll")[0]
    )
    assert [method for method in methods if not callable(getattr(PineconeHook, method, None))] == []
    assert len(methods) >= 14


def test_the_extras_are_listed():
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    listed = {
        name
        for cell, _ in table(page_text("quick-start.md"), "With your own Airflow")
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert listed == set(re.findall(r"^(\w+) = \[", text, re.MULTILINE)) - {"demo", "test", "docs", "dist", "lint"}


def test_a_deletion_by_files(run_dag, pinecone_index, articles, tmp_path):
    pq.write_table(pa.table({"article_id": ["a", "b"]}), tmp_path / "ids.parquet")
    code = dags_of("delete.md")["withdrawn_articles"].replace("s3://my-bucket/withdrawn", str(tmp_path))
    assert run_dag(code).state == "success"
    assert set(pinecone_index.vectors("articles")) == {"c", "d"}


def test_deletions_by_id_and_by_filter(run_dag, pinecone_index, articles):
    run = run_dag(dags_of("delete.md")["expired_articles"])
    assert run.state == "success"
    assert [run.output(task)["deletedCount"] for task in ("by_id", "by_filter")] == [2, 1]
    assert set(pinecone_index.vectors("articles")) == {"d"}


@pytest.mark.parametrize(
    ("page", "report"),
    [("delete.md", DeletionReport()), ("swap-namespaces.md", SwapReport("a", "b", None, 1, None, [], "host"))],
)
def test_the_keys_of_the_output_are_named(page, report):
    text = (ROOT / "docs" / page).read_text().partition("The output is a dict: ")[2].partition(". ")[0]
    assert re.findall(r"`(\w+)`", text) == list(report.as_output())


def test_a_swap_and_the_aliases(run_dag, pinecone_index, articles, tmp_path):
    pq.write_table(pa.table({"id": list("abc"), "values": [[1.0] * 8] * 3}), tmp_path / "1.parquet")
    swap, show = (dags_of("swap-namespaces.md")[dag_id] for dag_id in ("new_articles", "show_aliases"))
    swap = swap.replace("s3://my-bucket/embeddings", str(tmp_path)).replace('alias="articles"', 'alias="articles-live"')
    run = run_dag(swap)
    assert run.state == "success"
    target = run.output("swap")["targetNamespace"]
    assert set(pinecone_index.vectors(target)) == set("abc")
    assert run_dag(show).output("targets") == {"articles-live": target}


@pytest.mark.parametrize("dag_id", ["searchable_articles", "fresh_articles"])
def test_waits_until_searchable(run_dag, pinecone_index_factory, use_index, dag_id):
    index = use_index(pinecone_index_factory(8, lag_s=0.5))
    code = dags_of("wait-until-searchable.md")[dag_id].replace(
        'namespace="articles", lsn', 'poke_interval=0.1, namespace="articles", lsn'
    )
    assert run_dag(code).state == "success"
    assert index.store.visible_lsn == index.store.lsn == 1


def test_a_bulk_import(run_dag, pinecone_index, tmp_path):
    (tmp_path / "n").mkdir()
    pq.write_table(pa.table({"id": ["a"], "values": [[1.0] * 8]}), tmp_path / "n" / "1.parquet")
    run = run_dag(dags_of("bulk-import.md")["first_load"].replace("s3://my-bucket/import", str(tmp_path)))
    assert run.state == "success"
    assert set(pinecone_index.vectors("n")) == {"a"}
    text = (ROOT / "docs" / "bulk-import.md").read_text().partition("The output is a dict: ")[2].partition(". ")[0]
    assert re.findall(r"`(\w+)`", text) == list(run.output("import"))
