"""Which worker held which task, as text and as SVG: when the worker died, and what was taken over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.benchmarks.chart import WIDTH, label, svg, ticks

from .cluster import Try

_LEFT = 110
_ROW = 20
_GAP = 12
_COLUMNS = 100
"""Characters of a line of text that show the time."""

_STYLE = """<style>
  .first { fill: #0969da } .killed { fill: #bc4c00 } .resumed { fill: #1a7f37 } .unnoticed { fill: #bc4c00; opacity: .2 }
  .death { stroke: #cf222e; stroke-dasharray: 4 3 } .label { fill: #ffffff; font-size: 11px }
  @media (prefers-color-scheme: dark) {
    .first { fill: #1f6feb } .killed { fill: #db6d28 } .resumed { fill: #238636 } .unnoticed { fill: #db6d28 }
  }
</style>"""
_LEGEND = (("first", "first try"), ("killed", "killed"), ("unnoticed", "not noticed yet"), ("resumed", "taken over"))
_CHARACTERS = {"first": "=", "killed": "x", "resumed": "#"}


@dataclass(frozen=True)
class Timeline:
    """
    One DAG run.

    :param title: What ran, and what happened to it.
    :param tries: All tries of its mapped tasks.
    :param dead_worker: The worker that was killed; empty for none.
    :param killed_s: When, by the clock of the tries.
    :param notes: Sentences to print with it.
    """

    title: str
    tries: Sequence[Try]
    dead_worker: str = ""
    killed_s: float = float("inf")
    notes: Sequence[str] = ()

    @property
    def start_s(self) -> float:
        return min(one.started_s for one in self.tries)

    @property
    def duration_s(self) -> float:
        return max(one.ended_s for one in self.tries) - self.start_s

    def lanes(self) -> Iterator[tuple[str, list[Try]]]:
        """Yield the tries of each slot of each worker, with the worker's name."""
        for worker in sorted({one.worker for one in self.tries}):
            slots: list[list[Try]] = []
            for one in sorted((one for one in self.tries if one.worker == worker), key=lambda one: one.started_s):
                free = next((slot for slot in slots if self.end_s(slot[-1]) <= one.started_s), None)
                if free is None:
                    slots.append([one])
                else:
                    free.append(one)
            for slot in slots:
                yield worker, slot

    def kind(self, one: Try) -> str:
        """Return how a try is drawn."""
        if one.worker == self.dead_worker and one.ended_s > self.killed_s:
            return "killed"
        return "resumed" if one.number > 1 else "first"

    def end_s(self, one: Try) -> float:
        """Return when a try ended in truth, not when Airflow noticed it."""
        return self.killed_s if self.kind(one) == "killed" else one.ended_s

    def as_text(self) -> str:
        """Draw it for a terminal: a line for each slot, with the number of each task."""

        def column(moment_s: float) -> int:
            return round((moment_s - self.start_s) / self.duration_s * _COLUMNS)

        lines = [f"{self.title}: {self.duration_s:.0f} s"]
        for worker, slot in self.lanes():
            drawn = [" "] * (_COLUMNS + 1)
            for one in slot:
                first, last = column(one.started_s), max(column(one.started_s) + 3, column(self.end_s(one)))
                number = f"{one.map_index:02}"
                drawn[first:last] = (number + _CHARACTERS[self.kind(one)] * (last - first))[: last - first]
            lines.append(f"  {worker:10}|{''.join(drawn).rstrip()}")
        if self.dead_worker:
            lines.append(f"  {'':10} {' ' * column(self.killed_s)}^ {self.dead_worker} is killed")
        lines.append("  a number is a task; = first try, x killed, # taken over")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def as_svg(self, top: float) -> tuple[list[str], float]:
        """Draw it from this height on, and return the height below it."""

        def position(moment_s: float) -> float:
            return _LEFT + (moment_s - self.start_s) / self.duration_s * (WIDTH - _LEFT - 10)

        lanes = list(self.lanes())
        parts = [label(0, top + 14, f"{self.title}: {self.duration_s:.0f} s", "title")]
        y = first_y = top + 26
        previous = ""
        for worker, slot in lanes:
            if worker != previous:
                y += _GAP if previous else 0
                parts.append(label(0, y + 13, worker))
                previous = worker
            for one in slot:
                left, right = position(one.started_s), position(self.end_s(one))
                parts.append(_bar(left, right, y, self.kind(one)))
                parts.append(label(left + 3, y + 13, f"{one.map_index:02}", "label"))
                if self.kind(one) == "killed":
                    parts.append(_bar(right, position(one.ended_s), y, "unnoticed"))
            y += _ROW
        if self.dead_worker:
            x = position(self.killed_s)
            parts.append(f'<path d="M{x:.1f} {first_y - 4} V{y}" class="death"/>')
            parts.append(label(x + 4, y + 12, f"{self.dead_worker} is killed"))
        parts += [
            label(position(self.start_s + tick), y + 28, f"{tick:.0f} s", anchor="middle")
            for tick in ticks(self.duration_s)
        ]
        return parts, y + 48


def as_svg(timelines: Sequence[Timeline]) -> str:
    """Draw runs one below the other."""
    parts, x = [_STYLE], float(_LEFT)
    for style, name in _LEGEND:
        parts += [_bar(x, x + 22, 4, style), label(x + 28, 16, name)]
        x += 60 + 6.6 * len(name)
    top = 34.0
    for timeline in timelines:
        drawn, top = timeline.as_svg(top)
        parts += drawn
    return svg("A cluster whose workers are killed", top, parts)


def _bar(left: float, right: float, y: float, style: str) -> str:
    return f'<rect x="{left:.1f}" y="{y}" width="{max(1.0, right - left - 1):.1f}" height="16" rx="3" class="{style}"/>'
