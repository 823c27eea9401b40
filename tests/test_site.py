"""
The documentation site: it builds without a warning, it loads nothing from other hosts, and its tables match the code.

Sphinx is part of the extra ``docs``, which the environment of Airflow 3.1 does not have.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import airflow_pinecone_upsert
from airflow_pinecone_upsert.emulator import pytest_plugin
from airflow_pinecone_upsert.pipeline.counts import Counts, ReindexCounts
from airflow_pinecone_upsert.pipeline.track.progress import Progress

from .airflow.programs import program
from .airflow.readme import ROOT, commands_of, is_known_command, table

pytest.importorskip("sphinx")

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site as `make docs` does, and return its folder. A warning is an error."""
    (arguments,) = re.findall(r"-m sphinx (.*) docs build/docs", (ROOT / "Makefile").read_text())
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", *arguments.split(), "docs", folder]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


class Html(HTMLParser):
    """What a page loads, what it links to, and which anchors it has."""

    LOADS = ("src", "srcset", "data", "poster")
    NAVIGATION = frozenset({"index", "search", "next", "prev", "canonical"})

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.anchors = set(), set(), {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.add(values.get("id"))
        self.loads |= {values[name] for name in self.LOADS if values.get(name)}
        if tag == "link" and not set(values["rel"].split()) <= self.NAVIGATION:
            self.loads.add(values["href"])
        elif tag == "a" and values.get("href"):
            self.links.add(values["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Html(path) for path in site.rglob("*.html")}


def test_every_page_is_in_the_site(site, pages):
    assert {DOCS / path.relative_to(site).with_suffix(".md") for path in pages} >= {*PAGES}
    assert (site / "searchindex.js").stat().st_size > 10_000


def test_the_parser_sees_what_a_page_loads(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<link rel="stylesheet" href="//a/b.css"><script src="c.js"></script><a href="d.html" id="e">')
    found = Html(path)
    assert (found.loads, found.links, found.anchors) == ({"//a/b.css", "c.js"}, {"d.html"}, {"", None, "e"})


def test_no_page_loads_anything_from_another_host(site, pages):
    loaded = {(path.name, url) for path, page in pages.items() for url in page.loads if urlsplit(url).netloc}
    styles = {
        (path.name, url)
        for path in site.rglob("*.css")
        for url in re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", path.read_text())
    }
    assert not loaded | styles


def test_every_link_inside_the_site_leads_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(target)).resolve() if target else path
            assert file in pages, f"{path.name}: {link}"
            assert unquote(anchor) in pages[file].anchors, f"{path.name}: {link}"


def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, path: base + path)
    documented = {name.rpartition(".")[2] for kind, names in found.items() if kind.startswith("py:") for name in names}
    assert {*airflow_pinecone_upsert.__all__} - {"__version__"} <= documented


OPERATORS = [name for name in airflow_pinecone_upsert.__all__ if name.endswith("Operator")]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_shown_with_the_parameters_of_its_bases(site, name):
    kind = getattr(airflow_pinecone_upsert, name)
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "api.html").read_text())
    entry = text.partition(f"airflow_pinecone_upsert.{name}(")[2].partition("class airflow_pinecone_upsert.")[0]
    for base in kind.__mro__:
        if base.__module__.startswith("airflow_pinecone_upsert."):
            for parameter in inspect.signature(base.__init__).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    assert entry.count(f"\n{parameter.name}: ") == 1, "in the signature"
                    assert entry.count(f"\n{parameter.name} \N{EN DASH} ") == 1, "in the description"


def test_every_example_dag_is_included_by_a_page():
    included = "".join(page.read_text() for page in PAGES)
    for example in (ROOT / "example_dags").glob("*.py"):
        assert f"../example_dags/{example.name}\n" in included, f"no page includes {example.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_exist(page):
    """Those that start with ``python -m`` are run by the tests of what they start."""
    for line in commands_of(page.read_text()):
        module = re.match(r"python -m (airflow_pinecone_upsert\.\w+)\b", line)
        assert find_spec(module[1]) if module else is_known_command(line), line


OBSERVABILITY = (DOCS / "observability.md").read_text()


def test_metrics_table_matches_the_code():
    names = [name.strip("`").removeprefix("pinecone_upsert.") for name, _, _ in table(OBSERVABILITY, "Metrics")]
    assert {*names} == {*ReindexCounts.metric_names(), "latency"}


def test_progress_table_matches_the_code():
    rows = table(OBSERVABILITY, "The task's page")
    keys = [key for cell, _ in rows for key in re.findall(r"`(\w+)`", cell)]
    assert sorted(keys) == sorted(Progress(Counts(), 0.0, 0.0).as_state())


def test_fixtures_table_matches_the_plugin():
    text = (DOCS / "testing.md").read_text()
    names = [name.strip("`") for name, _ in table(text, "Which fixtures there are")]
    fixtures = [name for name in vars(pytest_plugin) if name.startswith("pinecone_")]
    assert sorted(names) == sorted(fixtures)


@pytest.mark.slow
def test_search_finds_a_page(site):
    """In a browser that can reach no host: the index of the search is a file of the site."""
    url = f"{(site / 'search.html').as_uri()}?q=checkpoint"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [program("chromium"), *options, "--virtual-time-budget=20000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    results = done.stdout.partition('id="search-results"')[2].partition("</ul>")[0]
    assert "architecture.html" in results, done.stdout[-2_000:] + done.stderr[-2_000:]
