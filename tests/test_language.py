"""The text of the project uses the words of the field: CONTRIBUTING has the rule."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AVOIDED = re.compile(
    r"\b(mend(s|ed|ing|able)?|anew|told|at the most|at the least|sets? aside|tolerabl[ey]|whoever|somebody|nobody|"
    r"in clear|what always holds|records until here|goes on behind|told to stop|seen from outside)\b",
    re.IGNORECASE,
)
FILES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("docs/*.py"),
    *ROOT.glob(".github/**/*.*"),
    *ROOT.glob("Makefile"),
    *(
        path
        for part in ("airflow_pinecone_upsert", "tests", "example_dags", "dev")
        for path in (ROOT / part).rglob("*.py")
    ),
]


@pytest.mark.parametrize("path", [path for path in FILES if path != Path(__file__)], ids=lambda path: path.name)
def test_no_avoided_word(path):
    lines = path.read_text().splitlines()
    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if AVOIDED.search(line)] == []
