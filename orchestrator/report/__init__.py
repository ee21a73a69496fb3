"""Report finished rounds: tables, pictures and a web page.

`write(records, folder)` writes a report; `path_records(ledger)` returns the records of a storage, and
`report_storage(ledger, folder)` prints and writes a report of them.
"""

from orchestrator.report.comparison import comparisons
from orchestrator.report.folder import check_folder, path_records, print_and_write, report_storage, write
from orchestrator.report.status import print_status
from orchestrator.report.summary import summary
from orchestrator.report.tables import json_line, print_table, save_csv

__all__ = [
    "check_folder",
    "comparisons",
    "json_line",
    "path_records",
    "print_and_write",
    "print_status",
    "print_table",
    "report_storage",
    "save_csv",
    "summary",
    "write",
]
