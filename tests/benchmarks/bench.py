"""What every measurement uses: the index, the files, the number of runs and the amount of data."""

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

    :param index: The replacement for Pinecone; one server for all measurements.
    :param cache: Folder of the generated files.
    :param runs: Runs of each contender.
    :param quick: Whether to use less data.
    :param say: Reports progress.
    """

    index: IndexService
    cache: Path
    runs: int
    quick: bool
    say: Callable[[str], None]

    def amount(self, full: int, quick: int) -> int:
        """Choose between the full amount and the one of a quick run."""
        return quick if self.quick else full

    def data(
        self,
        *,
        records: int,
        dimension: int,
        files: int = 1,
        one_row_group: bool = False,
        changed: int | None = None,
        tenants: int | None = None,
        shuffled: bool = False,
    ) -> Path:
        """
        Return a folder of generated files, which are written on the first call.

        :param records: Records in each file.
        :param changed: Every record whose row is divisible by this is another one than in the files without it.
        :param tenants: The column ``tenant`` has so many.
        :param shuffled: In random order instead of sorted by tenant.
        """
        flags = [*["--one-row-group"] * one_row_group, *["--shuffled"] * shuffled]
        options = [*flags, *(["--changed", changed] if changed else []), *(["--tenants", tenants] if tenants else [])]
        form = "".join(f"-{option}" for option in options).replace("---", "-")
        folder = self.cache / f"{records}x{dimension}-{files}{form}"
        if not folder.exists():
            self.say(f"writing {files} x {records:,} records of {dimension} dimensions")
            incomplete = folder.with_suffix(".part")
            shape = ("--records", records, "--dimension", dimension, "--files", files)
            run("data", incomplete, *shape, *options)
            incomplete.rename(folder)
        return folder

    def measure(
        self, client: Sequence[object], rules: Rules, *, records: int | None = None, core: int | None = None
    ) -> Sample:
        """
        Run a client against the index under fresh rules.

        :param client: Module and arguments.
        :param records: Records that the server must have accepted; None if it may be fewer.
        :raises RunError: The client failed, or not every record was accepted.
        """
        self.index.set_rules(rules)
        result = run(f"clients.{client[0]}", *client[1:], core=core)
        log = self.index.log()
        if records is not None and {log.records, result.output.get("confirmed", records)} != {records}:
            raise RunError(
                f"{client}: the server accepted {log.records:,} of {records:,} records; it printed {result.output}."
            )
        name = " ".join(str(argument) for argument in client[:2] if argument != self.index.url)
        self.say(f"{name}: {result.cpu_s:.1f} s of CPU, {result.wall_s:.1f} s, {result.peak_bytes / 1e6:,.0f} MB")
        return Sample(result, log)

    def in_turn(
        self,
        clients: Mapping[str, Sequence[object]],
        rules: Rules,
        *,
        runs: int,
        records: int | None,
        core: int | None = None,
    ) -> dict[str, list[Sample]]:
        """Measure clients A B A B, so that other load on the machine affects all of them. See :meth:`measure`."""
        samples: dict[str, list[Sample]] = {name: [] for name in clients}
        for _ in range(runs):
            for name, client in clients.items():
                samples[name].append(self.measure(client, rules, records=records, core=core))
        return samples

    def import_bytes(self, *client: object) -> int:
        """Return the peak memory of a client that only imports its modules."""
        return run(f"clients.{client[0]}", *client[1:]).peak_bytes


class Sample(NamedTuple):
    """One run of a client: the process as measured by the kernel, and its requests as logged by the server."""

    run: Run
    log: Log
