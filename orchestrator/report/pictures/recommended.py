"""The recommended network: the weights kept in each of its layers, and the learning curves of its experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import compression, percent, shorten
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import GREY, GRID, INK, LINES, Picture, new_figure, short_name
from orchestrator.report.pictures.value_axis import LEFT, ValueAxis
from orchestrator.report.summary import Row, Spread, spread_of

MAX_LAYER_LABELS = 40
MAX_ROUND_LABELS = 12
LABEL_X = -0.125  # of the vertical axes' names, in widths of the axes
# Heights of the axis of learning curves, in tolerances. The first epochs begin with guessing, and are not all shown.
MIN_SPAN = 4
MAX_SPAN = 40


@dataclass(frozen=True)
class LayerDensity:
    """Name one prunable tensor, its number of weights, and the fraction of them that is kept over the seeds."""

    name: str
    weights: int
    density: Spread


@dataclass(frozen=True)
class RoundCurve:
    """Hold the learning curves of one round, one spread over the seeds per epoch.

    `validation` has values of the objective. `start` counts the epochs trained on the path before this round.
    """

    row: Row
    start: int
    validation: list[Spread]
    train_loss: list[Spread]


def layer_densities(records: Sequence[Record], row: Row) -> list[LayerDensity]:
    """Return the layers of the network of `row`, in the order of the model, without those that a seed lacks."""
    seeds = [record.layers for record in _records_of(records, row)]
    return [
        LayerDensity(name, weights, spread_of([layers[name][0] / weights for layers in seeds]))
        for name, (_, weights) in (seeds[0] if seeds else {}).items()
        if weights and all(name in layers for layers in seeds)
    ]


def round_curves(records: Sequence[Record], rows: Sequence[Row]) -> list[RoundCurve]:
    """Return the learning curves of the rounds `rows` of one experiment, without rounds that have no history."""
    curves: list[RoundCurve] = []
    start = 0
    for row in rows:
        histories = [record.history for record in _records_of(records, row) if record.history]
        # Seeds of one round train for the same number of epochs. If they did not, the shortest history decides.
        epochs = list(zip(*histories, strict=False))
        if epochs:
            spreads = [
                [spread_of([of_seed[name] for of_seed in epoch]) for epoch in epochs]
                for name in (f"val_{row.quantity.objective.name}", "train_loss")
            ]
            curves.append(RoundCurve(row, start, *spreads))
        start += row.epochs
    return curves


def layers_picture(comparison: Comparison) -> Picture | None:
    """Draw one bar per layer of the recommended network. Return None if there is no recommendation or no layer."""
    if comparison.recommendation is None:
        return None
    row = comparison.recommendation.row
    layers = layer_densities(comparison.records_by_experiment[row.experiment], row)
    if not layers:
        return None
    title = "Weights kept in each layer"
    seeds = f"median of {len(row.seeds)} seeds, line from least to greatest" if len(row.seeds) > 1 else "one seed"
    subtitle = f"{short_name(row.experiment)}, {compression(row.compression)}: {seeds}"
    inches = 0.4 + len(layers) * max(0.06, 0.185 - 0.0012 * len(layers))
    figure, (axes,) = new_figure(title, subtitle, heights=(inches,), left=2.05)
    places = range(len(layers))
    bars = axes.barh(places, [100 * layer.density.median for layer in layers], height=0.72, color=LINES[0], zorder=2)
    for place, layer, bar in zip(places, layers, bars, strict=True):
        bar.set_gid(f"bar-{place}")
        low, high = layer.density.low, layer.density.high
        if low < high:
            axes.hlines(place, 100 * low, 100 * high, color=INK, linewidth=1.1, zorder=3)
    axes.axvline(100 * row.density, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
    right = min(max(100 * layer.density.high for layer in layers) * 1.08 + 0.01, 104)
    axes.set_xlim(0, max(right, 100 * row.density * 1.15))
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("kept, of each layer's weights (dashed: of all layers together)")
    _name_layers(axes, layers)
    titles = {f"bar-{place}": [_layer_title(layer)] for place, layer in zip(places, layers, strict=True)}
    return Picture("layers", f"{title}: {subtitle}", figure, titles)


def learning_picture(comparison: Comparison) -> Picture | None:
    """Draw the objective on validation data, and the training loss below it, for every epoch of an experiment.

    It is the experiment of the recommended network.

    Return None if there is no recommendation or no history.
    """
    if comparison.recommendation is None:
        return None
    best = comparison.recommendation.row
    curves = round_curves(comparison.records_by_experiment[best.experiment], comparison.experiments[best.experiment])
    if not curves:
        return None
    seeds = f"median of {len(best.seeds)} seeds, band from least to greatest" if len(best.seeds) > 1 else "one seed"
    title, subtitle = "Learning curves, round after round", f"{short_name(best.experiment)}: {seeds}"
    note = "A new line begins where a round prunes the network and rewinds. Bold: the recommended round."
    figure, (above, below) = new_figure(title, subtitle, heights=(2.3, 1.3), note=note, left=LEFT, right=0.3)
    axis = ValueAxis(best.quantity, [value.median for curve in curves for value in curve.validation])
    for curve in curves:
        width = 1.9 if curve.row == best else 0.9
        _draw_curve(above, curve.start, curve.validation, axis.drawn, width, LINES[0])
        _draw_curve(below, curve.start, curve.train_loss, float, width, LINES[1])
    _set_value_axis(above, axis, curves)
    _set_loss_axis(below, curves)
    last = curves[-1]
    end = last.start + len(last.validation)
    for axes in (above, below):
        axes.set_xlim(-0.01 * end, 1.01 * end)
        axes.grid(visible=False, axis="x")
        for curve in curves:
            axes.axvline(curve.start, color=GRID, linewidth=0.8, zorder=0.5)
    _name_rounds(above, curves, best.round)
    above.tick_params(labelbottom=False)
    above.spines["bottom"].set_visible(False)
    below.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    below.xaxis.set_major_formatter("{x:,.0f}")
    below.set_xlabel("epochs trained along the path, the dense run included")
    return Picture("learning", f"{title}: {subtitle}", figure)


def _records_of(records: Sequence[Record], row: Row) -> list[Record]:
    return [record for record in records if (record.round, record.density) == (row.round, row.density)]


def _name_layers(axes: Any, layers: Sequence[LayerDensity]) -> None:
    """Write the names of the layers beside the bars, or some of many, and their sizes if all have a name."""
    places, step = range(len(layers)), -(-len(layers) // MAX_LAYER_LABELS)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    names = [shorten(layer.name, 30) for layer in layers[::step]]
    axes.set_yticks(places[::step], names, fontsize=8 if step == 1 else 7)
    axes.grid(visible=False, axis="y")
    if step == 1:
        for place, layer in enumerate(layers):
            text = f"{layer.weights:,}"
            axes.text(1.015, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=GREY)
        axes.text(1.015, 1.005, "weights", transform=axes.transAxes, va="bottom", fontsize=7.5, color=GREY)


def _layer_title(layer: LayerDensity) -> str:
    return f"{shorten(layer.name, 80)}: {percent(layer.density.median)} % kept"


def _draw_curve(
    axes: Any, start: int, values: list[Spread], drawn: Callable[[float], float], width: float, colour: str
) -> None:
    x = [start + epoch for epoch in range(1, len(values) + 1)]
    low, high = [drawn(value.low) for value in values], [drawn(value.high) for value in values]
    if low != high:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(values) == 1 else ""
    medians = [drawn(value.median) for value in values]
    axes.plot(x, medians, color=colour, linewidth=width, marker=marker, markersize=3, zorder=3)


def _set_value_axis(axes: Any, axis: ValueAxis, curves: list[RoundCurve]) -> None:
    gains = [axis.gain(value.median) for curve in curves for value in curve.validation]
    best = max(gains)
    span = min(max(best - min(gains), MIN_SPAN * axis.tolerance), MAX_SPAN * axis.tolerance)
    axis.set_up(axes, best - 1.05 * span, min(best + 0.08 * span, axis.gain_bounds[1] + 0.02 * span), "validation")
    axes.yaxis.set_label_coords(LABEL_X, 0.5)


def _set_loss_axis(axes: Any, curves: list[RoundCurve]) -> None:
    lowest = min(value.low for curve in curves for value in curve.train_loss)
    if lowest > 0:
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_ylabel("training loss")
    axes.yaxis.set_label_coords(LABEL_X, 0.5)


def _name_rounds(axes: Any, curves: list[RoundCurve], recommended: int) -> None:
    """Write the compression of each round above its curve; of many rounds, only as many as there is space for."""
    step = -(-len(curves) // MAX_ROUND_LABELS)
    places = [index for index, curve in enumerate(curves) if curve.row.round == recommended]
    for index, curve in enumerate(curves):
        is_recommended = index in places
        too_close = any(abs(index - place) < step for place in places)
        if is_recommended or (index % step == 0 and not too_close):
            axes.text(
                curve.start + len(curve.validation) / 2, 1.015, compression(curve.row.compression),
                transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7.4,
                color=INK if is_recommended else GREY, weight="bold" if is_recommended else "normal",
            )  # fmt: skip
