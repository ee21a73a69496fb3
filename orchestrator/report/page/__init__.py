"""One self-contained web page of a report: no request leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.files import written_for_report
from orchestrator.formatting import shorten
from orchestrator.record import Record
from orchestrator.report.exported import Deployed
from orchestrator.report.page.template import render
from orchestrator.report.page.views import Chapter, rounds_table
from orchestrator.report.sharing import sharing

__all__ = ["Chapter", "save_page"]


def save_page(
    chapters: Iterable[Chapter],
    records: list[Record],
    failures: Iterable[Mapping[str, Any]],
    path: Path,
    deployed: Deployed | None = None,
) -> Path:
    """Write the page of `chapters`, one a task, and of exported files, and return `path`.

    Raises OrchestratorError if a package is missing or `path` cannot be written.
    """
    chapters = list(chapters)
    text = render(
        {
            "chapters": chapters,
            "data": ", ".join(dict.fromkeys(shorten(chapter.task.data, 60) for chapter in chapters)),
            "deployed": deployed,
            "experiments": sum(len(chapter.task.experiments) for chapter in chapters),
            "sharing": sharing(records),
            "rounds": rounds_table(records),
            "failures": list(failures),
        }
    )
    with written_for_report(path):
        path.write_text(text, encoding="utf-8", newline="\n")
    return path
