"""
The tests on every supported Python that is installed here, and a list of what ran: `make test-pythons`.

Each Python has an environment of its own, `.venv-python3.13`, which `make` sets up. The Python of `.venv` is left out,
because `make test` uses it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
USABLE = "import ensurepip, sys, venv; print('{}.{}'.format(*sys.version_info))"


def candidates(version: str) -> Iterator[str]:
    """Yield where a Python may be: on the PATH, in pyenv, in uv."""
    yield from filter(None, [shutil.which(f"python{version}")])
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))
    if uv := shutil.which("uv"):
        found = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        yield from found.stdout.split()


def is_usable(python: str, version: str) -> bool:
    """Return whether a program is this Python, and can create environments. A shim of pyenv may be neither."""
    done = subprocess.run([python, "-c", USABLE], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def find(version: str) -> str | None:
    """Return the first usable Python of a version."""
    return next((python for python in candidates(version) if is_usable(python, version)), None)


def run(python: str, version: str) -> str:
    """Run the tests; return how they ended."""
    print(f"\nPython {version}: {python}", flush=True)
    environment = f".venv-python{version}"
    make = ["make", "--no-print-directory", f"PYTHON={python}", f"VENV={environment}", "test"]
    return "passed" if subprocess.run(make, cwd=ROOT, check=False).returncode == 0 else "FAILED"


def main() -> int:
    """Run the tests on each Python, or only list the Pythons."""
    parser = argparse.ArgumentParser(description="Run the tests on every supported Python that is installed here.")
    parser.add_argument("--list", action="store_true", help="only show what would run")
    only_list = parser.parse_args().list
    results = []
    for version in VERSIONS:
        if version == "{}.{}".format(*sys.version_info):
            results.append((version, "run by `make test`"))
        elif python := find(version):
            results.append((version, python if only_list else run(python, version)))
        else:
            results.append((version, "not installed here"))
    print()
    for version, result in results:
        print(f"Python {version:5} {result}")
    return 1 if any(result == "FAILED" for _, result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
