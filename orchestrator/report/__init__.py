"""Tables and pictures from a ledger."""

from orchestrator.report.csv_file import save_csv
from orchestrator.report.paths import path_records
from orchestrator.report.picture import save_picture
from orchestrator.report.status import json_line, print_status
from orchestrator.report.summary import Row, Spread, summary
from orchestrator.report.table import print_table

__all__ = [
    "Row",
    "Spread",
    "json_line",
    "path_records",
    "print_status",
    "print_table",
    "save_csv",
    "save_picture",
    "summary",
]
