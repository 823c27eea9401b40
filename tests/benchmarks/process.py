"""
Run programs as whole processes and measure them from outside.

CPU is the user and system time of the process with all its threads, from fork to exit, as the kernel counts it. Memory
is its largest resident set (``ru_maxrss``), and time is wall-clock time. No program measures itself.

The harness imports neither Arrow nor numpy: the ``ru_maxrss`` of a child starts at the size of the process that forked
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.benchmarks.rules import Rules, Upsert

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(tempfile.gettempdir()) / "airflow-pinecone-upsert-bench"
_KIB = 1024  # the unit of ru_maxrss on Linux
_ENVIRONMENT = {**os.environ, "NO_PROXY": "127.0.0.1", "AIRFLOW_HOME": str(CACHE / "airflow")}


class RunError(Exception):
    """A measured program failed, or did not do its work, so there is no result."""


@dataclass(frozen=True)
class Run:
    """
    A program that ended successfully.

    :param cpu_s: User and system time in seconds.
    :param wall_s: Seconds from its start to its end.
    :param peak_bytes: Its largest resident set.
    :param output: The JSON object that it printed last.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int
    output: dict[str, Any]


class Program:
    """
    A module of this package as a process. In a ``with`` block, it cannot outlive the block.

    :param module: Name of the module after ``tests.benchmarks.``, run as ``python -m``.
    :param arguments: Its command line.
    :param core: The only core that it may use; None for all cores.
    """

    def __init__(self, module: str, *arguments: object, core: int | None = None) -> None:
        self._name = f"{module} {' '.join(map(str, arguments))}"
        # Files instead of pipes, because no one reads while the program runs.
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        with _only_on(core):
            self._started_s = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)],
                cwd=ROOT,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=self._stdout,
                stderr=self._stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._stderr.close()

    def wait(self, timeout_s: float = 600) -> Run:
        """
        Wait for the program to end.

        :raises RunError: It failed, took too long, or printed no JSON object.
        """
        killer = threading.Timer(timeout_s, self._process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(self._process.pid, 0)
        finally:
            killer.cancel()
        wall_s = time.monotonic() - self._started_s
        self._process.returncode = os.waitstatus_to_exitcode(status)
        last_line = self._read(self._stdout).strip().rpartition("\n")[2]
        if self._process.returncode != 0 or not last_line.startswith("{"):
            raise RunError(
                f"{self._name} ended with exit code {self._process.returncode} after {wall_s:.0f} s "
                f"(timeout: {timeout_s:.0f} s):\n{self._read(self._stderr)[-3_000:]}"
            )
        return Run(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * _KIB, json.loads(last_line))

    @staticmethod
    def _read(file: Any) -> str:
        file.seek(0)
        return str(file.read().decode("utf-8", "replace"))


@contextmanager
def _only_on(core: int | None) -> Iterator[None]:
    """Start children on one core: they inherit the CPU affinity of the process that starts them."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(module: str, *arguments: object, core: int | None = None, timeout_s: float = 600) -> Run:
    """Run a module until it ends. See :class:`Program`."""
    with Program(module, *arguments, core=core) as program:
        return program.wait(timeout_s)


class Service:
    """
    A server in a separate process, for a ``with`` block. It ends when its standard input is closed.

    :param module: See :class:`Program`; it prints its URL as the first line.
    :param arguments: Its command line.
    """

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.url = self._line()
        if not self.url:
            raise RunError(f"{module} did not start.")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Log:
    """
    What the server logged since its rules were set.

    :param upserts: The requests in the order of their arrival.
    :param cpu_s: User and system time of the server in seconds.
    :param calls: The other requests, by path.
    :param deletion_bytes: The bytes of the bodies of deletions.
    """

    upserts: Sequence[Upsert]
    cpu_s: float
    calls: Mapping[str, int] = field(default_factory=dict)
    deletion_bytes: int = 0

    @property
    def accepted(self) -> Sequence[Upsert]:
        return [upsert for upsert in self.upserts if upsert.accepted]

    @property
    def records(self) -> int:
        """Records that were accepted."""
        return sum(upsert.records for upsert in self.accepted)

    @property
    def body_bytes(self) -> int:
        """Bytes of the requests that were accepted."""
        return sum(upsert.body_bytes for upsert in self.accepted)

    @property
    def throttled_share(self) -> float:
        """The share of requests that got a 429."""
        return 1 - len(self.accepted) / len(self.upserts)


class IndexService(Service):
    """The replacement for Pinecone, :mod:`.server`."""

    def __init__(self) -> None:
        super().__init__("server")
        self.grpc_port = int(self._line())

    def set_rules(self, rules: Rules) -> None:
        """Set the rules for the next run, and clear the log."""
        self._request("PUT", "/rules", rules.to_json())

    def log(self) -> Log:
        """Return what the server logged since the rules were set."""
        log = json.loads(self._request("GET", "/log"))
        upserts = [Upsert(*upsert) for upsert in log["upserts"]]
        return Log(upserts, log["cpu_s"], log["calls"], log["deletion_bytes"])

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method)  # noqa: S310 - our own server
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return bytes(response.read())
