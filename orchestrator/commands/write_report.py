"""Run `orchestrator report`: write tables, pictures and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from orchestrator.commands.storage_argument import Storage, ledger_with_rounds
from orchestrator.formatting import print_problems


def report(
    storage: Storage,
    out: Annotated[
        Path, tyro.conf.arg(metavar="DIR", help="Folder for report.html and its files; created if missing.")
    ],
    experiment: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME", help="Only this one; repeat it for more. Default: all."),
    ] = (),
) -> int:
    """Show the rounds of each experiment as a table, and write a web page, its pictures and a CSV file.

    $ orchestrator report ./runs --out ./report
    $ orchestrator report s3://bucket/runs --out ./report --experiment digits_lr

    If the folder holds the deploy.json of orchestrator export, the page shows its measurements too.
    """
    from orchestrator.files import expand_home
    from orchestrator.report import report_storage

    return print_problems(report_storage(ledger_with_rounds(storage), Path(expand_home(str(out))), experiment))
