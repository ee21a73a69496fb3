"""The Pareto front: validation accuracy against the size of the model's file, and why one network is recommended."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.formatting import compression, percent, shorten, size
from orchestrator.report.pictures.accuracy import point_title
from orchestrator.report.pictures.style import CROWD, GREY, INK, LINES, SHADE, Picture, frame
from orchestrator.report.summary import Row
from orchestrator.report.tasks import Task

MANY = 1500  # points; more are pixels, because the page would be slow with them
SPAN = 6.0  # points of accuracy below the best that are shown
STEPS = ((10, 20, 50), (10, 15, 20, 30, 40, 50, 60, 70, 80, 90))  # tenths of powers of ten; the finer if need be


def front_picture(task: Task) -> Picture:
    """Every network as a dot, those that no other beats joined by a line, the recommended one in a ring."""
    note = "On the line: no other network is both smaller and more accurate on validation."
    if task.choice:
        note += " Dotted: the least accuracy\nthat a recommended network must have. "
        note += "Of those above it, the one with the fewest weights."
    title = "Accuracy against size of the model file"
    subtitle = f"{shorten(task.title, 35)}: validation accuracy of each round, median of its seeds"
    figure, (axes,) = frame(title, subtitle, right=0.3, note=note)
    titles: dict[str, list[str]] = {}
    inside = _limit(axes, task)
    many = len(inside) > MANY
    axes.plot(
        *_places(inside), "o", color=SHADE if many else CROWD, markersize=3.2, markeredgewidth=0, zorder=2, gid="all",
        rasterized=many,
    )  # fmt: skip
    front = [row for row in task.front if row in inside]
    axes.step(*_places(task.front), where="post", color=LINES[0], linewidth=1.5, zorder=3)
    axes.plot(*_places(front), "o", color=LINES[0], markersize=5, markeredgewidth=0, zorder=4, gid="front")
    titles["front"] = [point_title(row) for row in front]
    if not many:
        titles["all"] = [point_title(row) for row in inside]
    if choice := task.choice:
        axes.axhline(100 * choice.least, color=GREY, linewidth=1.1, linestyle=":", zorder=1.5)
        if choice.row.round:
            _words(axes, choice.dense, "dense", 0.995, "right", GREY)
        _ring(axes, choice.row)
    axes.set_xlabel("size of the model file (bytes, logarithmic)")
    return Picture("front", f"{title}: {len(task.front)} networks on the Pareto front", figure, titles)


def _ring(axes: Any, row: Row) -> None:
    """Around the recommended row."""
    style = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.5}
    axes.plot(row.bytes, 100 * row.validation.median, "o", zorder=5, **style)
    left, right = axes.get_xlim()
    across = math.log(row.bytes / left) / math.log(right / left)
    _words(axes, row, "recommended", min(max(across, 0.17), 0.55), "center", INK, weight="bold")


def _words(axes: Any, row: Row, what: str, across: float, side: str, colour: str, weight: str = "normal") -> None:
    """What a row is, at the top, where no network can be: the front is below. A line leads down to it."""
    axes.annotate(
        f"{what}\n{compression(row.compression)}, {size(row.bytes)}, {percent(row.validation.median)} %",
        xy=(row.bytes, 100 * row.validation.median), xytext=(across, 0.985), textcoords="axes fraction", ha=side,
        va="top", fontsize=8.3, linespacing=1.35, color=colour, weight=weight, zorder=6,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1,
                    "shrinkB": 7 if side == "center" else 3, "relpos": (0.5 if side == "center" else 0.85, 0)},
    )  # fmt: skip


def _limit(axes: Any, task: Task) -> list[Row]:
    """Set both axes and return the rows that lie within them."""
    best = max(row.validation.median for row in task.rows)
    least = max(min(row.validation.median for row in task.rows), best - SPAN / 100)
    if task.choice:
        least = min(least, task.choice.least)
    inside = [row for row in task.rows if row.validation.median >= least - 1e-9]
    span = max(100 * (best - least), 2.0)
    axes.set_ylim(100 * best - 1.12 * span, 100 * best + 0.32 * span)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %" if value <= 100 else "")
    low, high = min(row.bytes for row in inside), max(row.bytes for row in inside)
    axes.set_xscale("log")
    axes.set_xlim(max(low, 1) / 1.25, max(high, 1) * 1.25)
    left, right = axes.get_xlim()
    ticks: list[int] = []
    for steps in STEPS:
        ticks = [step * 10**power // 10 for power in range(1, 14) for step in steps]
        ticks = [tick for tick in ticks if left <= tick <= right]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: 1 + len(ticks) // 8]
    axes.set_xticks(ticks, [size(tick) for tick in ticks])
    axes.minorticks_off()
    return inside


def _places(rows: list[Row]) -> tuple[list[float], list[float]]:
    return [row.bytes for row in rows], [100 * row.validation.median for row in rows]
