"""Draw every round of every experiment: the objective against compression, search cost and file size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.formatting import compression, shorten, size
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import (
    CROWD,
    GREY,
    LINES,
    MARKERS,
    PIXELS,
    RING,
    Picture,
    ValueAxis,
    handle,
    new_figure,
    point_title,
    thinned,
)
from orchestrator.report.published import PublishedResult
from orchestrator.report.summary import Row

# Heights of the vertical axis, in tolerances: half points of fractions, hundredths of other values.
MIN_SPAN = 10  # with less, noise would look large
MAX_SPAN = 30  # with more, experiments that fail at high compression would flatten the rest
FRONT_SPANS = 4, 12  # the same of the Pareto front
MAX_LINES = 60  # more other experiments than this are drawn as pixels, because lines would make the page large
MAX_DOTS = 1500  # as well as more dots of the Pareto front than this
DENSE = {"color": GREY, "linewidth": 1, "linestyle": (0, (5, 4))}
FLOOR = {"color": GREY, "linewidth": 1.1, "linestyle": ":"}
FRONT = {"color": LINES[0], "linewidth": 1.5, "marker": "o", "markersize": 5, "markeredgewidth": 0}


def compression_picture(comparison: Comparison, references: Mapping[str, PublishedResult]) -> Picture:
    """Draw the objective on test data against compression, one line per experiment.

    `references`, by experiment, are dashed and have hollow markers.
    """
    plot = _ExperimentsPlot(comparison, references, lambda row: row.compression, "compression")
    largest = max(row.compression for row in comparison.rows)
    plot.axes.set_xscale("log", base=2)
    plot.axes.set_xlim(0.94, max(largest, 2) * 1.1)
    doublings = range(int(math.log2(max(largest, 2) * 1.1)) + 1)
    ticks = [2**power for power in doublings if power % (1 + len(doublings) // 8) == 0]
    plot.axes.set_xticks(ticks, [f"{tick:,}x" for tick in ticks])
    plot.axes.minorticks_off()
    plot.axes.set_xlabel("compression (all weights over those kept)")
    plot.draw()
    return Picture("compression", plot.alt, plot.figure, plot.titles)


def cost_picture(comparison: Comparison) -> Picture:
    """Draw the objective on test data against the epochs of retraining that led to each network."""
    plot = _ExperimentsPlot(comparison, {}, lambda row: row.retraining_epochs, "search cost")
    largest = max(max(row.retraining_epochs for row in comparison.rows), 1)
    plot.axes.set_xlim(-0.02 * largest, largest * 1.04)
    plot.axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    plot.axes.xaxis.set_major_formatter("{x:,.0f}")
    plot.axes.set_xlabel("epochs of retraining, without the dense round")
    plot.draw()
    return Picture("cost", plot.alt, plot.figure, plot.titles)


def front_picture(comparison: Comparison) -> Picture:
    """Draw validation values against size: a dot per network, a line along the Pareto front, a ring at the choice."""
    axis = ValueAxis(comparison.quantity, [row.validation.median for row in comparison.rows])
    worst, best, inside = _front_limits(axis, comparison)
    many, recommendation = len(inside) > MAX_DOTS, comparison.recommendation
    dot = {"color": PIXELS if many else CROWD, "marker": "o", "linestyle": "none", "markersize": 3.2,
           "markeredgewidth": 0}  # fmt: skip
    legend = [(handle(**FRONT), "Pareto front: none is smaller and better"), (handle(**dot), "other rounds")]
    if recommendation:
        legend += _recommended_entries(comparison, lambda row: f"{size(row.bytes)}, {_validation(row)}")
        legend.append((handle(**FLOOR), f"limit for the recommended: {comparison.quantity.text(recommendation.floor)}"))
    title = f"Validation {axis.name} against file size"
    figure, (axes,) = new_figure(title, _subtitle(comparison), legend=legend)
    axis.set_up(axes, worst, best, "validation")
    _set_size_axis(axes, [row.bytes for row in inside])
    axes.plot(*_places(inside, axis), zorder=2, gid="all", rasterized=many, **dot)
    front = [row for row in comparison.front if row in inside]
    axes.step(*_places(comparison.front, axis), where="post", color=LINES[0], linewidth=1.5, zorder=3)
    axes.plot(*_places(front, axis), zorder=4, gid="front", **{**FRONT, "linestyle": "none"})
    titles = {"front": [point_title(row, comparison.short_names[row.experiment]) for row in front]}
    if not many:
        titles["all"] = [point_title(row, comparison.short_names[row.experiment]) for row in inside]
    if recommendation:
        axes.axhline(axis.drawn(recommendation.floor), zorder=1.5, **FLOOR)
        axes.axhline(axis.drawn(recommendation.dense.validation.median), zorder=1.5, **DENSE)
        axes.plot(recommendation.row.bytes, axis.drawn(recommendation.row.validation.median), **RING)
    return Picture("front", f"{title}: {len(comparison.front)} networks on the Pareto front", figure, titles)


class _ExperimentsPlot:
    """Draw the objective on test data with one line per experiment.

    `x_of` a row is its place on the horizontal axis, which `against` names. The caller sets that axis up, then calls
    `draw`.
    """

    def __init__(
        self,
        comparison: Comparison,
        references: Mapping[str, PublishedResult],
        x_of: Callable[[Row], float],
        against: str,
    ) -> None:
        self.comparison, self.references, self.x_of = comparison, references, x_of
        self.titles: dict[str, list[str]] = {}
        self.axis = ValueAxis(comparison.quantity, [row.test.median for row in comparison.rows])
        worst, best, cut = _limits(self.axis, comparison, references.values())
        title, subtitle = f"Test {self.axis.name} against {against}", _subtitle(comparison)
        self.alt = f"{title}, {subtitle}"
        self._others = [name for name in comparison.experiments if name not in comparison.shown]
        self._styles = {
            name: {"color": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)], "linewidth": 1.7,
                   "markersize": 4.6, "markeredgewidth": 0}
            for place, name in enumerate(comparison.shown)
        }  # fmt: skip
        note = f"Lines that leave the picture go on {self._beyond(worst)}." if cut else ""
        self.figure, (self.axes,) = new_figure(title, subtitle, legend=list(self._legend()), note=note)
        self.axis.set_up(self.axes, worst, best, "test")

    def draw(self) -> None:
        """Draw everything inside the axes."""
        if self._others:
            self._draw_others()
        for index, name in enumerate(self.comparison.shown):
            self._draw_experiment(name, f"points-{index}")
            if reference := self.references.get(name):
                points = reference.points
                x, y = [1 / point.density for point in points], [self.axis.drawn(point.median) for point in points]
                self.axes.plot(x, y, zorder=2.5, **self._published_style(name))
        if recommendation := self.comparison.recommendation:
            level = self.axis.drawn(recommendation.dense.test.median)
            self.axes.axhline(level, zorder=1.5, **DENSE)
            self.axes.plot(self.x_of(recommendation.row), self.axis.drawn(recommendation.row.test.median), **RING)

    def _legend(self) -> Iterable[tuple[Any, str]]:
        yield from _recommended_entries(self.comparison, lambda row: f"{row.quantity.text(row.test.median)}")
        for name, style in self._styles.items():
            best = next((row for row in self.comparison.experiments[name] if row.recommended), None)
            choice = (
                f", choice {compression(best.compression)}" if best and best.round and len(self._styles) > 1 else ""
            )
            yield handle(**style), f"{self.comparison.short_names[name]}{choice}"
            if reference := self.references.get(name):
                yield handle(**self._published_style(name)), reference.label
        if self._others:
            count = len(self._others)
            yield handle(color=CROWD, linewidth=1.2), f"{count} other experiment{'s' if count > 1 else ''}"

    def _published_style(self, name: str) -> dict[str, Any]:
        style = {**self._styles[name], "linewidth": 1, "linestyle": (0, (4, 3)), "markersize": 5.5}
        return style | {"markerfacecolor": "none", "markeredgewidth": 1}

    def _draw_experiment(self, name: str, gid: str) -> None:
        rows, drawn = self.comparison.experiments[name], self.axis.drawn
        x, y = [self.x_of(row) for row in rows], [drawn(row.test.median) for row in rows]
        low, high = [drawn(row.test.low) for row in rows], [drawn(row.test.high) for row in rows]
        if low != high:
            self.axes.fill_between(x, low, high, color=self._styles[name]["color"], alpha=0.14, linewidth=0)
        bottom, top = self.axes.get_ylim()
        visible = [place for place, number in enumerate(y) if bottom <= number <= top]
        self.axes.plot(x, y, markevery=visible, zorder=3, gid=gid, **self._styles[name])
        self.titles[gid] = [point_title(rows[place], self.comparison.short_names[name]) for place in visible]

    def _draw_others(self) -> None:
        """Draw the experiments that have no colour of their own."""
        from matplotlib.collections import LineCollection

        paths = [
            [(self.x_of(row), self.axis.drawn(row.test.median)) for row in self.comparison.experiments[name]]
            for name in self._others
        ]
        lines = LineCollection(paths, colors=CROWD, linewidths=0.8, alpha=0.7)
        if len(paths) > MAX_LINES:
            lines.set(color=PIXELS, alpha=0.2, rasterized=True)
        self.axes.add_collection(lines, autolim=False)

    def _beyond(self, worst: float) -> str:
        """Say where lines go that leave the axes: `below 76 %`, `above 2.4`."""
        quantity = self.axis.quantity
        side = "below" if quantity.objective.higher_is_better else "above"
        return f"{side} {self.axis.drawn_gain(worst):g}{quantity.unit}"


def _subtitle(comparison: Comparison) -> str:
    return f"{shorten(comparison.title, 60)}{comparison.seeds_note}"


def _recommended_entries(comparison: Comparison, text_of: Callable[[Row], str]) -> list[tuple[Any, str]]:
    """Return the entries of the legend for the recommended network and for the dense one."""
    if not (found := comparison.recommendation):
        return []
    ring = {**RING, "markersize": 9}
    recommended = f"recommended: {compression(found.row.compression)}, {text_of(found.row)}"
    return [(handle(**ring), recommended), (handle(**DENSE), f"dense: {text_of(found.dense)}")]


def _validation(row: Row) -> str:
    return row.quantity.text(row.validation.median)


def _limits(
    axis: ValueAxis, comparison: Comparison, references: Iterable[PublishedResult]
) -> tuple[float, float, bool]:
    """Return the gains at both ends of the vertical axis, the worst first, and whether a row lies beyond the worst."""
    shown: Sequence[Row] = [row for name in comparison.shown for row in comparison.experiments[name]]
    worst, best = min(axis.gains(row.test)[0] for row in shown), max(axis.gains(row.test)[1] for row in shown)
    worst = max(worst, best - MAX_SPAN * axis.tolerance)
    if recommendation := comparison.recommendation:  # is always inside
        worst = min(worst, *(axis.gains(row.test)[0] for row in (recommendation.row, recommendation.dense)))
    smallest = min(row.density for row in comparison.rows)
    published = [point.median for each in references for point in each.points if point.density >= smallest]
    best = max([best, *map(axis.gain, published)])
    cut = worst > min(axis.gains(row.test)[0] for row in comparison.rows)
    min_span = MIN_SPAN * axis.tolerance
    span = max(best - worst, min_span)
    worst_possible, best_possible = axis.gain_bounds
    best = min(best + 0.08 * span, best_possible + 0.03 * span)
    worst = max(min(worst - (0 if cut else 0.12 * span), best - span), worst_possible - 0.03 * span)
    if cut:
        worst = axis.rounded_down(worst)
    return worst, max(best, worst + min_span), cut


def _front_limits(axis: ValueAxis, comparison: Comparison) -> tuple[float, float, list[Row]]:
    """Return the gains at both ends of the vertical axis, the worst first, and the rows between them."""
    gains = [axis.gain(row.validation.median) for row in comparison.rows]
    min_span, max_span = (count * axis.tolerance for count in FRONT_SPANS)
    best = max(gains)
    worst = max(min(gains), best - max_span)
    if comparison.recommendation:
        worst = min(worst, axis.gain(comparison.recommendation.floor))
    rounding = 1e-6 * axis.tolerance
    inside = [row for row, gain in zip(comparison.rows, gains, strict=True) if gain >= worst - rounding]
    span = max(best - worst, min_span)
    return best - 1.08 * span, min(best + 0.08 * span, axis.gain_bounds[1] + 0.03 * span), inside


def _set_size_axis(axes: Any, sizes: Sequence[int]) -> None:
    """Give `axes` a horizontal axis of bytes that shows `sizes`, with labels that do not touch."""
    from matplotlib.ticker import MaxNLocator

    left, right = max(min(sizes), 1) / 1.25, max(*sizes, 1) * 1.25
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    wide = right > 5 * left
    steps = (
        [step * 10**power for power in range(13) for step in (1, 2, 5)]
        if wide
        else MaxNLocator(6).tick_values(left, right)
    )
    ticks = thinned(
        [tick for tick in steps if left <= tick <= right],
        lambda tick: size(round(tick)),
        lambda tick: math.log(tick / left) / math.log(right / left),
    )
    axes.set_xticks(ticks, [size(round(tick)) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("size of the model file (logarithmic)")


def _places(rows: Sequence[Row], axis: ValueAxis) -> tuple[list[float], list[float]]:
    return [row.bytes for row in rows], [axis.drawn(row.validation.median) for row in rows]
