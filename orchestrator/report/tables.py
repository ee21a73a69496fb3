"""Records as text: tables of experiments and of a storage for people, CSV and JSON lines for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.files import written_for_report
from orchestrator.formatting import compression, duration, make_console, percent, plain, size
from orchestrator.record import Record
from orchestrator.report.summary import RECOMMENDATION_RULE, Row, summary

FIELDS = ("experiment", "key", "parent", "round", "technique", "density", "kept", "prunable", "weights", "seed")
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


def print_table(records: Iterable[Record], console: Console | None = None) -> None:
    """Print one table per experiment: medians over its seeds, with the range of accuracies if there are several.

    On a narrow console the last columns are left out, so that no number is cut.
    """
    console = console or make_console()
    for _, group in groupby(summary(records), key=lambda row: row.experiment):
        rows = list(group)
        for gap, columns in ((2, COLUMNS), (0, COLUMNS), (0, COLUMNS[:-3])):
            table = _summary_table(rows, gap, columns)
            if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
                break
        console.print(Text(_title(rows), style="bold"))
        console.print(table)
        console.print(Text(_caption(rows), style="dim"), end="\n\n")


def print_status(
    records: Iterable[Record], failures: Iterable[Mapping[str, Any]], console: Console | None = None
) -> None:
    """Print one table per experiment and seed, one line per record, and below them the reason of every failed round."""
    console = console or make_console()
    for (name, seed), group in groupby(records, key=lambda record: (record.experiment, record.seed)):
        console.print(Text(plain(f"{name}, seed {seed}"), style="bold"))
        console.print(_status_table(group))
    for failure in failures:
        name, seed, number = (plain(failure.get(field, "?")) for field in ("experiment", "seed", "round"))
        reason = plain(failure.get("reason", "no reason was written"))
        console.print(Text(f"failed: {name}, seed {seed}, round {number}: {reason}", style="red"), soft_wrap=True)


def json_line(record: Record) -> str:
    """Return one record as one line of JSON. Accuracies are fractions; `bytes` is the size of the committed model."""
    return json.dumps(
        {
            **{name: getattr(record, name) for name in FIELDS},
            "objective": record.objective.name,
            "metrics": record.metrics,
            "epochs": record.epochs,
            "seconds": record.seconds,
            "bytes": record.model_bytes,
        }
    )


def save_csv(records: Iterable[Record], path: Path) -> Path:
    """Write one line per record, with accuracies as fractions, and return `path`.

    Raises OrchestratorError if `path` cannot be written.
    """
    records = list(records)
    with written_for_report(path), open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        names = sorted({name for record in records for name in record.metrics}, key=_in_order)
        lines.writerow([*FIELDS, "objective", *names, "epochs", "seconds", "bytes", "compression"])
        for record in records:
            fields = [*(_csv_cell(getattr(record, name)) for name in FIELDS), _csv_cell(record.objective.name)]
            metrics = [record.metrics.get(name) for name in names]
            lines.writerow([*fields, *metrics, record.epochs, record.seconds, record.model_bytes, record.compression])
    return path


def _in_order(metric: str) -> tuple[int, str]:
    """Return the place of a column: the training loss, then validation, then test."""
    return {"train": 0, "val": 1, "test": 2}.get(metric.partition("_")[0], 3), metric


def _summary_table(rows: Sequence[Row], gap: int, columns: Sequence[tuple[str, Callable[[Row], str]]]) -> Table:
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
    parts += [share] if (share := rows[-1].prunable_share) else []
    if any(row.recommended for row in rows):
        parts.append(f"* {RECOMMENDATION_RULE}")
    else:
        parts.append("Nothing is recommended before the dense round has finished.")
    return "\n".join(parts)


def _seeds(rows: Sequence[Row]) -> list[int]:
    return sorted({seed for row in rows for seed in row.seeds})


def _status_table(records: Iterable[Record]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("technique")  # the only column that a narrow terminal may wrap
    for header in ("density", "compression", "kept", "val %", "test %", "epochs", "seconds", "MB"):
        table.add_column(header, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            str(record.round),
            Text(plain(record.technique)),
            f"{record.density:.4g}",
            compression(record.compression),
            f"{record.weights_kept:,}",
            percent(record.val),
            percent(record.test),
            str(record.epochs),
            f"{record.seconds:,.1f}",
            f"{record.model_bytes / 1e6:,.3f}",
        )
    return table


def _csv_cell(value: Any) -> Any:
    """Put text on one line, and quote text that a spreadsheet would compute as a formula."""
    if not isinstance(value, str):
        return value
    line = plain(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
