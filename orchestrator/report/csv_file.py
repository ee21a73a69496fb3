"""Every record as a line of a CSV file, for spreadsheets and notebooks."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.files import written_for_report
from orchestrator.formatting import plain
from orchestrator.record import METRICS, Record
from orchestrator.report.status import FIELDS


def save_csv(records: Iterable[Record], path: Path) -> Path:
    """Write one line a record, accuracies as fractions, and return `path`. Raises OrchestratorError if it cannot."""
    with written_for_report(path), open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow([*FIELDS, *METRICS, "epochs", "seconds", "bytes", "compression"])
        for record in records:
            values = [_cell(getattr(record, name)) for name in FIELDS] + [record.metrics[name] for name in METRICS]
            lines.writerow([*values, record.epochs, record.seconds, record.model_bytes, record.compression])
    return path


def _cell(value: Any) -> Any:
    """A name on one line; a spreadsheet would compute one that begins like a formula."""
    if not isinstance(value, str):
        return value
    line = plain(value)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
