"""Every record as a line of a CSV file, for spreadsheets and notebooks."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.report.output import writing
from orchestrator.report.status import FIELDS, METRICS

if TYPE_CHECKING:
    from orchestrator.storage.ledger import Record


def save_csv(records: Iterable[Record], path: Path) -> Path:
    """Write one line a record, accuracies as fractions, and return `path`. Raises OrchestratorError if it cannot."""
    with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow([*FIELDS, *METRICS, "epochs", "seconds", "bytes"])
        for record in records:
            values = [getattr(record, name) for name in FIELDS] + [record.metrics[name] for name in METRICS]
            lines.writerow([*values, record.epochs, record.seconds, record.model_bytes])
    return path
