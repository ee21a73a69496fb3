"""The table of an experiment: one line a round, the recommended one marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.formatting import compression, duration, make_console, plain, size
from orchestrator.record import Record
from orchestrator.report.summary import RULE, Row, summary


def print_table(records: Iterable[Record], console: Console | None = None) -> None:
    """Print one table per experiment: medians over its seeds, with least and greatest accuracy where there are two.

    A console that is too narrow loses the last columns; what it shows is whole.
    """
    console = console or make_console()
    for _, group in groupby(summary(records), key=lambda row: row.experiment):
        rows = list(group)
        for gap, columns in ((2, COLUMNS), (0, COLUMNS), (0, COLUMNS[:-3])):
            table = _table(rows, gap, columns)
            if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
                break
        console.print(Text(_title(rows), style="bold"))
        console.print(table)
        console.print(Text(_caption(rows), style="dim"), end="\n\n")


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("round", lambda row: f"* {row.round}" if row.recommended else str(row.round)),
    ("density", lambda row: f"{row.density:.4g}"),
    ("compression", lambda row: compression(row.compression)),
    ("weights\nkept", lambda row: f"{row.weights_kept:,}"),
    ("val %", lambda row: row.validation.text(len(row.seeds))),
    ("test %", lambda row: row.test.text(len(row.seeds))),
    ("epochs", lambda row: str(row.epochs)),
    ("time", lambda row: duration(row.seconds)),
    ("size", lambda row: size(row.bytes)),
)


def _table(rows: Sequence[Row], gap: int, columns: Sequence[tuple[str, Callable[[Row], str]]]) -> Table:
    several = len(_seeds(rows)) > 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))
    for header, _ in columns:
        table.add_column(
            header, justify="left" if several and "%" in header else "right", vertical="bottom", no_wrap=True
        )
    for row in rows:
        style = "bold green" if row.recommended else None
        table.add_row(*(cell(row) for _, cell in columns), style=style)
    return table


def _title(rows: Sequence[Row]) -> str:
    techniques = dict.fromkeys(row.technique for row in rows if row.round) or {"dense": None}
    seeds = _seeds(rows)
    numbers = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return plain(f"{rows[0].experiment}: {', '.join(techniques)}, {numbers}, {rows[-1].prunable:,} prunable weights")


def _caption(rows: Sequence[Row]) -> str:
    parts = ["Median over the seeds (least..greatest)."] if len(_seeds(rows)) > 1 else []
    marked = any(row.recommended for row in rows)
    parts += [share] if (share := rows[-1].prunable_share) else []
    parts += [f"* {RULE}"] if marked else ["Nothing is recommended before the dense round has finished."]
    return "\n".join(parts)


def _seeds(rows: Sequence[Row]) -> list[int]:
    return sorted({seed for row in rows for seed in row.seeds})
