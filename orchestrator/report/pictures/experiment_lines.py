"""The objective on test data of every round, against compression and against epochs of retraining."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.formatting import compression, shorten
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import (
    CROWD,
    GREY,
    INK,
    LINES,
    MARKERS,
    PAPER,
    PIXELS,
    RING,
    Picture,
    add_legend,
    legend_shape,
    new_figure,
    point_title,
    short_name,
)
from orchestrator.report.pictures.value_axis import LEFT, ValueAxis
from orchestrator.report.published import PublishedResult
from orchestrator.report.summary import Row

# Heights of the vertical axis, in tolerances: half points of fractions, hundredths of other values.
MIN_SPAN = 10  # with less, noise would look large
MAX_SPAN = 30  # with more, experiments that fail at high compression would flatten the rest
MAX_LINES = 60  # more other experiments than this are drawn as pixels, because lines would make the page large


def compression_picture(comparison: Comparison, references: dict[str, PublishedResult]) -> Picture:
    """Draw the objective on test data against compression, one line per experiment.

    `references`, by experiment, are dashed and have hollow markers.
    """
    plot = _ExperimentsPlot(comparison, references, lambda row: row.compression, "compression")
    largest = max(row.compression for row in comparison.rows)
    plot.axes.set_xscale("log", base=2)
    plot.axes.set_xlim(0.94, max(largest, 2) * 1.1)
    doublings = range(int(math.log2(max(largest, 2) * 1.1)) + 1)
    ticks = [2**power for power in doublings if power % (1 + len(doublings) // 12) == 0]
    plot.axes.set_xticks(ticks, [f"{tick:,}x" for tick in ticks])
    plot.axes.minorticks_off()
    plot.axes.set_xlabel("compression (all weights over those kept)")
    plot.draw()
    return Picture("compression", plot.alt, plot.figure, plot.titles)


def cost_picture(comparison: Comparison) -> Picture:
    """Draw the objective on test data against the epochs of retraining that led to each network."""
    plot = _ExperimentsPlot(comparison, {}, lambda row: row.retraining_epochs, "search cost")
    largest = max(row.retraining_epochs for row in comparison.rows)
    plot.axes.set_xlim(-0.02 * max(largest, 1), max(largest, 1) * 1.04)
    plot.axes.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    plot.axes.xaxis.set_major_formatter("{x:,.0f}")
    plot.axes.set_xlabel("epochs of retraining along the path (the dense run is not counted)")
    plot.draw()
    return Picture("cost", plot.alt, plot.figure, plot.titles)


class _ExperimentsPlot:
    """Draw the objective on test data with one line per experiment.

    `x_of` a row is its place on the horizontal axis, which `against` names. The caller sets that axis up, then calls
    `draw`.
    """

    def __init__(
        self,
        comparison: Comparison,
        references: dict[str, PublishedResult],
        x_of: Callable[[Row], float],
        against: str,
    ) -> None:
        self.comparison, self.references, self.x_of = comparison, references, x_of
        self.titles: dict[str, list[str]] = {}
        self._legend_entries: list[tuple[Any, str]] = []
        seeds = len({seed for row in comparison.rows for seed in row.seeds})
        over = f"median of {seeds} seeds, band from least to greatest" if seeds > 1 else "one seed"
        self.axis = ValueAxis(comparison.quantity, [row.test.median for row in comparison.rows])
        title = f"Test {self.axis.name} against {against}"
        self.alt = f"{title}, {over}"
        worst, best, cut = _limits(self.axis, comparison)
        mark = "Ring: the recommended network, chosen on validation. In brackets: the choice within one line."
        notes = [mark] if comparison.recommendation else []
        notes += ["Dashed with hollow markers: published medians (Renda, Frankle, Carbin 2020)."] if references else []
        notes += [f"Lines that leave the picture go on {self._beyond(worst)}."] if cut else []
        self._note = "\n".join(notes)
        self._names = {name: self._label(name) for name in comparison.shown}
        labels = [*self._names.values(), *(reference.label for reference in references.values())]
        self._others = [name for name in comparison.experiments if name not in self._names]
        labels += ["others"] if self._others else []
        lines, self._columns = legend_shape(labels)
        subtitle = f"{shorten(comparison.title, 40)}: {over}"
        self.figure, (self.axes,) = new_figure(title, subtitle, left=LEFT, legend=lines, note=self._note)
        self.axis.set_up(self.axes, worst, best, "test")

    def draw(self) -> None:
        """Draw everything inside the axes, and the legend."""
        if self._others:
            self._draw_others()
        for index, name in enumerate(self.comparison.shown):
            self._draw_experiment(name, LINES[index % len(LINES)], MARKERS[index % len(MARKERS)], index)
        if recommendation := self.comparison.recommendation:
            self._mark_recommended(recommendation.row, recommendation.dense)
        add_legend(self.figure, self._legend_entries, self._columns, note=self._note)

    def _draw_experiment(self, name: str, colour: str, marker: str, index: int) -> None:
        rows = self.comparison.experiments[name]
        drawn = self.axis.drawn
        x, y = [self.x_of(row) for row in rows], [drawn(row.test.median) for row in rows]
        low, high = [drawn(row.test.low) for row in rows], [drawn(row.test.high) for row in rows]
        if low != high:
            self.axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
        gid = f"points-{index}"
        style = {"color": colour, "linewidth": 1.7, "marker": marker, "markersize": 4.6, "markeredgewidth": 0}
        bottom, top = self.axes.get_ylim()
        visible = [place for place, number in enumerate(y) if bottom <= number <= top]
        (line,) = self.axes.plot(x, y, markevery=visible, zorder=3, gid=gid, **style)
        self.titles[gid] = [point_title(rows[place]) for place in visible]
        self._legend_entries.append((line, self._names[name]))
        if reference := self.references.get(name):
            points = reference.points
            (dashed,) = self.axes.plot(
                [1 / point.density for point in points], [drawn(point.median) for point in points], color=colour,
                linewidth=1, linestyle=(0, (4, 3)), marker=marker, markersize=5.5, markerfacecolor="none",
                markeredgewidth=1, zorder=2.5,
            )  # fmt: skip
            self._legend_entries.append((dashed, reference.label))

    def _draw_others(self) -> None:
        """Draw the experiments that have no colour of their own."""
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        paths = [
            [(self.x_of(row), self.axis.drawn(row.test.median)) for row in self.comparison.experiments[name]]
            for name in self._others
        ]
        lines = LineCollection(paths, colors=CROWD, linewidths=0.8, alpha=0.7)
        if len(paths) > MAX_LINES:
            lines.set(color=PIXELS, alpha=0.2, rasterized=True)
        self.axes.add_collection(lines, autolim=False)
        handle = Line2D([], [], color=CROWD, linewidth=1.2)
        self._legend_entries.append((handle, f"{len(paths)} other experiment{'s' if len(paths) > 1 else ''}"))

    def _mark_recommended(self, best: Row, dense: Row) -> None:
        """Draw a ring and a text at the recommended network, and a line at the dense network's value."""
        from matplotlib.transforms import blended_transform_factory

        axes, axis, text = self.axes, self.axis, best.quantity.text
        x, y, level = self.x_of(best), axis.drawn(best.test.median), axis.drawn(dense.test.median)
        axes.axhline(level, color=GREY, linewidth=1, linestyle=(0, (5, 4)), zorder=1.5)
        beside = blended_transform_factory(axes.transAxes, axes.transData)
        label = f"dense\n{text(dense.test.median)}"
        axes.text(1.012, level, label, transform=beside, va="center", fontsize=8, color=GREY)
        axes.plot(x, y, "o", **RING)
        edge = axis.worse_edge
        axes.vlines(x, axes.get_ylim()[edge], y, color=INK, linewidth=0.8, linestyle=":", zorder=2)
        left, right = axes.get_xlim()
        middle = math.sqrt(left * right) if axes.get_xscale() == "log" else (left + right) / 2
        what = f"{compression(best.compression)} smaller" if best.round else "the dense network"
        axes.annotate(
            f"recommended: {what}\ntest {text(best.test.median)}", xy=(x, edge), xycoords=("data", "axes fraction"),
            xytext=(-6 if x > middle else 6, -7 if edge else 7), textcoords="offset points",
            ha="right" if x > middle else "left", va="top" if edge else "bottom",
            fontsize=8.6, weight="bold", color=INK, linespacing=1.35, zorder=6,
            bbox={"color": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip

    def _beyond(self, worst: float) -> str:
        """Say where lines go that leave the axes: `below 76 %`, `above 2.4`."""
        side = "above" if self.axis.worse_edge else "below"
        return f"{side} {self.axis.drawn_gain(worst):g}{self.axis.quantity.unit}"

    def _label(self, name: str) -> str:
        best = next((row for row in self.comparison.experiments[name] if row.recommended), None)
        return short_name(name) + (f"  ({compression(best.compression)})" if best and best.round else "")


def _limits(axis: ValueAxis, comparison: Comparison) -> tuple[float, float, bool]:
    """Return the gains at both ends of the vertical axis, the worst first, and whether a row lies beyond the worst."""
    shown: Sequence[Row] = [row for name in comparison.shown for row in comparison.experiments[name]]
    worst, best = min(axis.gains(row.test)[0] for row in shown), max(axis.gains(row.test)[1] for row in shown)
    worst = max(worst, best - MAX_SPAN * axis.tolerance)
    if recommendation := comparison.recommendation:  # is always inside
        worst = min(worst, *(axis.gains(row.test)[0] for row in (recommendation.row, recommendation.dense)))
    cut = worst > min(axis.gains(row.test)[0] for row in comparison.rows)
    min_span = MIN_SPAN * axis.tolerance
    span = max(best - worst, min_span)
    worst_possible, best_possible = axis.gain_bounds
    best = min(best + 0.08 * span, best_possible + 0.03 * span)
    worst = max(min(worst - (0 if cut else 0.12 * span), best - span), worst_possible - 0.03 * span)
    if cut:
        worst = axis.rounded_down(worst)
    return worst, max(best, worst + min_span), cut
