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
    "Ring: recommended, the smallest network whose validation accuracy is at most half a point below the dense one's."
)


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
        axes = figure.add_axes((0.085, 0.165, 0.885, 0.665))
        _dress(figure, axes, experiments)
        for rows, colour in zip(experiments, _colours(len(experiments)), strict=True):
            _draw(axes, rows, colour, alone=len(experiments) == 1)
        if len(experiments) > 1:
            axes.legend(frameon=False, loc="lower left", fontsize=10)
        figure.savefig(path, format="png")
    return path


def _draw(axes: Any, rows: Sequence[Row], colour: str, *, alone: bool) -> None:
    x = [row.compression for row in rows]
    middle = [100 * row.test.median for row in rows]
    best = next((row for row in rows if row.recommended), None)
    label = _literal(rows[0].experiment)
    if best:
        label += f" ({compression(best.compression)}: {percent(best.test.median)} %)"
    low, high = [100 * row.test.low for row in rows], [100 * row.test.high for row in rows]
    if low != high:
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if rows[0].round == 0:
        axes.axhline(middle[0], color=colour, linewidth=1.1, linestyle=(0, (5, 4)), alpha=0.75, zorder=1.5)
    axes.plot(x, middle, color=colour, linewidth=2, marker="o", markersize=4.5, label=" " + label, zorder=3)
    if not best:
        return
    place = (best.compression, 100 * best.test.median)
    axes.plot(*place, "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=2, zorder=4)
    if alone:
        dense = f"dense: {percent(rows[0].test.median)} %"
        axes.annotate(dense, (1, middle[0]), (0, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            textcoords="offset points", color=colour, fontsize=10)  # fmt: skip


def _dress(figure: Any, axes: Any, experiments: Sequence[Sequence[Row]]) -> None:
    """Everything but the data: title, scales, grid, note."""
    rows = [row for experiment in experiments for row in experiment]
    seeds = {seed for row in rows for seed in row.seeds}
    names = plain(rows[0].experiment) if len(experiments) == 1 else f"{len(experiments)} experiments"
    subtitle = f"median of {len(seeds)} seeds, band from least to greatest" if len(seeds) > 1 else "one seed"
    techniques = ", ".join(dict.fromkeys(row.technique for row in rows if row.round)) or "dense"
    figure.text(0.03, 0.925, "Test accuracy against compression", fontsize=16, weight="bold", color=INK)
    figure.text(0.03, 0.872, _literal(f"{names}, {techniques}, {subtitle}"), fontsize=11, color=GREY)
    figure.text(0.03, 0.022, NOTE, fontsize=8.5, color=GREY)

    from matplotlib.ticker import NullLocator

    largest = max(row.compression for row in rows)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.92, max(largest, 2) * 1.12)
    ticks = [2**power for power in range(int(math.log2(max(largest, 2) * 1.12)) + 1)]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    low = 100 * min(row.test.low for row in rows)
    high = 100 * max(row.test.high for row in rows)
    margin = max(0.5, 0.12 * (high - low))
    axes.set_ylim(max(low - margin, -1), min(high + margin, 101))
    axes.set_xlabel("compression of the prunable weights (1 / density)", color=INK, fontsize=11)
    axes.set_ylabel("test accuracy (%)", color=INK, fontsize=11)
    axes.grid(color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _literal(text: str) -> str:
    """`text` as it stands: a dollar sign would begin a formula."""
    return plain(text).replace("$", r"\$")
