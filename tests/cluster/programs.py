"""
Programs of a cluster: each has a log, is waited for until it is ready, and is killed with all its descendants.

Invariant: after :meth:`Program.kill` no process that the program started is left, except those that a test left as orphans
on purpose, which the test kills.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

START_WITHIN_S = 120
POLL_INTERVAL_S = 0.4


class ClusterError(Exception):
    """A part of the cluster is missing, did not start or has ended."""


class Program:
    """
    A running program.

    :param name: Its name in messages, and that of its log.
    :param command: What to start.
    :param logs: The folder of its log.
    :param environment: All of its environment variables.
    :param user: The user to run it as; None for this one.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, logs: Path, environment: Mapping[str, str], user: str | None = None
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd="/",  # another user may not be allowed to enter this one's folders
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C reaches the tests only, which end the programs in order
            )
        self._popen = process
        self.process = psutil.Process(process.pid)

    def wait_until_ready(self, is_ready: Callable[[], bool]) -> None:
        """
        Wait until the program is ready.

        :raises ClusterError: It has ended, or is not ready in time. The message ends with its log.
        """
        deadline_s = time.monotonic() + START_WITHIN_S
        while self.is_running and time.monotonic() < deadline_s:
            if is_ready():
                return
            time.sleep(POLL_INTERVAL_S)
        state = f"is not ready after {START_WITHIN_S} s" if self.is_running else "has ended"
        raise ClusterError(f"{self.name} {state}. The end of {self.log}:\n{self.log.read_text()[-3_000:]}")

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def family(self) -> list[psutil.Process]:
        """Return the program's process and all its descendants."""
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, *, leave: Iterable[psutil.Process] = ()) -> None:
        """Kill the program and its descendants, except those to leave, which become orphans."""
        kill([process for process in self.family() if process not in set(leave)])
        self._popen.wait()


def run(name: str, command: Sequence[str], **where: object) -> None:
    """
    Run a program until it ends. The parameters are those of :class:`Program`.

    :raises ClusterError: It fails. The message ends with its log.
    """
    program = Program(name, command, **where)
    try:
        code = program._popen.wait(START_WITHIN_S)
    finally:
        program.kill()
    if code:
        raise ClusterError(f"{name} failed with exit code {code}:\n{program.log.read_text()[-3_000:]}")


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes. A process id that was given to another process since then is left alone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, also if its parent has not noticed it yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
