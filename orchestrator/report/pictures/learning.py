"""Learning curves along the recommended path: every epoch of every round."""

from __future__ import annotations

from typing import Any

from orchestrator.formatting import compression
from orchestrator.report.curves import RoundCurve, round_curves
from orchestrator.report.pictures.style import GREY, GRID, INK, LINES, Picture, frame, label_of
from orchestrator.report.summary import Spread
from orchestrator.report.tasks import Task

MAX_ROUND_LABELS = 12
LABEL = -0.13  # where the names of the vertical axes stand, in widths of the axes
SHOWN_POINTS = 20.0  # points of accuracy below the best that are shown: the first epochs begin with guessing


def learning_picture(task: Task) -> Picture | None:
    """Validation accuracy above, training loss below; None where there is no choice or no history."""
    if task.choice is None:
        return None
    chosen = task.choice.row
    rounds = round_curves(task.paths[chosen.experiment], task.experiments[chosen.experiment])
    if not rounds:
        return None
    seeds = f"median of {len(chosen.seeds)} seeds, band from least to greatest" if len(chosen.seeds) > 1 else "one seed"
    title, subtitle = "Learning curves, round after round", f"{label_of(chosen.experiment)}: {seeds}"
    note = "A new line begins where a round prunes the network and rewinds. Bold: the recommended round."
    figure, (above, below) = frame(title, subtitle, heights=(2.3, 1.3), note=note, left=0.88, right=0.3)
    for curve in rounds:
        bold = curve.row == chosen
        _curve(above, curve, curve.val_accuracy, 100, bold=bold, colour=LINES[0])
        _curve(below, curve, curve.train_loss, 1, bold=bold, colour=LINES[1])
    _accuracy_axis(above, rounds)
    _loss_axis(below, rounds)
    last = rounds[-1]
    end = last.start + len(last.val_accuracy)
    for axes in (above, below):
        axes.set_xlim(-0.01 * end, 1.01 * end)
        axes.grid(visible=False, axis="x")
        for curve in rounds:
            axes.axvline(curve.start, color=GRID, linewidth=0.8, zorder=0.5)
    _name_rounds(above, rounds, chosen.round)
    above.tick_params(labelbottom=False)
    above.spines["bottom"].set_visible(False)
    below.xaxis.get_major_locator().set_params(integer=True, nbins=8)
    below.xaxis.set_major_formatter("{x:,.0f}")
    below.set_xlabel("epochs trained along the path, the dense run included")
    return Picture("learning", f"{title}: {subtitle}", figure)


def _curve(axes: Any, curve: RoundCurve, values: list[Spread], scale: float, *, bold: bool, colour: str) -> None:
    x = [curve.start + epoch for epoch in range(1, len(values) + 1)]
    low, high = [scale * value.low for value in values], [scale * value.high for value in values]
    if low != high:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(values) == 1 else ""
    middle = [scale * value.median for value in values]
    axes.plot(x, middle, color=colour, linewidth=1.9 if bold else 0.9, marker=marker, markersize=3, zorder=3)


def _accuracy_axis(axes: Any, rounds: list[RoundCurve]) -> None:
    values = [100 * value.median for curve in rounds for value in curve.val_accuracy]
    best = max(values)
    span = min(max(best - min(values), 2.0), SHOWN_POINTS)
    axes.set_ylim(best - 1.05 * span, min(best + 0.08 * span, 100 + 0.02 * span))
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_ylabel("validation")
    axes.yaxis.set_label_coords(LABEL, 0.5)


def _loss_axis(axes: Any, rounds: list[RoundCurve]) -> None:
    least = min(value.low for curve in rounds for value in curve.train_loss)
    if least > 0:
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_ylabel("training loss")
    axes.yaxis.set_label_coords(LABEL, 0.5)


def _name_rounds(axes: Any, rounds: list[RoundCurve], chosen: int) -> None:
    """The compression of each round above its curve; of many, only as many as fit."""
    step = -(-len(rounds) // MAX_ROUND_LABELS)
    for index, curve in enumerate(rounds):
        is_chosen = curve.row.round == chosen
        beside = any(abs(index - other) < step and rounds[other].row.round == chosen for other in range(len(rounds)))
        if is_chosen or (index % step == 0 and not beside):
            axes.text(
                curve.start + len(curve.val_accuracy) / 2, 1.015, compression(curve.row.compression),
                transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7.4,
                color=INK if is_chosen else GREY, weight="bold" if is_chosen else "normal",
            )  # fmt: skip
