"""Draw networks on each target: the objective through the file against its time, cycles or bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from orchestrator.export.targets.side_by_side import Cell
from orchestrator.formatting import milliseconds, size
from orchestrator.report.pictures.style import LINES, MARKERS, Picture, handle, new_figure
from orchestrator.report.target_table import TargetTable, heading, location, title

PANEL, GAP = 1.4, 0.5  # inches of a panel, and between two of them for the names of their axes


def targets_picture(table: TargetTable) -> Picture | None:
    """Draw a panel for each target, or chip or number of threads, with costs and values; None without any."""
    panels: dict[str, list[tuple[float, float, Cell]]] = {}
    for drawn in _drawn(table):
        panels.setdefault(location(drawn[2]), []).append(drawn)
    if not panels:
        return None
    styles = {network: _style(place) for place, network in enumerate(table.networks)}
    legend = [(handle(**style), heading(network)) for network, style in styles.items()]
    subtitle = f"test {table.quantity.name} of each file through the file"
    heights = [height for _ in panels for height in (PANEL, GAP)]
    figure, axes = new_figure("What a network costs on each target", subtitle, heights=heights, axis=0, legend=legend)
    titles: dict[str, list[str]] = {}
    for number, (target, cells) in enumerate(panels.items()):
        axes[2 * number + 1].set_axis_off()
        _panel(axes[2 * number], table, target, cells, number, styles, titles)
    about = f"What a network costs on each target: {len(panels)} panels, {len(styles)} networks"
    return Picture("targets", about, figure, titles)


def _drawn(table: TargetTable) -> list[tuple[float, float, Cell]]:
    """Return (cost, value, cell) of each file that has both."""
    return [
        (cost, cell.value, cell)
        for cell in table.cells
        if not cell.reason and cell.value is not None and (cost := table.cost(cell))
    ]


def _panel(
    axes: Any,
    table: TargetTable,
    target: str,
    cells: list[tuple[float, float, Cell]],
    number: int,
    styles: dict[str, dict[str, Any]],
    titles: dict[str, list[str]],
) -> None:
    label, text_of = _axis(cells[0][2])
    factor = 100 if table.quantity.objective.fraction else 1
    for place, (network, style) in enumerate(styles.items()):
        if mine := [each for each in cells if each[2].network == network]:
            gid = f"targets-{number}-{place}"
            axes.plot([cost for cost, *_ in mine], [factor * value for _, value, _ in mine], gid=gid, **style)
            titles[gid] = [
                f"{target}, {title(cell)}: {text_of(cost)}, {table.quantity.text(value)}" for cost, value, cell in mine
            ]
    low, high = min(cost for cost, *_ in cells), max(cost for cost, *_ in cells)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlim(low / 1.15, high * 1.15)
    ticks = [low, math.sqrt(low * high), high] if high > 1.5 * low else [math.sqrt(low * high)]
    axes.set_xticks(ticks, [text_of(tick) for tick in ticks])
    axes.set_xlabel(f"{target}: {label}")
    axes.set_ylabel(f"test{table.quantity.unit}")
    axes.margins(y=0.15)


def _axis(cell: Cell) -> tuple[str, Callable[[float], str]]:
    """Return what the cost of a cell is, and how its values are written."""
    if cell.target == "download":
        return "bytes", lambda value: size(round(value))
    if cell.cycles is not None:
        return "cycles of one sample, estimated", lambda value: f"{value:,.0f}"
    return "time of one sample", milliseconds


def _style(place: int) -> dict[str, Any]:
    return {
        "color": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)], "linestyle": "none",
        "markersize": 5,
    }  # fmt: skip
