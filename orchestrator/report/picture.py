"""The picture of a report: test accuracy against compression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError
from orchestrator.report.output import writing
from orchestrator.report.summary import Row, summary
from orchestrator.report.text import compression, percent, plain

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record

COLOURS = ("#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#866100", "#364fc7", "#495057")
INK, GREY, GRID = "#212529", "#6c757d", "#e9ecef"
NOTE = (
    "Ring: the smallest network whose validation accuracy is at most half a point below the dense one's. Dashed: dense."
)
LEAST_SPAN = 5.0  # points of accuracy from top to bottom, so that noise does not look like a landscape


def save_picture(records: Iterable[Record], path: str | Path) -> Path:
    """Write a PNG, 1200 x 750, with one line per experiment (median over its seeds, a band from least to greatest).

    Returns the path. Raises OrchestratorError when there is nothing to draw, matplotlib is missing, or `path` cannot
    be written.
    """
    path = Path(path)
    experiments = [list(rows) for _, rows in groupby(summary(records), key=lambda row: row.experiment)]
    if not experiments:
        raise OrchestratorError("there is no finished round to draw: run a job first")
    try:
        from matplotlib import rc_context, rcParamsDefault
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OrchestratorError(
            f"pictures need matplotlib ({error}): pip install 'rewind-orchestrator[plots]'"
        ) from None
    # The user's own style file would change the picture, or ask for a TeX that is not there.
    with rc_context({name: value for name, value in rcParamsDefault.items() if name != "backend"}), writing(path):
        figure = Figure(figsize=(8, 5), dpi=150, facecolor="white")
        axes = figure.add_axes((0.085, 0.17, 0.81, 0.65))
        _dress(figure, axes, experiments)
        for rows, colour in zip(experiments, _colours(len(experiments)), strict=True):
            _draw(axes, rows, colour, alone=len(experiments) == 1)
        if len(experiments) > 1:
            axes.legend(frameon=False, loc="lower left", fontsize=10)
        figure.savefig(path, format="png")
    return path


def _draw(axes: Any, rows: Sequence[Row], colour: str, *, alone: bool) -> None:
    """One experiment: its line and band, its dense accuracy, and the recommended round."""
    x = [row.compression for row in rows]
    middle = [100 * row.test.median for row in rows]
    low, high = [100 * row.test.low for row in rows], [100 * row.test.high for row in rows]
    label = _literal(rows[0].experiment)
    best = next((row for row in rows if row.recommended), None)
    if low != high:
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if best:
        label += f" ({compression(best.compression)}: {percent(best.test.median)} %)"
        axes.axhline(middle[0], color=colour, linewidth=1.1, linestyle=(0, (5, 4)), alpha=0.75, zorder=1.5)
        _mark(axes, best, middle[0], colour, labelled=alone)
    # matplotlib leaves a label out of the legend that begins with "_".
    axes.plot(x, middle, color=colour, linewidth=2, marker="o", markersize=4.5, label=" " + label, zorder=3)


def _mark(axes: Any, best: Row, dense: float, colour: str, *, labelled: bool) -> None:
    """A ring around the recommended round; with room for it, what it is, and what the dashed line is."""
    x, y = best.compression, 100 * best.test.median
    axes.plot(x, y, "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=2, zorder=4)
    if not labelled:
        return
    # The label stands at the foot of a line from the ring, on the side that the smaller networks leave free.
    axes.vlines(x, axes.get_ylim()[0], y, color=colour, linewidth=1, linestyle=":", zorder=2)
    left = x > math.sqrt(axes.get_xlim()[1])
    what = f"{compression(x)} smaller" if best.round else "the dense network"
    text = f"recommended\n{what}, test {y:.2f} %"
    style = {"textcoords": "offset points", "color": colour, "linespacing": 1.4}
    place = {"xy": (x, 0), "xycoords": ("data", "axes fraction"), "ha": "right" if left else "left"}
    axes.annotate(text, xytext=(-8 if left else 8, 12), fontsize=10.5, weight="bold", **place, **style)
    edge = {"xy": (1, dense), "xycoords": ("axes fraction", "data"), "va": "center"}
    axes.annotate(f"dense\n{dense:.2f} %", xytext=(6, 0), fontsize=9.5, **edge, **style)


def _dress(figure: Any, axes: Any, experiments: Sequence[Sequence[Row]]) -> None:
    """Everything but the data: title, scales, grid, note."""
    rows = [row for experiment in experiments for row in experiment]
    seeds = {seed for row in rows for seed in row.seeds}
    what = plain(rows[0].experiment) if len(experiments) == 1 else f"{len(experiments)} experiments"
    techniques = ", ".join(dict.fromkeys(row.technique for row in rows if row.round)) or "dense"
    over = f"median of {len(seeds)} seeds, band from least to greatest" if len(seeds) > 1 else "one seed"
    figure.text(0.03, 0.92, "Test accuracy against compression", fontsize=16, weight="bold", color=INK)
    figure.text(0.03, 0.867, _literal(f"{what}: {techniques}, {over}"), fontsize=10.5, color=GREY)
    if any(row.recommended for row in rows):
        figure.text(0.03, 0.022, NOTE, fontsize=8.5, color=GREY)

    largest = max(row.compression for row in rows)
    right = max(largest, 2) * 1.12
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.92, right)
    ticks = [2**power for power in range(int(math.log2(right)) + 1)]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(*_limits(100 * min(row.test.low for row in rows), 100 * max(row.test.high for row in rows)))
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("compression of the prunable weights (1 / density)", color=GREY, fontsize=10.5, labelpad=6)
    axes.grid(color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=INK, pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)


def _limits(low: float, high: float) -> tuple[float, float]:
    """Of the accuracy axis, in points: room below for a label, nothing above 100 but half a marker."""
    span = max(high - low, LEAST_SPAN)
    top = min(high + 0.1 * span, 100 + 0.03 * span)
    bottom = max(min(low - 0.12 * span, top - span), -0.03 * span)
    return bottom, max(top, bottom + span)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _literal(text: str) -> str:
    """`text` as it stands: a dollar sign would begin a formula."""
    return plain(text).replace("$", r"\$")
