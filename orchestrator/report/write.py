"""Everything that a report writes into its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.export.proof import ExportedNetworks
from orchestrator.files import check_writable
from orchestrator.record import Record
from orchestrator.report.csv_file import save_csv
from orchestrator.report.exported import Deployed
from orchestrator.report.page import Chapter, save_page
from orchestrator.report.page.template import check_packages
from orchestrator.report.page.views import drawings_of
from orchestrator.report.pictures import draw, drawing
from orchestrator.report.pictures.exported_files import deployed_pictures
from orchestrator.report.published import Published, published
from orchestrator.report.table import print_table
from orchestrator.report.tasks import Task, tasks


def check_report(folder: Path, flag: str) -> None:
    """Raise OrchestratorError, naming `flag`, if `save_report` could not write into `folder` or lacks a package."""
    check_writable(folder, flag)
    with drawing():
        check_packages()


def show_report(
    records: Sequence[Record], failures: Iterable[Mapping[str, Any]], folder: Path, deployment: ExportedNetworks | None
) -> None:
    """Print `records` as a table, save their report in `folder` and print its files. Raises as `save_report` does.

    The tasks whose networks are in `deployment` come first.
    """
    found = tasks(records, first=deployment.keys if deployment else ())
    shown = {name for task in found for name in task.shown}
    print_table(record for record in records if record.experiment in shown)
    for file in save_report(found, failures, folder, deployment):
        print(f"written: {file}", flush=True)
    if more := len({record.experiment for record in records} - shown):
        print(f"{more} more experiments with larger recommended networks: the page has them all")


def save_report(
    tasks: list[Task], failures: Iterable[Mapping[str, Any]], folder: Path, deployment: ExportedNetworks | None = None
) -> Iterator[Path]:
    """Write report.csv, the pictures and report.html; yield each file when it is there, the page last.

    `deployment` is what was measured of exported files, if any were. Several tasks have pictures each: those of the
    second end in -2. Raises OrchestratorError if a file cannot be written or a package is missing; report.csv needs
    none.
    """
    records = [record for task in tasks for record in task.records]
    yield save_csv(records, folder / "report.csv")
    chapters: list[Chapter] = []
    deployed: Deployed | None = None
    with drawing():
        if deployment and (drawn := deployed_pictures(deployment)):
            for picture in drawn:
                yield picture.save(folder / f"{picture.name}.png")
            deployed = Deployed(deployment, drawings_of(drawn, ""))
        for task in tasks:
            references = _references(task)
            pictures = draw(task, references)
            end = f"-{task.number}" if task.number > 1 else ""
            for picture in pictures:
                yield picture.save(folder / f"{picture.name}{end}.png")
            chapters.append(Chapter(task, references, drawings_of(pictures, f"t{task.number}-")))
    yield save_page(chapters, records, failures, folder / "report.html", deployed)


def _references(task: Task) -> dict[str, Published]:
    """What was published, by the first experiment that is shown of each technique and length."""
    found: dict[str, Published] = {}
    for name in task.shown:
        reference = published(task.paths[name])
        if reference and reference not in found.values():
            found[name] = reference
    return found
