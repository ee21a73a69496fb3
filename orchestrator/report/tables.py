"""Write records as tables: in a terminal, on the page, as CSV and as lines of JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import compress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from orchestrator.files import written_for_report
from orchestrator.formatting import compression, duration, make_console, plain, shorten, size
from orchestrator.record import Record
from orchestrator.report.comparison import Comparison, Difference, identity
from orchestrator.report.summary import Quantity, Row, by_experiment, options_of, summary

DATA = ("val", "test")  # columns of the objective, whose titles get its unit
MAX_NAMES = 3  # experiments that are named beside a value
MAX_VALUES = 4  # of one setting that are listed
MAX_VALUE = 200  # characters
SETTINGS = {  # of the training, then of the experiment: their titles
    "epochs": "epochs of the schedule",
    "batch_size": "batch size",
    "accumulate": "batches per step",
    "schedule": "learning rate",
    "optimizer": "optimizer",
    "clip_norm": "gradient clipping",
    "ema": "averaging of weights",
    "precision": "precision",
    "technique": "technique",
    "selection": "selection",
    "criterion": "criterion",
    "exclude": "not pruned",
    "distillation": "distillation",
}
FIELDS = ("experiment", "key", "parent", "round", "technique", "density", "kept", "prunable", "weights", "seed")
COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("round", lambda row: f"* {row.round}" if row.recommended else str(row.round)),
    ("density", lambda row: f"{row.density:.4g}"),
    ("compression", lambda row: compression(row.compression)),
    ("weights\nkept", lambda row: f"{row.weights_kept:,}"),
    ("val", lambda row: row.text(row.validation)),
    ("test", lambda row: row.text(row.test)),
    ("epochs", lambda row: str(row.epochs)),
    ("time", lambda row: duration(row.seconds)),
    ("size", lambda row: size(row.bytes)),
)


@dataclass(frozen=True)
class TextTable:
    """Hold a table of texts. The first cell of each line says what the line is about."""

    caption: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]

    def without_empty_columns(self) -> TextTable:
        """Return the table without the columns that have a text in no line."""
        filled = [any(cells) for cells in zip(*self.lines, strict=True)] or [True] * len(self.columns)
        lines = [tuple(compress(line, filled)) for line in self.lines]
        return TextTable(self.caption, tuple(compress(self.columns, filled)), lines)


@dataclass(frozen=True)
class SortableTable:
    """Hold the title and kind of each column, and the raw values of each line, of a table that the reader can sort.

    page.js formats the values by kind: text, whole, density, ratio, percent, points, number, seconds, size, and
    "difference 3" with three decimals.
    """

    columns: list[tuple[str, str]]
    lines: list[list[Any]]


def print_table(records: Iterable[Record], console: Console | None = None) -> None:
    """Print one table per experiment: medians over its seeds, with the range of values if there are several.

    On a narrow console the last columns are left out, so that no number is cut.
    """
    console = console or make_console()
    for rows in by_experiment(summary(records)):
        for gap, columns in ((2, COLUMNS), (0, COLUMNS), (0, COLUMNS[:-3])):
            table = _summary_table(rows, gap, columns)
            if console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
                break
        console.print(Text(_title(rows), style="bold"))
        console.print(table)
        console.print(Text(_caption(rows), style="dim"), end="\n\n")


def json_line(record: Record) -> str:
    """Return one record as one line of JSON. `bytes` is the size of the committed model.

    `metrics` has the objective NAME as val_NAME and test_NAME, in its own unit: accuracies are fractions.
    """
    return json.dumps(
        {
            **{name: getattr(record, name) for name in FIELDS},
            "objective": record.objective.name,
            "higher_is_better": record.objective.higher_is_better,
            "metrics": record.metrics,
            "epochs": record.epochs,
            "seconds": record.seconds,
            "bytes": record.model_bytes,
        }
    )


def save_csv(records: Iterable[Record], path: Path) -> Path:
    """Write one line per record, with the values of `json_line`, and return `path`.

    Raises OrchestratorError if `path` cannot be written.
    """
    records = list(records)
    with written_for_report(path), open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        names = sorted({name for record in records for name in record.metrics}, key=_in_order)
        columns = [*FIELDS, "objective", "higher_is_better", *names, "epochs", "seconds", "bytes", "compression"]
        lines.writerow([_csv_cell(column) for column in columns])
        for record in records:
            values = [*(getattr(record, name) for name in FIELDS), record.objective.name]
            values += [record.objective.higher_is_better, *(record.metrics.get(name) for name in names)]
            values += [record.epochs, record.seconds, record.model_bytes, record.compression]
            lines.writerow([_csv_cell(value) for value in values])
    return path


def rounds_table(records: Iterable[Record]) -> SortableTable:
    """Return a table of every finished round of every path, with columns for each objective that one of them has."""
    records = sorted(records, key=lambda record: (record.experiment, record.seed, record.round, record.key))
    quantities = list(dict.fromkeys(Quantity(record.objective) for record in records))
    columns = [
        ("key", "text"), ("experiment", "text"), ("technique", "text"), ("seed", "whole"), ("round", "whole"),
        ("density", "density"), ("compression", "ratio"), ("kept", "whole"),
        *(c for each in quantities for c in _measured(each)), ("train loss", "number"), ("epochs", "whole"),
        ("seconds", "seconds"), ("model file", "size"), ("dead layers", "whole"),
    ]  # fmt: skip
    lines: list[list[Any]] = [
        [
            record.key[:12], plain(record.experiment), plain(record.technique), record.seed, record.round,
            record.density, record.compression, record.weights_kept,
            *(value if record.objective == each.objective else None for each in quantities
              for value in (record.val, record.test)),
            record.metrics.get("train_loss"), record.epochs, record.seconds, record.model_bytes,
            len(record.dead_layers),
        ]
        for record in records
    ]  # fmt: skip
    return SortableTable(columns, lines)


def medians_table(rows: Iterable[Row], quantity: Quantity) -> SortableTable:
    """Return a table of `rows`, whose objective is `quantity`."""
    (val, kind), (test, _) = _measured(quantity)
    columns = [
        ("experiment", "text"), ("technique", "text"), ("round", "whole"), ("compression", "ratio"),
        ("kept", "whole"), ("seeds", "whole"), (val, kind), ("val min", kind), ("val max", kind),
        (test, kind), ("test min", kind), ("test max", kind), ("epochs so far", "whole"),
        ("model file", "size"), ("choice", "text"),
    ]  # fmt: skip
    lines: list[list[Any]] = [
        [
            plain(row.experiment), plain(row.technique), row.round, row.compression, row.weights_kept, len(row.seeds),
            row.validation.median, row.validation.low, row.validation.high, row.test.median, row.test.low,
            row.test.high, row.retraining_epochs, row.bytes, "recommended" if row.recommended else "",
        ]
        for row in rows
    ]  # fmt: skip
    return SortableTable(columns, lines)


def pairs_table(differences: Iterable[Difference], quantity: Quantity, typical: float) -> SortableTable:
    """Return a table of `differences` between values of `quantity` as large as `typical`."""
    kind = "points" if quantity.objective.fraction else f"difference {quantity.decimals(typical)}"
    columns = [
        ("first", "text"), ("second", "text"), ("compression", "ratio"), ("pairs", "whole"),
        ("first - second", kind), ("low", kind), ("high", kind),
    ]  # fmt: skip
    lines = [[plain(d.first), plain(d.second), 1 / d.density, len(d.seeds), d.mean, d.low, d.high] for d in differences]
    return SortableTable(columns, lines)


def settings_table(comparison: Comparison, storage: str | None) -> TextTable:
    """Return what the networks were made with. `storage` is where the rounds are, as the command line takes it."""
    return TextTable("Settings of the experiments", ("setting", "value"), tuple(_settings(comparison, storage)))


def _in_order(metric: str) -> tuple[int, str]:
    """Return the place of a column: the training loss, then validation, then test."""
    return {"train": 0, "val": 1, "test": 2}.get(metric.partition("_")[0], 3), metric


def _summary_table(rows: Sequence[Row], gap: int, columns: Sequence[tuple[str, Callable[[Row], str]]]) -> Table:
    several, quantity = len(_seeds(rows)) > 1, rows[0].quantity
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0))
    for header, _ in columns:
        title = quantity.column(header) if header in DATA else header
        justify: JustifyMethod = "left" if several and header in DATA else "right"
        table.add_column(title, justify=justify, vertical="bottom", no_wrap=True)
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
    quantity = rows[0].quantity
    parts = [f"val, test: {quantity.legend}."]
    parts += ["Median over the seeds (minimum..maximum)."] if len(_seeds(rows)) > 1 else []
    parts += [share] if (share := rows[-1].prunable_share) else []
    if any(row.recommended for row in rows):
        parts.append(f"* {quantity.rule}")
    else:
        parts.append("Nothing is recommended before the dense round has finished.")
    return "\n".join(parts)


def _seeds(rows: Sequence[Row]) -> list[int]:
    return sorted({seed for row in rows for seed in row.seeds})


def _csv_cell(value: Any) -> Any:
    """Put text on one line, and quote text that a spreadsheet would compute as a formula."""
    if not isinstance(value, str):
        return value
    line = plain(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _measured(quantity: Quantity) -> list[tuple[str, str]]:
    """Return the title and kind of the columns of validation and test values."""
    kind = "percent" if quantity.objective.fraction else "number"
    return [(quantity.column(f"{data} {quantity.name}"), kind) for data in ("val", "test")]


def _settings(comparison: Comparison, storage: str | None) -> Iterable[tuple[str, str]]:
    first = comparison.records[0]
    last = {name: max(each, key=lambda record: record.round) for name, each in comparison.records_by_experiment.items()}
    data, model, _ = identity(first)
    yield "model", model
    options = first.settings.get("data_options")
    yield "data", data + (f" ({_words(options)})" if options else "")
    yield "task", f"{_words(first.settings.get('task', 'unknown'))}, objective: {comparison.quantity.name}"
    yield "weights", f"{first.weights:,}, of which {first.prunable:,} are prunable"
    yield "epochs of the last round", _by_value({name: record.epochs for name, record in last.items()})
    settings = {name: {**record.settings, **options_of(record, "training")} for name, record in last.items()}
    for name, title in SETTINGS.items():
        if text := _by_value({experiment: each.get(name) for experiment, each in settings.items()}):
            yield title, text
    yield (
        "seeds" if comparison.seeds > 1 else "seed",
        ", ".join(map(str, sorted({record.seed for record in comparison.records}))),
    )
    versions = {(name, version) for record in comparison.records for name, version in record.versions.items()}
    yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(versions)) or "unknown"
    yield "processor", "; ".join(sorted({_processor(record) for record in comparison.records}))
    dates = sorted(record.finished_at for record in comparison.records)
    yield "finished", " to ".join(dict.fromkeys(f"{date[:10]} {date[11:16]}".strip() for date in (dates[0], dates[-1])))
    yield "storage", storage or "unknown"


def _processor(record: Record) -> str:
    workers = f"{record.workers} worker{'s' if record.workers != 1 else ''}"
    return f"{record.processor or 'unknown'}, {workers}"


def _by_value(values: Mapping[str, Any]) -> str:
    """Return the values of a setting by experiment: one value, or each with the experiments that have it."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        if value not in (None, [], {}):
            names.setdefault(shorten(_words(value), MAX_VALUE), []).append(name)
    if len(names) <= 1:
        return "".join(names)
    texts = [f"{value} ({_named(experiments)})" for value, experiments in list(names.items())[:MAX_VALUES]]
    return "; ".join(texts) + (f"; and {len(names) - MAX_VALUES} more values" if len(names) > MAX_VALUES else "")


def _named(experiments: list[str]) -> str:
    if len(experiments) > MAX_NAMES:
        return f"{len(experiments)} experiments"
    return ", ".join(shorten(name, 40) for name in experiments)


def _words(value: Any) -> str:
    """Return a setting as people read it: `StepDecay(peak=0.1, drops=[15, 23])`."""
    if isinstance(value, Mapping):
        given = {name: part for name, part in value.items() if not (name == "type" or part is None or part is False)}
        parts = [f"{name}={_words(part)}" for name, part in given.items()]
        inside = ", ".join(parts)
        return (f"{value['type']}({inside})" if inside else str(value["type"])) if "type" in value else inside
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_words, value))}]"
    return (
        f"{Decimal(f'{value:g}'):f}" if isinstance(value, float) else str(value)
    )  # never 3e-05, which lines may break
