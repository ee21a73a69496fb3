"""What a storage holds, record by record: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.formatting import compression, make_console, percent, plain
from orchestrator.record import METRICS, Record

FIELDS = ("experiment", "key", "parent", "round", "technique", "density", "kept", "prunable", "weights", "seed")


def json_line(record: Record) -> str:
    """One record as one line of JSON; accuracies as fractions, `bytes` of the committed model."""
    return json.dumps(
        {
            **{name: getattr(record, name) for name in FIELDS},
            "metrics": {name: record.metrics[name] for name in METRICS},
            "epochs": record.epochs,
            "seconds": record.seconds,
            "bytes": record.model_bytes,
        }
    )


def print_status(
    records: Iterable[Record], failures: Iterable[Mapping[str, Any]], console: Console | None = None
) -> None:
    """Print a table for every experiment and seed, a line a record, and below them every failed round's reason."""
    console = console or make_console()
    for (name, seed), group in groupby(records, key=lambda record: (record.experiment, record.seed)):
        console.print(Text(plain(f"{name}, seed {seed}"), style="bold"))
        console.print(_table(group))
    for failure in failures:
        name, seed, number = (plain(failure.get(field, "?")) for field in ("experiment", "seed", "round"))
        reason = plain(failure.get("reason", "no reason was written"))
        console.print(Text(f"failed: {name}, seed {seed}, round {number}: {reason}", style="red"), soft_wrap=True)


def _table(records: Iterable[Record]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("technique")  # what gives way in a narrow terminal
    for header in ("density", "compression", "kept", "val %", "test %", "epochs", "seconds", "MB"):
        table.add_column(header, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            str(record.round),
            Text(plain(record.technique)),
            f"{record.density:.4g}",
            compression(record.compression),
            f"{record.weights_kept:,}",
            percent(record.metrics["val_accuracy"]),
            percent(record.metrics["test_accuracy"]),
            str(record.epochs),
            f"{record.seconds:,.1f}",
            f"{record.model_bytes / 1e6:,.3f}",
        )
    return table
