"""The Pareto front: the objective on validation data of every round, against the size of its model file."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.formatting import compression, shorten, size
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import (
    CROWD,
    GREY,
    INK,
    LINES,
    PIXELS,
    RING,
    Picture,
    new_figure,
    point_title,
)
from orchestrator.report.pictures.value_axis import LEFT, ValueAxis
from orchestrator.report.summary import Row

# Heights of the vertical axis, in tolerances, without the space for texts.
MIN_SPAN = 4
MAX_SPAN = 12
MAX_DOTS = 1500  # more dots than this are drawn as pixels, because they would make the page large
SIZE_TICKS = ((10, 20, 50), (10, 15, 20, 30, 40, 50, 60, 70, 80, 90))  # tenths of powers of ten, coarse and fine


def front_picture(comparison: Comparison) -> Picture:
    """Draw validation values against size: a dot per network, a line along the Pareto front, a ring at the choice."""
    axis = ValueAxis(comparison.quantity, [row.validation.median for row in comparison.rows])
    note = "On the line: no other network is both smaller and better on validation."
    if comparison.recommendation:
        note += " Dotted: the worst value that\na recommended network may have. "
        note += "Of those that are no worse, it has the fewest weights."
    title = f"Validation {axis.name} against file size"
    subtitle = f"{shorten(comparison.title, 50)}: each round, median of its seeds"
    figure, (axes,) = new_figure(title, subtitle, left=LEFT, right=0.3, note=note)
    titles: dict[str, list[str]] = {}
    inside = _set_limits(axes, axis, comparison)
    many = len(inside) > MAX_DOTS
    axes.plot(
        *_coordinates(inside, axis), "o", color=PIXELS if many else CROWD, markersize=3.2, markeredgewidth=0, zorder=2,
        gid="all", rasterized=many,
    )  # fmt: skip
    front = [row for row in comparison.front if row in inside]
    axes.step(*_coordinates(comparison.front, axis), where="post", color=LINES[0], linewidth=1.5, zorder=3)
    axes.plot(*_coordinates(front, axis), "o", color=LINES[0], markersize=5, markeredgewidth=0, zorder=4, gid="front")
    titles["front"] = [point_title(row) for row in front]
    if not many:
        titles["all"] = [point_title(row) for row in inside]
    if recommendation := comparison.recommendation:
        axes.axhline(axis.drawn(recommendation.floor), color=GREY, linewidth=1.1, linestyle=":", zorder=1.5)
        if recommendation.row.round:
            _annotate_from_edge(axes, axis, recommendation.dense, "dense", 0.995, "right", GREY)
        _ring_recommended(axes, axis, recommendation.row)
    axes.set_xlabel("size of the model file (bytes, logarithmic)")
    return Picture("front", f"{title}: {len(comparison.front)} networks on the Pareto front", figure, titles)


def _set_limits(axes: Any, axis: ValueAxis, comparison: Comparison) -> list[Row]:
    """Set up both axes and return the rows that lie inside them."""
    gains = [axis.gain(row.validation.median) for row in comparison.rows]
    best = max(gains)
    worst = max(min(gains), best - MAX_SPAN * axis.tolerance)
    if comparison.recommendation:
        worst = min(worst, axis.gain(comparison.recommendation.floor))
    rounding = 1e-6 * axis.tolerance
    inside = [row for row, gain in zip(comparison.rows, gains, strict=True) if gain >= worst - rounding]
    span = max(best - worst, MIN_SPAN * axis.tolerance)
    axis.set_up(axes, best - 1.12 * span, best + 0.32 * span, "validation")
    low, high = min(row.bytes for row in inside), max(row.bytes for row in inside)
    axes.set_xscale("log")
    axes.set_xlim(max(low, 1) / 1.25, max(high, 1) * 1.25)
    left, right = axes.get_xlim()
    ticks: list[int] = []
    for steps in SIZE_TICKS:
        ticks = [step * 10**power // 10 for power in range(1, 14) for step in steps]
        ticks = [tick for tick in ticks if left <= tick <= right]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: 1 + len(ticks) // 8]
    axes.set_xticks(ticks, [size(tick) for tick in ticks])
    axes.minorticks_off()
    return inside


def _ring_recommended(axes: Any, axis: ValueAxis, row: Row) -> None:
    """Draw a ring and a text at the recommended row of the Pareto front."""
    axes.plot(row.bytes, axis.drawn(row.validation.median), "o", **RING)
    left, right = axes.get_xlim()
    across = math.log(row.bytes / left) / math.log(right / left)
    _annotate_from_edge(axes, axis, row, "recommended", min(max(across, 0.17), 0.55), "center", INK, weight="bold")


def _annotate_from_edge(
    axes: Any, axis: ValueAxis, row: Row, what: str, x: float, align: str, colour: str, weight: str = "normal"
) -> None:
    """Describe `row` at the edge of the axes where no network can be so good, with a line to it."""
    value = row.quantity.text(row.validation.median)
    from_top = axis.worse_edge == 0
    axes.annotate(
        f"{what}\n{compression(row.compression)}, {size(row.bytes)}, {value}",
        xy=(row.bytes, axis.drawn(row.validation.median)), xytext=(x, 0.985 if from_top else 0.015),
        textcoords="axes fraction", ha=align, va="top" if from_top else "bottom", fontsize=8.3, linespacing=1.35,
        color=colour, weight=weight, zorder=6,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1,
                    "shrinkB": 7 if align == "center" else 3,
                    "relpos": (0.5 if align == "center" else 0.85, 0 if from_top else 1)},
    )  # fmt: skip


def _coordinates(rows: list[Row], axis: ValueAxis) -> tuple[list[float], list[float]]:
    return [row.bytes for row in rows], [axis.drawn(row.validation.median) for row in rows]
