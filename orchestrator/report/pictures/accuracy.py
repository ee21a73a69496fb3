"""Test accuracy against compression, and against what the search for the network cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.formatting import compression, percent, shorten
from orchestrator.report.pictures.style import (
    CROWD,
    GREY,
    INK,
    LINES,
    MARKERS,
    PAPER,
    SHADE,
    Picture,
    frame,
    label_of,
    legend,
    legend_shape,
)
from orchestrator.report.published import Published
from orchestrator.report.summary import Row
from orchestrator.report.tasks import Task

LEAST_SPAN = 5.0  # points of accuracy from top to bottom, so that noise does not look like a landscape
MOST_SPAN = 15.0  # below the dense network; what falls deeper is of no use, and would flatten the rest
MANY_PATHS = 60
Across = Callable[[Row], float]


def accuracy_picture(task: Task, references: dict[str, Published]) -> Picture:
    """One line per experiment against compression; `references` by experiment, dashed with hollow markers."""
    sheet = _Sheet(task, references, lambda row: row.compression, "Test accuracy against compression")
    largest = max(row.compression for row in task.rows)
    sheet.axes.set_xscale("log", base=2)
    sheet.axes.set_xlim(0.94, max(largest, 2) * 1.1)
    doublings = range(int(math.log2(max(largest, 2) * 1.1)) + 1)
    ticks = [2**power for power in doublings if power % (1 + len(doublings) // 12) == 0]
    sheet.axes.set_xticks(ticks, [f"{tick:,}x" for tick in ticks])
    sheet.axes.minorticks_off()
    sheet.axes.set_xlabel("compression (all weights over those kept)")
    sheet.draw()
    return Picture("accuracy", sheet.alt, sheet.figure, sheet.titles)


def cost_picture(task: Task) -> Picture:
    """The same against the epochs of retraining that led to each network."""
    sheet = _Sheet(task, {}, lambda row: row.cost, "Test accuracy against search cost")
    most = max(row.cost for row in task.rows)
    sheet.axes.set_xlim(-0.02 * max(most, 1), max(most, 1) * 1.04)
    sheet.axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    sheet.axes.xaxis.set_major_formatter("{x:,.0f}")
    sheet.axes.set_xlabel("epochs of retraining along the path (the dense run is not counted)")
    sheet.draw()
    return Picture("cost", sheet.alt, sheet.figure, sheet.titles)


class _Sheet:
    """What the two pictures have in common: all but the axis across."""

    def __init__(self, task: Task, references: dict[str, Published], across: Across, title: str) -> None:
        self.task, self.references, self.across = task, references, across
        self.titles: dict[str, list[str]] = {}
        self._handles: list[tuple[Any, str]] = []
        seeds = len({row_seed for row in task.rows for row_seed in row.seeds})
        over = f"median of {seeds} seeds, band from least to greatest" if seeds > 1 else "one seed"
        self.alt = f"{title}, {over}"
        low, high, cut = _limits(task)
        mark = "Ring: the recommended network, chosen on validation. In brackets: the choice within one line."
        notes = [mark] if task.choice else []
        notes += ["Dashed with hollow markers: published medians (Renda, Frankle, Carbin 2020)."] if references else []
        notes += [f"Lines that leave the picture go on below {low:g} %."] if cut else []
        self._note = "\n".join(notes)
        self._names = {name: self._label(name) for name in task.shown}
        labels = [*self._names.values(), *(reference.label for reference in references.values())]
        self._others = [name for name in task.experiments if name not in self._names]
        labels += ["others"] if self._others else []
        lines, self._columns = legend_shape(labels)
        subtitle = f"{shorten(task.title, 40)}: {self.alt.split(', ', 1)[1]}"
        self.figure, (self.axes,) = frame(title, subtitle, legend=lines, note=self._note)
        self.axes.set_ylim(low, high)
        self.axes.yaxis.set_major_formatter("{x:g} %")

    def draw(self) -> None:
        """Everything inside the axes, and the legend."""
        if self._others:
            self._draw_others()
        for index, name in enumerate(self.task.shown):
            self._draw_experiment(name, LINES[index % len(LINES)], MARKERS[index % len(MARKERS)], index)
        if choice := self.task.choice:
            self._mark(choice.row, 100 * choice.dense.test.median)
        legend(self.figure, self.axes, self._handles, self._columns, note=self._note)

    def _draw_experiment(self, name: str, colour: str, marker: str, index: int) -> None:
        rows = self.task.experiments[name]
        x, y = [self.across(row) for row in rows], [100 * row.test.median for row in rows]
        low, high = [100 * row.test.low for row in rows], [100 * row.test.high for row in rows]
        if low != high:
            self.axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
        gid = f"points-{index}"
        style = {"color": colour, "linewidth": 1.7, "marker": marker, "markersize": 4.6, "markeredgewidth": 0}
        seen = [place for place, value in enumerate(y) if value >= self.axes.get_ylim()[0]]
        (line,) = self.axes.plot(x, y, markevery=seen, zorder=3, gid=gid, **style)
        self.titles[gid] = [point_title(rows[place]) for place in seen]
        self._handles.append((line, self._names[name]))
        if reference := self.references.get(name):
            points = reference.points
            (dashed,) = self.axes.plot(
                [1 / point.density for point in points], [100 * point.median for point in points], color=colour,
                linewidth=1, linestyle=(0, (4, 3)), marker=marker, markersize=5.5, markerfacecolor="none",
                markeredgewidth=1, zorder=2.5,
            )  # fmt: skip
            self._handles.append((dashed, reference.label))

    def _draw_others(self) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        paths = [
            [(self.across(row), 100 * row.test.median) for row in self.task.experiments[name]] for name in self._others
        ]
        lines = LineCollection(paths, colors=CROWD, linewidths=0.8, alpha=0.7)
        if len(paths) > MANY_PATHS:
            # A shade, not lines: as pixels they cost the page little.
            lines.set(color=SHADE, alpha=0.2, rasterized=True)
        self.axes.add_collection(lines, autolim=False)
        handle = Line2D([], [], color=CROWD, linewidth=1.2)
        self._handles.append((handle, f"{len(paths)} other experiment{'s' if len(paths) > 1 else ''}"))

    def _mark(self, best: Row, dense: float) -> None:
        """A ring around the recommended network, what it is, and the dense network's line."""
        from matplotlib.transforms import blended_transform_factory

        axes, y = self.axes, 100 * best.test.median
        axes.axhline(dense, color=GREY, linewidth=1, linestyle=(0, (5, 4)), zorder=1.5)
        edge = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(1.012, dense, f"dense\n{dense:.2f} %", transform=edge, va="center", fontsize=8, color=GREY)
        x = self.across(best)
        axes.plot(x, y, "o", markersize=12, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.5, zorder=5)
        axes.vlines(x, axes.get_ylim()[0], y, color=INK, linewidth=0.8, linestyle=":", zorder=2)
        left, right = axes.get_xlim()
        middle = math.sqrt(left * right) if axes.get_xscale() == "log" else (left + right) / 2
        what = f"{compression(best.compression)} smaller" if best.round else "the dense network"
        axes.annotate(
            f"recommended: {what}\ntest {y:.2f} %", xy=(x, 0), xycoords=("data", "axes fraction"),
            xytext=(-6 if x > middle else 6, 7), textcoords="offset points", ha="right" if x > middle else "left",
            fontsize=8.6, weight="bold", color=INK, linespacing=1.35, zorder=6,
            bbox={"color": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip

    def _label(self, name: str) -> str:
        best = next((row for row in self.task.experiments[name] if row.recommended), None)
        return label_of(name) + (f"  ({compression(best.compression)})" if best and best.round else "")


def point_title(row: Row) -> str:
    """What a point says when it is pointed at."""
    seeds = len(row.seeds)
    return (
        f"{label_of(row.experiment)}, round {row.round}: {compression(row.compression)}, "
        f"test {row.test.text(seeds)} %, validation {percent(row.validation.median)} %, "
        f"{row.cost:,} epochs of retraining"
    )


def _limits(task: Task) -> tuple[float, float, bool]:
    """(bottom, top) of the accuracy axis, in per cent, and whether something lies below it."""
    rows: Sequence[Row] = [row for name in task.shown for row in task.experiments[name]]
    low, high = 100 * min(row.test.low for row in rows), 100 * max(row.test.high for row in rows)
    low = max(low, high - MOST_SPAN)
    if task.choice:  # which is always to be seen
        low = min(low, 100 * min(task.choice.row.test.low, task.choice.dense.test.low))
    cut = low > 100 * min(row.test.low for row in task.rows)
    span = max(high - low, LEAST_SPAN)
    top = min(high + 0.08 * span, 100 + 0.03 * span)
    bottom = max(min(low - (0 if cut else 0.12 * span), top - span), -0.03 * span)
    if cut:
        bottom = math.floor(bottom)
    return bottom, max(top, bottom + LEAST_SPAN), cut
