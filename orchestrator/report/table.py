"""The table of an experiment: one line a round, the recommended one marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.report.summary import RULE, Row, summary
from orchestrator.report.text import compression, duration, make_console, plain, size, spread

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record


def print_table(records: Iterable[Record], console: Console | None = None) -> None:
    """Print one table per experiment: medians over its seeds, with least and greatest accuracy where there are two."""
    console = console or make_console()
    for _, rows in groupby(summary(records), key=lambda row: row.experiment):
        console.print(_table(list(rows)))


def _table(rows: Sequence[Row]) -> Table:
    several = max(len(row.seeds) for row in rows) > 1
    marked = any(row.recommended for row in rows)
    table = Table(title=_title(rows), caption=_caption(several, marked), box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    table.title_style, table.caption_style = "bold", "dim"
    for header in ("round", "density", "compression", "weights kept"):
        table.add_column(header, justify="right")
    for header in ("val %", "test %"):
        table.add_column(header, justify="left" if several else "right")
    for header in ("epochs", "time", "size"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(
            f"* {row.round}" if row.recommended else str(row.round),
            f"{row.density:.4g}",
            compression(row.compression),
            f"{row.kept:,}",
            spread(row.validation, len(row.seeds)),
            spread(row.test, len(row.seeds)),
            str(row.epochs),
            duration(row.seconds),
            size(row.bytes),
            style="bold green" if row.recommended else None,
        )
    return table


def _title(rows: Sequence[Row]) -> Text:
    techniques = dict.fromkeys(row.technique for row in rows if row.round) or dict.fromkeys(["dense"])
    seeds = sorted({seed for row in rows for seed in row.seeds})
    numbers = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return Text(plain(f"{rows[0].experiment}: {', '.join(techniques)}, {numbers}"))


def _caption(several: bool, marked: bool) -> Text:
    parts = ["Median over the seeds (least..greatest)."] if several else []
    parts += [f"* {RULE}"] if marked else ["Nothing is recommended before the dense round has finished."]
    return Text("\n".join(parts))
