"""Show the table of targets on the terminal, and as a page of its own with a picture."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.files import written_for_report
from orchestrator.formatting import make_console, plain
from orchestrator.processor import processor
from orchestrator.report.pictures import COLOURS, Picture, drawing_style
from orchestrator.report.pictures.style import join_units
from orchestrator.report.pictures.targets_picture import targets_picture
from orchestrator.report.target_table import TargetTable, heading

PAGE, PICTURE = "targets.html", "targets.png"
BY = "measured or estimated"  # title of the last column
_NARROW = ".pictures{max-width:40rem}"  # its panels stand below each other


def print_targets(table: TargetTable) -> None:
    """Print the table, the sentence of each target, and why cells are missing."""
    drawn = Table("target", "file", *map(heading, table.networks), BY, box=box.SIMPLE_HEAD)
    for target, file in table.rows:
        cells = ["\n".join(table.lines(table.cell(target, file, network))) for network in table.networks]
        drawn.add_row(*map(Text, (target, plain(file), *cells, plain(table.measured_by(target, file)))))  # no markup
    console = make_console()
    console.print(drawn)
    left_out = [f"left out: {reason}" for reason in table.reasons]
    for line in (*map(table.verdict, table.targets), *table.notes, *left_out):
        console.print(Text(plain(line)))


def save_targets_page(folder: Path, table: TargetTable) -> list[Path]:
    """Write targets.html and targets.png into `folder` and return their paths.

    Raises OrchestratorError if one cannot be written.
    """
    with drawing_style():
        picture = targets_picture(table)
        drawing = picture.svg("targets-") if picture else ""
        saved = [picture.save(folder / PICTURE)] if picture else []
    path = folder / PAGE
    with written_for_report(path):
        path.write_text(_page(table, picture, drawing), encoding="utf-8", newline="\n")
    return [*saved, path]


def _page(table: TargetTable, picture: Picture | None, drawing: str) -> str:
    style = f"{_colours()}{files('orchestrator.report').joinpath('page.css').read_text(encoding='utf-8')}"
    verdicts = _list(map(table.verdict, table.targets))
    more = {"What is in the files": table.notes, "What could not be had": table.reasons}
    lists = "".join(f"<h2>{title}</h2>{_list(lines)}" for title, lines in more.items() if lines)
    figure = f'<figure class="picture"><div class="chart">{drawing}</div></figure>' if picture else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,"><title>Where do zeros pay?</title><style>{style}{_NARROW}</style></head><body>
<header><h1>Where do zeros pay?</h1>
<p class="lead">Every network on every target, on {_text(processor())}.</p></header><main>
{verdicts}
<div class="wide" tabindex="0" role="region" aria-label="Targets and networks">{_table(table)}</div>
<p class="note">In a cell: bytes of the file, time or cycles of one sample, and {_text(table.quantity.name)} on the test
set through the file. In brackets: how many times smaller or faster than the dense network in the same row. Times are
the shortest of several calls, all networks of a target by turns in one process: compare them within a target only.
Networks were chosen on validation data.</p>
<div class="pictures">{figure}</div>{lists}</main></body></html>
"""


def _colours() -> str:
    light, dark = ("".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items()) for place in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"


def _table(table: TargetTable) -> str:
    titles = ("target", "file", *_heads(table), BY)
    heads = "".join(f'<th scope="col">{head}</th>' for head in titles)
    return f'<table class="texts"><thead><tr>{heads}</tr></thead><tbody>{"".join(_rows(table))}</tbody></table>'


def _heads(table: TargetTable) -> Iterator[str]:
    """Yield the title of each network's column: its name, what is left of it, and its key."""
    for network, record in table.networks.items():
        left = f"{100 * record.weights_kept / record.weights:.3g} % of the weights"
        yield f"{_text(heading(network))}<br><small>{left}<br>key {_text(record.key[:12])}</small>"


def _rows(table: TargetTable) -> Iterator[str]:
    for target, rows in groupby(table.rows, key=lambda row: row[0]):
        files = [file for _, file in rows]
        first = f'<th scope="rowgroup" rowspan="{len(files)}">{_text(target)}</th>'
        for file in files:
            lines = [table.lines(table.cell(target, file, network)) for network in table.networks]
            cells = ["<br>".join(map(_text, each)) for each in lines]
            texts = (_text(file), *cells, _text(table.measured_by(target, file)))
            yield f"<tr>{first}{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
            first = ""


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(join_units(line))}</li>' for line in lines)}</ul>"


def _text(text: str) -> str:
    return html.escape(plain(text))
