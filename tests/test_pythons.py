"""`make test-pythons`: which Pythons it would test."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIS = "{}.{}".format(*sys.version_info)
OTHER = "3.10" if THIS != "3.10" else "3.12"


@pytest.fixture
def listed(tmp_path):
    """List the Pythons on a machine where a program of the name `python3.…` prints something."""

    def run(printed):
        fake = tmp_path / f"python{OTHER}"
        fake.write_text(f"#!/bin/sh\necho {shlex.quote(printed)}\n")
        fake.chmod(0o755)
        done = subprocess.run(
            [sys.executable, ROOT / "dev" / "test_pythons.py", "--list"],
            env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}/usr/bin:/bin", "PYENV_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(re.findall(r"^Python (\S+) +(.+)$", done.stdout, re.MULTILINE)), str(fake)

    return run


def test_every_supported_python_is_listed(listed):
    found, fake = listed(OTHER)
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert list(found) == supported
    assert found[THIS] == "run by `make test`"
    assert found[OTHER] == fake


def test_a_program_that_is_not_that_python_is_not_used(listed):
    found, fake = listed("3.9")
    assert found[OTHER] != fake
