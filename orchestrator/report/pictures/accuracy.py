"""Accuracy of every round against compression, against epochs of retraining, and against size of the model file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.formatting import compression, percent, shorten, size
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import (
    CROWD,
    GREY,
    INK,
    LINES,
    MARKERS,
    PAPER,
    PIXELS,
    Picture,
    add_legend,
    legend_shape,
    new_figure,
    short_name,
)
from orchestrator.report.published import PublishedResult
from orchestrator.report.summary import Row

# Points of accuracy from top to bottom. With less, noise would look large.
MIN_SPAN = 5.0
# With more, experiments that fail at high compression would flatten the rest.
MAX_SPAN = 15.0
FRONT_SPAN = 6.0  # points below the best that the Pareto front shows
MAX_LINES = 60  # more other experiments than this are drawn as pixels, because lines would make the page large
MAX_DOTS = 1500  # the same for the dots beside the Pareto front
SIZE_TICKS = ((10, 20, 50), (10, 15, 20, 30, 40, 50, 60, 70, 80, 90))  # tenths of powers of ten, coarse and fine
RING = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.5, "zorder": 5}


def accuracy_picture(comparison: Comparison, references: dict[str, PublishedResult]) -> Picture:
    """Draw test accuracy against compression, one line per experiment.

    `references`, by experiment, are dashed and have hollow markers.
    """
    plot = _ExperimentsPlot(comparison, references, lambda row: row.compression, "Test accuracy against compression")
    largest = max(row.compression for row in comparison.rows)
    plot.axes.set_xscale("log", base=2)
    plot.axes.set_xlim(0.94, max(largest, 2) * 1.1)
    doublings = range(int(math.log2(max(largest, 2) * 1.1)) + 1)
    ticks = [2**power for power in doublings if power % (1 + len(doublings) // 12) == 0]
    plot.axes.set_xticks(ticks, [f"{tick:,}x" for tick in ticks])
    plot.axes.minorticks_off()
    plot.axes.set_xlabel("compression (all weights over those kept)")
    plot.draw()
    return Picture("accuracy", plot.alt, plot.figure, plot.titles)


def cost_picture(comparison: Comparison) -> Picture:
    """Draw test accuracy against the epochs of retraining that led to each network."""
    plot = _ExperimentsPlot(comparison, {}, lambda row: row.retraining_epochs, "Test accuracy against search cost")
    largest = max(row.retraining_epochs for row in comparison.rows)
    plot.axes.set_xlim(-0.02 * max(largest, 1), max(largest, 1) * 1.04)
    plot.axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    plot.axes.xaxis.set_major_formatter("{x:,.0f}")
    plot.axes.set_xlabel("epochs of retraining along the path (the dense run is not counted)")
    plot.draw()
    return Picture("cost", plot.alt, plot.figure, plot.titles)


def front_picture(comparison: Comparison) -> Picture:
    """Draw validation accuracy against size: a dot per network, a line along the Pareto front, a ring at the choice."""
    note = "On the line: no other network is both smaller and more accurate on validation."
    if comparison.recommendation:
        note += " Dotted: the least accuracy\nthat a recommended network must have. "
        note += "Of those above it, the one with the fewest weights."
    title = "Accuracy against size of the model file"
    subtitle = f"{shorten(comparison.title, 35)}: validation accuracy of each round, median of its seeds"
    figure, (axes,) = new_figure(title, subtitle, right=0.3, note=note)
    titles: dict[str, list[str]] = {}
    inside = _set_front_limits(axes, comparison)
    many = len(inside) > MAX_DOTS
    axes.plot(
        *_coordinates(inside), "o", color=PIXELS if many else CROWD, markersize=3.2, markeredgewidth=0, zorder=2,
        gid="all", rasterized=many,
    )  # fmt: skip
    front = [row for row in comparison.front if row in inside]
    axes.step(*_coordinates(comparison.front), where="post", color=LINES[0], linewidth=1.5, zorder=3)
    axes.plot(*_coordinates(front), "o", color=LINES[0], markersize=5, markeredgewidth=0, zorder=4, gid="front")
    titles["front"] = [_point_title(row) for row in front]
    if not many:
        titles["all"] = [_point_title(row) for row in inside]
    if recommendation := comparison.recommendation:
        axes.axhline(100 * recommendation.min_validation, color=GREY, linewidth=1.1, linestyle=":", zorder=1.5)
        if recommendation.row.round:
            _annotate_from_top(axes, recommendation.dense, "dense", 0.995, "right", GREY)
        _ring_recommended(axes, recommendation.row)
    axes.set_xlabel("size of the model file (bytes, logarithmic)")
    return Picture("front", f"{title}: {len(comparison.front)} networks on the Pareto front", figure, titles)


class _ExperimentsPlot:
    """Draw test accuracy with one line per experiment. The caller sets up the horizontal axis, then calls `draw`."""

    def __init__(
        self,
        comparison: Comparison,
        references: dict[str, PublishedResult],
        x_of: Callable[[Row], float],
        title: str,
    ) -> None:
        self.comparison, self.references, self.x_of = comparison, references, x_of
        self.titles: dict[str, list[str]] = {}
        self._legend_entries: list[tuple[Any, str]] = []
        seeds = len({seed for row in comparison.rows for seed in row.seeds})
        over = f"median of {seeds} seeds, band from least to greatest" if seeds > 1 else "one seed"
        self.alt = f"{title}, {over}"
        low, high, cut = _accuracy_limits(comparison)
        mark = "Ring: the recommended network, chosen on validation. In brackets: the choice within one line."
        notes = [mark] if comparison.recommendation else []
        notes += ["Dashed with hollow markers: published medians (Renda, Frankle, Carbin 2020)."] if references else []
        notes += [f"Lines that leave the picture go on below {low:g} %."] if cut else []
        self._note = "\n".join(notes)
        self._names = {name: self._label(name) for name in comparison.shown}
        labels = [*self._names.values(), *(reference.label for reference in references.values())]
        self._others = [name for name in comparison.experiments if name not in self._names]
        labels += ["others"] if self._others else []
        lines, self._columns = legend_shape(labels)
        subtitle = f"{shorten(comparison.title, 40)}: {self.alt.split(', ', 1)[1]}"
        self.figure, (self.axes,) = new_figure(title, subtitle, legend=lines, note=self._note)
        self.axes.set_ylim(low, high)
        self.axes.yaxis.set_major_formatter("{x:g} %")

    def draw(self) -> None:
        """Draw everything inside the axes, and the legend."""
        if self._others:
            self._draw_others()
        for index, name in enumerate(self.comparison.shown):
            self._draw_experiment(name, LINES[index % len(LINES)], MARKERS[index % len(MARKERS)], index)
        if recommendation := self.comparison.recommendation:
            self._mark_recommended(recommendation.row, 100 * recommendation.dense.test.median)
        add_legend(self.figure, self._legend_entries, self._columns, note=self._note)

    def _draw_experiment(self, name: str, colour: str, marker: str, index: int) -> None:
        rows = self.comparison.experiments[name]
        x, y = [self.x_of(row) for row in rows], [100 * row.test.median for row in rows]
        low, high = [100 * row.test.low for row in rows], [100 * row.test.high for row in rows]
        if low != high:
            self.axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
        gid = f"points-{index}"
        style = {"color": colour, "linewidth": 1.7, "marker": marker, "markersize": 4.6, "markeredgewidth": 0}
        visible = [place for place, value in enumerate(y) if value >= self.axes.get_ylim()[0]]
        (line,) = self.axes.plot(x, y, markevery=visible, zorder=3, gid=gid, **style)
        self.titles[gid] = [_point_title(rows[place]) for place in visible]
        self._legend_entries.append((line, self._names[name]))
        if reference := self.references.get(name):
            points = reference.points
            (dashed,) = self.axes.plot(
                [1 / point.density for point in points], [100 * point.median for point in points], color=colour,
                linewidth=1, linestyle=(0, (4, 3)), marker=marker, markersize=5.5, markerfacecolor="none",
                markeredgewidth=1, zorder=2.5,
            )  # fmt: skip
            self._legend_entries.append((dashed, reference.label))

    def _draw_others(self) -> None:
        """Draw the experiments that have no colour of their own."""
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        paths = [
            [(self.x_of(row), 100 * row.test.median) for row in self.comparison.experiments[name]]
            for name in self._others
        ]
        lines = LineCollection(paths, colors=CROWD, linewidths=0.8, alpha=0.7)
        if len(paths) > MAX_LINES:
            lines.set(color=PIXELS, alpha=0.2, rasterized=True)
        self.axes.add_collection(lines, autolim=False)
        handle = Line2D([], [], color=CROWD, linewidth=1.2)
        self._legend_entries.append((handle, f"{len(paths)} other experiment{'s' if len(paths) > 1 else ''}"))

    def _mark_recommended(self, best: Row, dense: float) -> None:
        """Draw a ring and a text at the recommended network, and a line at the dense network's accuracy."""
        from matplotlib.transforms import blended_transform_factory

        axes, y = self.axes, 100 * best.test.median
        axes.axhline(dense, color=GREY, linewidth=1, linestyle=(0, (5, 4)), zorder=1.5)
        edge = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(1.012, dense, f"dense\n{dense:.2f} %", transform=edge, va="center", fontsize=8, color=GREY)
        x = self.x_of(best)
        axes.plot(x, y, "o", **RING)
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
        best = next((row for row in self.comparison.experiments[name] if row.recommended), None)
        return short_name(name) + (f"  ({compression(best.compression)})" if best and best.round else "")


def _accuracy_limits(comparison: Comparison) -> tuple[float, float, bool]:
    """Return the ends of the accuracy axis, in per cent, and whether a row lies below it."""
    rows: Sequence[Row] = [row for name in comparison.shown for row in comparison.experiments[name]]
    low, high = 100 * min(row.test.low for row in rows), 100 * max(row.test.high for row in rows)
    low = max(low, high - MAX_SPAN)
    if recommendation := comparison.recommendation:  # is always inside
        low = min(low, 100 * min(recommendation.row.test.low, recommendation.dense.test.low))
    cut = low > 100 * min(row.test.low for row in comparison.rows)
    span = max(high - low, MIN_SPAN)
    top = min(high + 0.08 * span, 100 + 0.03 * span)
    bottom = max(min(low - (0 if cut else 0.12 * span), top - span), -0.03 * span)
    if cut:
        bottom = math.floor(bottom)
    return bottom, max(top, bottom + MIN_SPAN), cut


def _set_front_limits(axes: Any, comparison: Comparison) -> list[Row]:
    """Set both axes of the Pareto front and return the rows that lie inside them."""
    best = max(row.validation.median for row in comparison.rows)
    lowest = max(min(row.validation.median for row in comparison.rows), best - FRONT_SPAN / 100)
    if comparison.recommendation:
        lowest = min(lowest, comparison.recommendation.min_validation)
    inside = [row for row in comparison.rows if row.validation.median >= lowest - 1e-9]
    span = max(100 * (best - lowest), 2.0)
    axes.set_ylim(100 * best - 1.12 * span, 100 * best + 0.32 * span)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %" if value <= 100 else "")
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


def _ring_recommended(axes: Any, row: Row) -> None:
    """Draw a ring and a text at the recommended row of the Pareto front."""
    axes.plot(row.bytes, 100 * row.validation.median, "o", **RING)
    left, right = axes.get_xlim()
    across = math.log(row.bytes / left) / math.log(right / left)
    _annotate_from_top(axes, row, "recommended", min(max(across, 0.17), 0.55), "center", INK, weight="bold")


def _annotate_from_top(
    axes: Any, row: Row, what: str, x: float, align: str, colour: str, weight: str = "normal"
) -> None:
    """Describe `row` at the top of the axes, where no network can be, with a line down to it."""
    axes.annotate(
        f"{what}\n{compression(row.compression)}, {size(row.bytes)}, {percent(row.validation.median)} %",
        xy=(row.bytes, 100 * row.validation.median), xytext=(x, 0.985), textcoords="axes fraction", ha=align,
        va="top", fontsize=8.3, linespacing=1.35, color=colour, weight=weight, zorder=6,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1,
                    "shrinkB": 7 if align == "center" else 3, "relpos": (0.5 if align == "center" else 0.85, 0)},
    )  # fmt: skip


def _coordinates(rows: list[Row]) -> tuple[list[float], list[float]]:
    return [row.bytes for row in rows], [100 * row.validation.median for row in rows]


def _point_title(row: Row) -> str:
    """Return the text that a point shows at the pointer."""
    seeds = len(row.seeds)
    return (
        f"{short_name(row.experiment)}, round {row.round}: {compression(row.compression)}, "
        f"test {row.test.text(seeds)} %, validation {percent(row.validation.median)} %, "
        f"{row.retraining_epochs:,} epochs of retraining"
    )
