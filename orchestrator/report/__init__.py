"""Tables, pictures and a page from a ledger."""

from orchestrator.report.csv_file import save_csv
from orchestrator.report.paths import path_records
from orchestrator.report.status import json_line, print_status
from orchestrator.report.summary import Row, Spread, summary
from orchestrator.report.table import print_table
from orchestrator.report.tasks import tasks
from orchestrator.report.write import save_report, show_report

__all__ = [
    "Row",
    "Spread",
    "json_line",
    "path_records",
    "print_status",
    "print_table",
    "save_csv",
    "save_report",
    "show_report",
    "summary",
    "tasks",
]
