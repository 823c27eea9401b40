"""Charts as hand-written SVG: readable in light and dark mode, without scripts or embedded fonts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-weight: 600; fill: #1f2328 }
  .ours { fill: #0969da } .other { fill: #afb8c1 } .oursline { stroke: #0969da } .otherline { stroke: #bc4c00 }
  .allowed { stroke: #8c959f; stroke-dasharray: 4 3 } .axis { stroke: #d0d7de }
  path { fill: none; stroke-width: 2; stroke-linejoin: round }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc }
    .ours { fill: #4493f8 } .other { fill: #59636e } .oursline { stroke: #4493f8 } .otherline { stroke: #f0883e }
    .allowed { stroke: #9198a1 } .axis { stroke: #3d444d }
  }
"""
WIDTH = 880
_NAMES = 170  # width of the contenders' names
_ROW = 26
_TOP = 34  # where the content below the title starts

_Point = tuple[float, float]


def svg(title: str, height: float, parts: Sequence[str]) -> str:
    """Return a picture of the width ``WIDTH``."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def label(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    """Return a text whose baseline is at this point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def bars(title: str, names: Sequence[str], panels: Mapping[str, Sequence[tuple[float, str]]], ours: int = 1) -> str:
    """
    Draw panels side by side that share the names of their rows.

    :param title: The title above the chart.
    :param names: The contenders.
    :param panels: Panels by title: for each contender the value and its label.
    :param ours: How many of the first contenders are this project.
    """
    top = _TOP + 24
    parts = [label(0, 16, title, "title")]
    parts += [label(0, top + _ROW * row + 16.5, name, "title" if row < ours else "") for row, name in enumerate(names)]
    width = (WIDTH - _NAMES) / len(panels)
    for column, (heading, values) in enumerate(panels.items()):
        left = _NAMES + column * width
        parts.append(label(left, top - 10, heading))
        longest = max(value for value, _ in values)
        for row, (value, text) in enumerate(values):
            length = max(2.0, value / longest * (width - 90))
            style = "ours" if row < ours else "other"
            y = top + _ROW * row
            parts.append(f'<rect x="{left:.1f}" y="{y + 4}" width="{length:.1f}" height="16" rx="3" class="{style}"/>')
            parts.append(label(left + length + 6, y + 16.5, text))
    return svg(title, top + _ROW * len(names) + 6, parts)


def lines(
    title: str,
    unit: str,
    series: Mapping[str, tuple[str, Sequence[_Point]]],
    x_label: Callable[[float], str] = "{:.0f} s".format,
    y_label: Callable[[float], str] = "{:,.0f}".format,
) -> str:
    """
    Draw rates over time, or other values over a share.

    :param title: The title above the chart.
    :param unit: The unit of the rate.
    :param series: Lines by name: the style ``ours``, ``other`` or ``allowed``, and the points (seconds, rate).
    :param x_label: Formats seconds, or a share.
    :param y_label: Formats a rate; of the highest one, this decides how wide the margin is.
    """
    height, bottom = 300, 30
    end = max(x for _, points in series.values() for x, _ in points)
    top = 1.12 * max(y for _, points in series.values() for _, y in points)
    left = max(60.0, 6.6 * max(len(y_label(tick)) for tick in ticks(top)) + 12)

    def position(point: _Point) -> str:
        x = left + point[0] / end * (WIDTH - left - 20)
        return f"{x:.1f} {height - bottom - point[1] / top * (height - bottom - _TOP - 18):.1f}"

    parts = [label(0, 16, title, "title")]
    for tick in ticks(top):
        height_of_tick = float(position((0, tick)).split()[1])
        parts.append(f'<path d="M{position((0, tick))} L{position((end, tick))}" class="axis" style="stroke-width:1"/>')
        parts.append(label(left - 8, height_of_tick + 4, y_label(tick), anchor="end"))
    parts += [
        label(float(position((tick, 0)).split()[0]), height - 10, x_label(tick), anchor="middle") for tick in ticks(end)
    ]
    x = left
    for name, (style, points) in series.items():
        css = "allowed" if style == "allowed" else f"{style}line"
        parts.append(f'<path d="M{" L".join(map(position, points))}" class="{css}"/>')
        parts.append(f'<path d="M{x} {_TOP} h22" class="{css}"/>')
        parts.append(label(x + 28, _TOP + 4, name))
        x += 60 + 6.6 * len(name)
    parts.append(label(WIDTH - 20, _TOP + 4, unit, anchor="end"))
    return svg(title, height, parts)


def stairs(points: Sequence[_Point]) -> list[_Point]:
    """Turn a rate that changes in steps into the points of a line: each value holds until the next point."""
    held = [(next_x, y) for (_, y), (next_x, _) in pairwise(points)]
    return [point for pair in zip(points, held, strict=False) for point in pair] + [points[-1]]


def ticks(end: float) -> list[float]:
    """Return round numbers from 0 to the end, at most seven."""
    steps = (step * 10**power for power in range(7) for step in (1, 2, 5))
    step = next(step for step in steps if end / step <= 6)
    return [step * number for number in range(int(end / step) + 1)]
