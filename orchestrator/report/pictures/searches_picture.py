"""Draw what searches of each layer's ratio kept, and how their scores grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.formatting import percent, shorten
from orchestrator.objective import Objective
from orchestrator.report.pictures.style import GREY, GRID, LINES, MARKERS, SMALL, Picture, handle, new_figure

MAX_LAYERS = 60  # that have a name beside their line


@dataclass(frozen=True)
class RatioLine:
    """Hold the fraction of channels or weights that each layer of an experiment's network keeps, in their order."""

    experiment: str
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class AgentCurve:
    """Hold the best score of an agent after each evaluation, None before its first one within the budget.

    `generations` has the number of evaluations after which each of its generations ends. `place` numbers its colour.
    """

    agent: str
    best: Sequence[float | None]
    generations: Sequence[int]
    place: int = 0


def ratios_picture(lines: Sequence[RatioLine]) -> Picture:
    """Draw the ratios layer by layer, from the input down, a line for each experiment.

    Marks of later lines are smaller, so that equal networks are seen as such.
    """
    layers = list(dict.fromkeys(layer for line in lines for layer in line.ratios))
    styles = [
        {
            "color": LINES[n % len(LINES)],
            "marker": MARKERS[n % len(MARKERS)],
            "markersize": max(9 - n, 3),
            "linewidth": 1.2,
        }
        for n in range(len(lines))
    ]
    legend = [(handle(**style), shorten(line.experiment, 40)) for line, style in zip(lines, styles, strict=True)]
    title, subtitle = "What each layer keeps", "fraction of what the round before left it, medians over the seeds"
    figure, (axes,) = new_figure(title, subtitle, heights=(max(1.5, 0.2 * len(layers)),), left=1.9, legend=legend)
    titles = {}
    for n, (line, style) in enumerate(zip(lines, styles, strict=True)):
        places = [layers.index(layer) for layer in line.ratios]
        axes.plot(list(line.ratios.values()), places, gid=f"ratios-{n}", **style)
        titles[f"ratios-{n}"] = [
            f"{line.experiment}, {layer}: {percent(ratio)} %" for layer, ratio in line.ratios.items()
        ]
    step = -(-len(layers) // MAX_LAYERS)
    axes.set_yticks(range(0, len(layers), step), [shorten(layer, 20) for layer in layers[::step]], fontsize=SMALL)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 1.04)
    axes.xaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g} %")
    axes.set_xlabel("kept")
    return Picture("ratios", f"{title}: {subtitle}", figure, titles)


def scores_picture(curves: Sequence[AgentCurve], objective: Objective, name: str) -> Picture:
    """Draw the best score so far of each agent over its evaluations; a mark ends each generation."""
    from matplotlib.ticker import MaxNLocator

    def drawn(score: float | None) -> float | None:
        return None if score is None else objective.gain(score) * (100 if objective.fraction else 1)

    styles = [
        {"color": LINES[n % len(LINES)], "linewidth": 1.6, "marker": MARKERS[n % len(MARKERS)], "markersize": 4.5}
        for n in (curve.place for curve in curves)
    ]
    legend = [(handle(**style), curve.agent) for curve, style in zip(curves, styles, strict=True)]
    title = "The best score so far"
    subtitle = "on validation data, at the smallest density, medians over the searches; a mark ends a generation"
    figure, (axes,) = new_figure(title, subtitle, legend=legend)
    titles = {}
    longest = max(len(curve.best) for curve in curves)
    for n, (curve, style) in enumerate(zip(curves, styles, strict=True)):
        x, y = list(range(1, len(curve.best) + 1)), [drawn(score) for score in curve.best]
        axes.plot(x, [float("nan") if value is None else value for value in y], **{**style, "marker": ""})
        if len(y) == 1 and y[0] is not None:
            axes.axhline(y[0], color=style["color"], linewidth=0.9, linestyle=":")
        ends = [end for end in curve.generations if end <= len(y) and y[end - 1] is not None]
        axes.plot(ends, [y[end - 1] for end in ends], gid=f"scores-{n}", **{**style, "linestyle": "none"})
        titles[f"scores-{n}"] = [
            f"{curve.agent}, after {end} evaluations: {objective.text(objective.gain(curve.best[end - 1] or 0.0))}"
            for end in ends
        ]
    axes.set_xlim(0, 1.03 * longest + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("evaluations")
    axes.set_ylabel(f"{name}{', %' if objective.fraction else ''}", color=GREY)
    axes.grid(color=GRID)
    if not objective.higher_is_better:
        axes.invert_yaxis()
    return Picture("search-scores", f"{title}: {subtitle}", figure, titles)
