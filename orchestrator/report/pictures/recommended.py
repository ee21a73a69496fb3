"""Draw the recommended network: the weights kept in each layer, and the learning curves of its experiment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import compression, distinct_names, percent, shorten
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison
from orchestrator.report.pictures.style import (
    CHARACTER,
    GREY,
    GRID,
    INK,
    LEFT,
    LINES,
    RIGHT,
    SMALL,
    WIDTH,
    Picture,
    ValueAxis,
    new_figure,
    thinned,
)
from orchestrator.report.summary import Row, Spread, spread_of

MAX_LAYER_NAME = 24  # characters
LABEL_HEIGHT = 0.175  # inches of one layer's name
LABEL_X = -0.17  # of the vertical axes' names, in widths of the axes
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

    `validation` has values of the objective. `rates` are the learning rates of the first step of each epoch; empty if a
    record lacks them. `start` counts the epochs trained on the path before this round.
    """

    row: Row
    start: int
    validation: list[Spread]
    train_loss: list[Spread]
    rates: list[Spread]

    @property
    def title(self) -> str:
        """Return the text that the page shows of the round's last epoch."""
        quantity, epochs = self.row.quantity, len(self.validation)
        text = f"round {self.row.round}, {compression(self.row.compression)}, after {epochs:,} epochs: validation "
        text += f"{quantity.name} {quantity.text(self.validation[-1].median)}, "
        text += f"training loss {self.train_loss[-1].median:.4g}"
        if self.rates:
            text += f", learning rate from {self.rates[0].median:.3g} to {self.rates[-1].median:.3g}"
        return text


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
                for name in (f"val_{row.quantity.objective.name}", "train_loss", "lr")
                if name != "lr" or all("lr" in of_seed for epoch in epochs for of_seed in epoch)
            ]
            validation, train_loss, *rates = spreads
            curves.append(RoundCurve(row, start, validation, train_loss, rates[0] if rates else []))
        start += row.epochs
    return curves


def layers_picture(comparison: Comparison) -> Picture | None:
    """Draw one bar per layer of the recommended network. Return None without a recommendation or a layer."""
    if comparison.recommendation is None:
        return None
    row = comparison.recommendation.row
    layers = layer_densities(comparison.records_by_experiment[row.experiment], row)
    if not layers:
        return None
    title = "Weights kept in each layer"
    over = f", median of {len(row.seeds)} seeds (line: minimum to maximum)" if len(row.seeds) > 1 else ""
    subtitle = f"{comparison.short_names[row.experiment]}, {compression(row.compression)}{over}"
    names = distinct_names((layer.name.removesuffix(".weight") for layer in layers), MAX_LAYER_NAME)
    labels = [names[layer.name.removesuffix(".weight")] for layer in layers]
    counts = [f"{layer.weights:,}" for layer in layers]
    inches = 0.25 + len(layers) * max(0.06, LABEL_HEIGHT + 0.02 - 0.0012 * len(layers))
    figure, (axes,) = new_figure(
        title, subtitle, heights=(inches,), above=LABEL_HEIGHT, left=0.15 + CHARACTER * max(map(len, labels)),
        right=0.15 + CHARACTER * max(map(len, [*counts, "weights"])),
    )  # fmt: skip
    places = range(len(layers))
    bars = axes.barh(places, [100 * layer.density.median for layer in layers], height=0.72, color=LINES[0], zorder=2)
    for place, layer, bar in zip(places, layers, bars, strict=True):
        bar.set_gid(f"bar-{place}")
        low, high = layer.density.low, layer.density.high
        if low < high:
            axes.hlines(place, 100 * low, 100 * high, color=INK, linewidth=1.1, zorder=3)
    axes.axvline(100 * row.density, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
    right = max(max(100 * layer.density.high for layer in layers) * 1.08 + 0.01, 100 * row.density * 1.15)
    axes.set_xlim(0, min(right, 103))
    axes.xaxis.get_major_locator().set_params(nbins=4)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("kept (dashed: of all layers)")
    _name_layers(axes, labels, counts, -(-len(layers) // max(int(inches / LABEL_HEIGHT), 1)))
    titles = {f"bar-{place}": [_layer_title(layer)] for place, layer in zip(places, layers, strict=True)}
    return Picture("layers", f"{title}: {subtitle}", figure, titles)


def learning_picture(comparison: Comparison) -> Picture | None:
    """Draw every epoch of the experiment of the recommended network: objective, training loss and learning rate.

    Return None without a recommendation or a history.
    """
    if comparison.recommendation is None:
        return None
    best = comparison.recommendation.row
    curves = round_curves(comparison.records_by_experiment[best.experiment], comparison.experiments[best.experiment])
    if not curves:
        return None
    over = f", median of {len(best.seeds)} seeds (band: minimum to maximum)" if len(best.seeds) > 1 else ""
    title, subtitle = "Learning curves, round after round", f"{comparison.short_names[best.experiment]}{over}"
    rates = any(rate.high > 0 for curve in curves for rate in curve.rates)
    figure, panels = new_figure(
        title, subtitle, heights=(2.4, 1.2, 0.9) if rates else (2.4, 1.2), above=LABEL_HEIGHT,
        note="Bold: the recommended round. Above: compression.",
    )  # fmt: skip
    axis = ValueAxis(best.quantity, [value.median for curve in curves for value in curve.validation])
    titles: dict[str, list[str]] = {}
    for curve in curves:
        width = 1.9 if curve.row == best else 0.9
        _draw_curve(panels[0], curve.start, curve.validation, axis.drawn, width, LINES[0])
        _draw_curve(panels[1], curve.start, curve.train_loss, float, width, LINES[1])
        if rates:
            _draw_curve(panels[2], curve.start, curve.rates, float, width, LINES[2])
    _set_value_axis(panels[0], axis, curves)
    _set_log_axis(panels[1], "training loss", [value for curve in curves for value in curve.train_loss])
    if rates:
        _set_log_axis(panels[2], "learning\nrate", [value for curve in curves for value in curve.rates])
    bottom, top = panels[0].get_ylim()
    ends = [curve for curve in curves if bottom <= axis.drawn(curve.validation[-1].median) <= top]
    x = [curve.start + len(curve.validation) for curve in ends]
    y = [axis.drawn(curve.validation[-1].median) for curve in ends]
    panels[0].plot(x, y, "o", color=LINES[0], markersize=4, markeredgewidth=0, zorder=4, gid="ends")
    titles["ends"] = [curve.title for curve in ends]
    _set_epochs_axis(panels, curves)
    _name_rounds(panels[0], curves, best.round)
    return Picture("learning", f"{title}: {subtitle}", figure, titles)


def _records_of(records: Sequence[Record], row: Row) -> list[Record]:
    return [record for record in records if (record.round, record.density) == (row.round, row.density)]


def _name_layers(axes: Any, labels: Sequence[str], counts: Sequence[str], step: int) -> None:
    """Write every `step`-th layer's name and number of weights beside the bars."""
    places = range(0, len(labels), step)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(places, labels[::step])
    axes.grid(visible=False, axis="y")
    write = functools.partial(axes.text, 1.02, transform=axes.get_yaxis_transform(), fontsize=SMALL, color=GREY)
    for place in places:
        write(place, counts[place], va="center_baseline")
    write(-0.6, "weights", va="bottom")


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


def _set_log_axis(axes: Any, label: str, values: Sequence[Spread]) -> None:
    """Make the vertical axis logarithmic if it can be."""
    low, high = min(value.low for value in values), max(value.high for value in values)
    if low > 0:
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(numticks=4, subs=(1, 2, 5) if high < 20 * low else (1,))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.yaxis.get_major_locator().set_params(nbins=3)
    axes.set_ylabel(label)
    axes.yaxis.set_label_coords(LABEL_X, 0.5)


def _set_epochs_axis(panels: Sequence[Any], curves: Sequence[RoundCurve]) -> None:
    """Give all `panels` the axis of epochs, with a line where each round begins."""
    end = curves[-1].start + len(curves[-1].validation)
    for axes in panels:
        axes.set_xlim(-0.01 * end, 1.02 * end)
        axes.grid(visible=False, axis="x")
        for curve in curves:
            axes.axvline(curve.start, color=GRID, linewidth=0.8, zorder=0.5)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
        axes.spines["bottom"].set_visible(False)
    panels[-1].xaxis.get_major_locator().set_params(integer=True, nbins=5)
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    panels[-1].set_xlabel("epochs, the dense round included")


def _name_rounds(axes: Any, curves: Sequence[RoundCurve], recommended: int) -> None:
    """Write the compression of each round above its curve, of the recommended one and of others that have space."""
    left, right = axes.get_xlim()
    places = {curve.start + len(curve.validation) / 2: curve.row for curve in curves}
    texts = {place: compression(row.compression) for place, row in places.items()}
    bold = next((place for place, row in places.items() if row.round == recommended), None)

    def is_free(place: float) -> bool:
        """Return whether the text at `place` does not reach that of the recommended round."""
        if bold is None or place == bold:
            return True
        needed = 0.5 * CHARACTER * (len(texts[place]) + len(texts[bold]) + 2) / (WIDTH - LEFT - RIGHT)
        return bool(abs(place - bold) / (right - left) >= needed)

    free = filter(is_free, places)
    for place in thinned(free, texts.__getitem__, lambda place: (place - left) / (right - left)):
        axes.text(
            place, 1.02, texts[place], transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=SMALL,
            color=INK if place == bold else GREY, weight="bold" if place == bold else "normal",
        )  # fmt: skip
