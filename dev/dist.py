"""
The distributions, and proof that they work: `make dist`.

Builds the sdist and, from it, the wheel, twice, and compares the bytes; the time in the archives is that of the last
commit. Then it checks the metadata, installs the wheel alone into a new environment outside the repository, and there
runs `pip check`, `airflow providers get` and a DAG.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PROVIDER = "airflow-pinecone-upsert"


def step(text: str) -> None:
    """Print what happens next."""
    print(f"\n{text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    """Run a command; exit if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, command))}")


def time_of_last_commit() -> str:
    """Return it in seconds since 1970, or what ``SOURCE_DATE_EPOCH`` says."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: {done.stderr.strip()} Without git, set SOURCE_DATE_EPOCH: seconds since 1970.")
    return done.stdout.strip()


def build(folder: Path) -> dict[str, str]:
    """Build both distributions with the versions of the tools that are installed here; return their hashes by name."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": time_of_last_commit()}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, environment=environment)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def outside_environment(home: Path) -> dict[str, str]:
    """Return the variables of this process without those that lead Python or Airflow to the repository."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON", "VIRTUAL_ENV"))
    }
    return kept | {"AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


def try_wheel(wheel: Path, home: Path) -> None:
    """
    Install a wheel into a new environment and use it.

    :param home: An empty folder outside the repository.
    """
    step("Installing the wheel alone into a new environment")
    venv.create(home / "env", with_pip=True)
    python = home / "env" / "bin" / "python"
    environment = outside_environment(home)
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, cwd=home, environment=environment)
    step("pip check")
    run(*pip, "check", cwd=home, environment=environment)
    step(f"airflow providers get {PROVIDER}")
    run(python, "-m", "airflow", "providers", "get", PROVIDER, cwd=home, environment=environment)
    step("A DAG, with the emulator of the wheel")
    run(python, ROOT / "dev" / "smoke.py", cwd=home, environment=environment)


def main() -> None:
    """Build, compare, check and try."""
    step("Building twice")
    for path in DIST.glob("*"):
        path.unlink()
    hashes = build(DIST)
    with tempfile.TemporaryDirectory() as second:
        if build(Path(second)) != hashes:
            raise SystemExit("FAILED: a second build has other bytes.")
    step("twine check --strict")
    run(sys.executable, "-m", "twine", "check", "--strict", *(DIST / name for name in hashes))
    (wheel,) = DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as home:
        try_wheel(wheel, Path(home))
    print()
    for name, digest in hashes.items():
        print(f"{digest}  dist/{name}")


if __name__ == "__main__":
    main()
