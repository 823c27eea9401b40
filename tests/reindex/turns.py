"""
Processes that run at once: one of them takes a step at a time, and a seed decides which.

Each process is a thread that runs only while it has the turn, so a schedule is the same each time. A process that waits
gives its turn to those whose time has come; where all of them wait, the clock advances.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from random import Random

from tests.pipeline.simulation import World

ASLEEP = math.inf
"""Until it is woken, or until all others have ended."""


class Turns:
    """
    Gives the turns.

    :param world: Has the clock.
    :param random: Chooses among processes whose time has come.
    """

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._wakes_at_s: dict[str, float] = {}
        self._gates: dict[str, threading.Semaphore] = {}
        self._errors: list[BaseException] = []
        self._have_ended = threading.Semaphore(0)

    def run(self, processes: Mapping[str, Callable[[], None]], asleep: str) -> None:
        """
        Run processes until all have ended, and raise the first error of one.

        :param processes: By name.
        :param asleep: The name of the one that does not start before it is woken.
        """
        for name in processes:
            self._gates[name] = threading.Semaphore(0)
            self._wakes_at_s[name] = ASLEEP if name == asleep else self._world.clock_s
        threads = [threading.Thread(target=self._live, args=item, daemon=True) for item in processes.items()]
        for thread in threads:
            thread.start()
        self._gates[self._choose()].release()
        self._have_ended.acquire()
        for thread in threads:
            thread.join()
        for error in self._errors:
            raise error

    def wake(self, name: str, moment_s: float) -> None:
        """Wake a process that is asleep, at a moment."""
        if self._wakes_at_s.get(name) == ASLEEP:
            self._wakes_at_s[name] = moment_s

    def wait_until(self, name: str, moment_s: float) -> None:
        """Let others have their turns until a moment, or only one turn if the moment has come."""
        self._wakes_at_s[name] = max(moment_s, self._world.clock_s)
        chosen = self._choose()
        if chosen != name:
            self._gates[chosen].release()
            self._gates[name].acquire()

    def _live(self, name: str, process: Callable[[], None]) -> None:
        self._gates[name].acquire()
        try:
            process()
        except BaseException as exc:  # noqa: BLE001 - raised by run()
            self._errors.append(exc)
        del self._wakes_at_s[name]
        if self._wakes_at_s:
            self._gates[self._choose()].release()
        else:
            self._have_ended.release()

    def _choose(self) -> str:
        earliest_s = min(self._wakes_at_s.values())
        if earliest_s != ASLEEP:
            self._world.advance_to(earliest_s)
        now = self._world.clock_s
        ready = [name for name, at_s in self._wakes_at_s.items() if at_s <= now] or list(self._wakes_at_s)
        return self._random.choice(ready)
