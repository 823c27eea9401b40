"""
The documentation site: `make docs`.

Sphinx, as Airflow and its providers use it: it reads the `:param:` fields of the docstrings and includes the example DAGs
that the tests run. Pages are Markdown. Everything that a page loads is part of the site.

Invariants: a warning fails the build, and so does a link to a page, a heading or a file that does not exist.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

# Before Airflow is imported, which creates this folder and its configuration there.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-docs-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import airflow_pinecone_upsert

ROOT = Path(__file__).resolve().parents[1]

project = "airflow-pinecone-upsert"
release = version = airflow_pinecone_upsert.__version__
copyright = "the contributors, Apache License 2.0"  # noqa: A001 - Sphinx's name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# Only the public names have pages: docstrings and annotations also name what is internal or of another package.
nitpick_ignore_regex = [("py:.*", r"(?!airflow_pinecone_upsert\.[A-Z]).*")]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"  # light and dark; its fonts and scripts are local
html_title = f"{project} {release}"
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = "$ "

PAGES = {
    "README.md": "index",
    "SECURITY.md": "security",
    "CHANGELOG.md": "project/changelog",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct",
    "CONTRIBUTING.md": "project/contributing",
    "example_dags": "how-to/index",
}
"""Files of the repository, and the pages that include them."""


def page_of(path: str) -> str | None:
    """
    Return the page that shows a file of the repository.

    :param path: Relative to the root of the repository.
    """
    if path.startswith("docs/") and path.endswith(".md"):
        return path.removeprefix("docs/").removesuffix(".md")
    return PAGES.get(path) or PAGES.get(posixpath.dirname(path))


def file_of(link: nodes.Element, page: str) -> str | None:
    """
    Return the file that a link names, relative to the root of the repository; None if it names no file.

    :param page: The page that contains the link. Text that it includes has links that are relative to the root.
    """
    target = link["reftarget"].partition("#")[0]
    if link.get("refdomain") == "doc":  # MyST found a file of text; it is no page if its path is absolute
        return os.path.relpath(f"{target}.md", ROOT) if posixpath.isabs(target) else None
    next_to_page = posixpath.join("docs", posixpath.dirname(page), target)
    candidates = [posixpath.normpath(path) for path in (next_to_page, target)]
    return next((path for path in candidates if target and (ROOT / path).exists()), None)


def link_pages_for_files(app: Sphinx, doctree: nodes.document) -> None:
    """
    Let links to files of the repository lead to the pages that include them.

    Pages and the files that they include are also read in the repository, where these links lead to the files. A link to
    a file without a page becomes text.
    """
    page = app.env.docname
    for link in [*doctree.findall(addnodes.pending_xref), *doctree.findall(addnodes.download_reference)]:
        path = file_of(link, page) if link.get("reftype") == "myst" else None
        if path is None:
            continue
        text = nodes.inline("", link.astext(), classes=["xref", "myst"])
        if target := page_of(path):
            anchor = link.get("reftargetid") or link["reftarget"].partition("#")[2] or None
            text = addnodes.pending_xref(
                "",
                text,
                refdomain="doc",
                refdoc=page,
                reftype="myst",
                reftarget=target,
                reftargetid=anchor,
                refexplicit=True,
            )
        link.replace_self(text)


def skip_errors(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave the errors out of the page of public names, because they have a page of their own."""
    is_error = inspect.isclass(member) and member.__module__ == "airflow_pinecone_upsert.exceptions"
    return True if is_error and app.env.docname == "reference/api" else None


def operator_classes(member: Any) -> list[type]:
    """Return an operator and its bases in this package; nothing for anything else."""
    from airflow_pinecone_upsert.operators.base import PineconeBaseOperator

    if not (inspect.isclass(member) and issubclass(member, PineconeBaseOperator)):
        return []
    return [kind for kind in member.__mro__ if kind.__module__.startswith("airflow_pinecone_upsert.")]


def show_all_parameters(
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: Any, annotation: Any
) -> Any:
    """Give an operator a signature with the parameters of its bases, which ``**kwargs`` hides."""
    parameters: dict[str, inspect.Parameter] = {}
    for kind in operator_classes(member):
        for parameter in inspect.signature(kind.__init__).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                parameters.setdefault(parameter.name, parameter)
    return (stringify_signature(inspect.Signature(list(parameters.values()))), annotation) if parameters else None


def describe_all_parameters(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Give an operator the ``:param:`` fields of its bases instead of the sentence that names the bases."""
    classes = operator_classes(member)
    if not classes:
        return
    text = re.sub(r"The (?:other )?parameters are those of.*(?:\n.+)*", "", inspect.getdoc(member) or "")
    fields = [re.findall(r"^:param .*(?:\n +.*)*", inspect.getdoc(kind) or "", re.MULTILINE) for kind in classes]
    inherited = [field for of_base in fields[1:] for field in of_base]
    lines[:] = [*text.rstrip().splitlines(), *([] if fields[0] else [""]), *"\n".join(inherited).splitlines(), ""]


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("doctree-read", link_pages_for_files)
    app.connect("autodoc-skip-member", skip_errors)
    app.connect("autodoc-process-signature", show_all_parameters)
    app.connect("autodoc-process-docstring", describe_all_parameters)
