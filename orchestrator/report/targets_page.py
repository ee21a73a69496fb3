"""The table of targets: on the terminal, and as a page of its own."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.side_by_side import Cell
from orchestrator.files import atomic_write
from orchestrator.formatting import make_console, milliseconds, plain, size
from orchestrator.objective import Objective
from orchestrator.processor import processor

PAGE = "targets.html"
HEADERS = ("target", "network", "file", "bytes", "one sample", "times dense", "objective", "error", "who says so")
_NOISE = 1.05  # times in one process differ by as much from run to run


def cell_line(cell: Cell) -> str:
    """Return one line about a file that was just measured, or about what could not be had."""
    where = " ".join(part for part in (cell.target, cell.network, cell.file) if part)
    if cell.reason:
        return plain(f"left out: {where}: {cell.reason}")
    parts = [size(cell.bytes)] if cell.bytes is not None else []
    parts += [f"{milliseconds(cell.seconds)} a sample"] if cell.seconds else []
    return plain(f"{where}: {', '.join(parts)}")


def print_cells(cells: Sequence[Cell], objective: Objective) -> None:
    """Print the table and the sentence of each target."""
    table = Table(*HEADERS, box=box.SIMPLE_HEAD)
    for cell in cells:
        table.add_row(*(Text(plain(part)) for part in _row(cell, cells, objective)))  # no markup: '.[targets]'
    console = make_console()
    console.print(table)
    for target in dict.fromkeys(cell.target for cell in cells):
        console.print(Text(plain(verdict(target, cells))))


def verdict(target: str, cells: Sequence[Cell]) -> str:
    """Return which network to take on a target, and why: a sentence made from its figures."""
    mine = [cell for cell in cells if cell.target == target and cell.reason is None]
    if not mine:
        reasons = "; ".join(dict.fromkeys(cell.reason for cell in cells if cell.target == target and cell.reason))
        return f"{target}: nothing was measured: {reasons}"
    why = f"{TARGETS[target].pays_for}."
    timed = [(cell.seconds, cell) for cell in mine if cell.seconds and target != "download"]
    if timed:
        _, best = min(timed, key=lambda pair: pair[0])
        gain = _times_dense(best, cells)
        if gain is None or gain < _NOISE:
            return f"{target}: no network is faster than the dense one. Here {why}"
        return f"{target}: take {_title(best)}: {gain:.2f} times as fast as the dense network. Here {why}"
    sized = [(cell.bytes, cell) for cell in mine if cell.bytes is not None]
    dense = max(count for count, cell in sized if cell.network == sized[0][1].network)
    count, best = min(sized, key=lambda pair: pair[0])
    return f"{target}: take {_title(best)}: {dense / count:.1f} times smaller than the plain dense file. Here {why}"


def save_targets_page(folder: Path, cells: Sequence[Cell], objective: Objective) -> Path:
    """Write targets.html into `folder` and return its path."""
    style = files("orchestrator.report").joinpath("page.css").read_text()
    head = "".join(f'<th scope="col">{html.escape(header)}</th>' for header in HEADERS)
    rows = "".join(_html_row(_row(cell, cells, objective)) for cell in cells)
    verdicts = "".join(
        f"<li>{html.escape(plain(verdict(target, cells)))}</li>"
        for target in dict.fromkeys(cell.target for cell in cells)
    )
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Where do zeros pay?</title><style>{style}</style></head><body><main>
<h1>Where do zeros pay?</h1>
<p>Every network on every target. Times are the shortest of several calls, all networks of a target by turns in one
process on {html.escape(processor())}: compare them within a target only. The objective is measured through the
file.</p>
<ul>{verdicts}</ul>
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
</main></body></html>
"""
    path = folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(text)
    return path


def _row(cell: Cell, cells: Sequence[Cell], objective: Objective) -> tuple[str, ...]:
    said = cell.reason or ", ".join(part for part in (cell.said_by, cell.detail) if part)
    gain = _times_dense(cell, cells)
    return (
        cell.target,
        cell.network,
        cell.file,
        "" if cell.bytes is None else size(cell.bytes),
        "" if cell.seconds is None else milliseconds(cell.seconds),
        "" if gain is None else f"{gain:.2f}",
        "" if cell.value is None else objective.text(cell.value),
        "" if cell.error is None else f"{cell.error:.1g}",
        said,
    )


def _times_dense(cell: Cell, cells: Iterable[Cell]) -> float | None:
    """Return how many times as fast as the dense network, exact, on the same target; None where either has no time."""
    dense = [c.seconds for c in cells if (c.target, c.network) == (cell.target, "dense") and c.seconds]
    return min(dense[:1]) / cell.seconds if dense and cell.seconds and cell.target != "download" else None


def _title(cell: Cell) -> str:
    return f"{cell.network} as {cell.file}" if cell.file else cell.network


def _html_row(texts: Sequence[str]) -> str:
    first, *others = (html.escape(plain(text)) for text in texts)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in others)}</tr>'
