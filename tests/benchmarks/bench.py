"""What every measurement needs: the index, the files, how often and how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.process import IndexService, Log, Run, RunError, run
from tests.benchmarks.rules import Rules


@dataclass(frozen=True)
class Bench:
    """
    One run of the benchmark.

    :param index: The stand-in for Pinecone; one for everything.
    :param cache: Folder of the generated files.
    :param runs: Of each contender, in turn.
    :param quick: With less data.
    :param say: Tells of progress.
    """

    index: IndexService
    cache: Path
    runs: int
    quick: bool
    say: Callable[[str], None]

    def amount(self, full: int, quick: int) -> int:
        """Choose how much."""
        return quick if self.quick else full

    def data(self, *, records: int, dimension: int, files: int = 1, one_row_group: bool = False) -> Path:
        """
        Return a folder of generated files, made when it is first asked for.

        :param records: In each file.
        """
        folder = self.cache / f"{records}x{dimension}-{files}{'-one-row-group' * one_row_group}"
        if not folder.exists():
            self.say(f"writing {files} x {records:,} records of {dimension} dimensions")
            half_done = folder.with_suffix(".part")
            shape = ("--records", records, "--dimension", dimension, "--files", files)
            run("data", half_done, *shape, *["--one-row-group"] * one_row_group)
            half_done.rename(folder)
        return folder

    def measure(
        self, client: Sequence[object], rules: Rules, *, records: int | None = None, core: int | None = None
    ) -> Sample:
        """
        Run a client against the index under fresh rules.

        :param client: Module and arguments.
        :param records: How many the server must have accepted; None where fewer are no failure.
        :raises RunError: It did not do what it was to do.
        """
        self.index.set_rules(rules)
        done = run(f"clients.{client[0]}", *client[1:], core=core)
        log = self.index.log()
        if records is not None and {log.records, done.said.get("confirmed", records)} != {records}:
            raise RunError(
                f"{client}: the server accepted {log.records:,} of {records:,} records; it says {done.said}."
            )
        name = " ".join(str(argument) for argument in client[:2] if argument != self.index.url)
        self.say(f"{name}: {done.cpu_s:.1f} s of CPU, {done.wall_s:.1f} s, {done.peak_bytes / 1e6:,.0f} MB")
        return Sample(done, log)

    def in_turn(
        self,
        clients: Mapping[str, Sequence[object]],
        rules: Rules,
        *,
        runs: int,
        records: int | None,
        core: int | None = None,
    ) -> dict[str, list[Sample]]:
        """Measure clients A B A B, so that what else the machine does meets all of them. See :meth:`measure`."""
        samples: dict[str, list[Sample]] = {name: [] for name in clients}
        for _ in range(runs):
            for name, client in clients.items():
                samples[name].append(self.measure(client, rules, records=records, core=core))
        return samples

    def import_bytes(self, *client: object) -> int:
        """Return the peak memory of a client that only imports what it needs."""
        return run(f"clients.{client[0]}", *client[1:]).peak_bytes


class Sample(NamedTuple):
    """One run of a client: the process as the kernel saw it, and its requests as the server saw them."""

    run: Run
    log: Log
