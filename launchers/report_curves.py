"""Curves as inline SVG, coloured by the page's style sheet so that they follow light and dark.

A chart joins what belongs together: train and val of one figure, the levels of one figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

Points = Sequence[tuple[int, float]]

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 30
COLOURS = 6
MAX_POINTS = 400
_LEVEL = re.compile(r"_?level_?(\d+)_?")


@dataclass(frozen=True)
class Line:
    """One curve. Held-out figures are drawn dashed, training ones plain."""

    label: str
    points: Points
    colour: int
    dashed: bool


@dataclass
class Chart:
    """Lines on the same axes."""

    title: str
    lines: list[Line] = field(default_factory=list)
    from_zero: bool = False

    @property
    def flat(self) -> bool:
        """Whether nothing in it ever changes."""
        return len({value for line in self.lines for _, value in line.points}) == 1


@dataclass(frozen=True)
class Axes:
    """Where a step and a value lie in the picture; values outside are drawn on the border."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, step: float) -> float:
        """Pixels from the left."""
        return LEFT + (step - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = min(1.0, max(0.0, (value - self.y_low) / (self.y_high - self.y_low)))
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def charts_of(series: Mapping[str, Points]) -> list[Chart]:
    """Charts of a stage's metrics, the ones that say most first; a figure known at one step only makes no chart.

    Args:
        series: {'train/loss': points, 'val/psnr': points, 'train/level0_commitment': points, ...}.
    """
    charts: dict[str, Chart] = {}
    for name, points in sorted(series.items()):
        split, _, figure = name.rpartition("/")
        level = _LEVEL.search(figure)
        title = _LEVEL.sub("", figure) + " by level" if level else figure
        chart = charts.setdefault(title, Chart(title.replace("_", " ")))
        label = f"level {level[1]}, {split}" if level else split or figure
        colour = int(level[1]) if level else int(split == "val")
        chart.lines.append(Line(label, points, colour % COLOURS, dashed=split == "val" and len(points) > 1))
    drawn = {title: chart for title, chart in charts.items() if max(len(line.points) for line in chart.lines) > 1}
    return [drawn[title] for title in sorted(drawn, key=lambda title: (_importance(title), title))]


FIRST = ("loss", "psnr", "bits_per_image")


def _importance(title: str) -> int:
    return FIRST.index(title) if title in FIRST else len(FIRST)


def draw(chart: Chart) -> str:
    """The chart as a figure with its legend: an SVG without script or outside reference."""
    axes = _axes(chart.lines, from_zero=chart.from_zero)
    body = [*_grid(axes), *(_curve(line, axes) for line in chart.lines)]
    spoken = ", ".join(f"{line.label} ends at {short(line.points[-1][1])}" for line in chart.lines)
    legend = "".join(map(_legend, chart.lines))
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}: {escape(spoken)}">'
        f'{"".join(body)}</svg><ul class="legend">{legend}</ul></figure>'
    )


def _legend(line: Line) -> str:
    mark = f'<path class="line c{line.colour}{_dash(line)}" d="M1 4H21"/>'
    words = f"{escape(line.label)} <b>{short(line.points[-1][1])}</b>"
    return f'<li><svg viewBox="0 0 22 8" aria-hidden="true">{mark}</svg>{words}</li>'


def short(value: float) -> str:
    """Four significant digits, thousands grouped, no needless zeros."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3e}"
    return f"{value:.4g}"


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
    """At most `most` points: means over equal runs of points, so that noise thins and no trend is lost."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers in [low, high], 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(lines: Sequence[Line], *, from_zero: bool) -> Axes:
    steps = [step for line in lines for step, _ in line.points]
    values = sorted(value for line in lines for _, value in thinned(line.points))
    low, high = values[0], values[-1]
    if len(values) >= 50:  # a few spikes must not flatten the rest of the curve
        low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    lowest = 0.0 if 0 <= low <= high * (1 if from_zero else 0.35) and high else low - room
    x_low, x_high = min(steps), max(steps)
    return Axes(x_low, x_high if x_high > x_low else x_low + 1, lowest, high + room)


def _grid(axes: Axes) -> list[str]:
    parts = []
    for value in ticks(axes.y_low, axes.y_high, 6):
        y = axes.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    for step in ticks(axes.x_low, axes.x_high, 5):
        if step == int(step):
            parts.append(f'<text x="{axes.x(step):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_tick(step)}</text>')
    return parts


def _curve(line: Line, axes: Axes) -> str:
    points = [(axes.x(step), axes.y(value)) for step, value in thinned(line.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    dot = f'<circle class="dot c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<path class="line c{line.colour}{_dash(line)}" d="{path}"/>{dot}'


def _dash(line: Line) -> str:
    return " dashed" if line.dashed else ""


def _tick(value: float) -> str:
    size = abs(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.4g}{name}"
    return f"{value:.4g}"
