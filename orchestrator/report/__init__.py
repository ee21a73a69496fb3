"""Reports of finished rounds: tables, pictures and a web page.

`write(records, folder)` writes a report; `path_records(ledger)` returns the records of a storage.
"""

from orchestrator.report.comparison import Comparison, comparisons
from orchestrator.report.folder import check_folder, show, write
from orchestrator.report.paths import path_records
from orchestrator.report.summary import Row, Spread, summary
from orchestrator.report.tables import json_line, print_status, print_table, save_csv

__all__ = [
    "Comparison",
    "Row",
    "Spread",
    "check_folder",
    "comparisons",
    "json_line",
    "path_records",
    "print_status",
    "print_table",
    "save_csv",
    "show",
    "summary",
    "write",
]
