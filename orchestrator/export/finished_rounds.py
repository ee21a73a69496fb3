"""Export networks of finished rounds: their files, what is measured of them, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.export.candidates import check_code, find_round, side_by_side, source_of, with_dense
from orchestrator.export.deploy import deploy
from orchestrator.export.proof import ExportedNetworks
from orchestrator.formatting import no_rounds
from orchestrator.record import Record
from orchestrator.report import check_folder, path_records, print_and_write
from orchestrator.report.chapters.exported import artifact_line, recommended_rounds, round_line, same_model_and_data
from orchestrator.storage.ledger import Ledger


def write(
    ledger: Ledger,
    folder: Path,
    *,
    rounds: Sequence[str] = (),
    formats: Sequence[str] = (),
    data: str | None = None,
    trust: Sequence[str] = (),
) -> list[str]:
    """Write files of finished rounds and of their dense round, deploy.json and a report; print a line for each file.

    `rounds`: beginnings of their keys; none: the recommended ones. `formats`: see `deploy`. `data`: where the data
    is, for data sets in files. `trust`: functions and task classes of the user's that the rounds name and
    that may run here.

    Returns a sentence for each file of the storage that cannot be used. Raises OrchestratorError for rounds that cannot
    be exported, as `deploy` does, and for a report that cannot be written.
    """
    problems: list[str] = []
    records, left_out = path_records(ledger, problems)
    if not records and not left_out:
        print(no_rounds(ledger.store.uri))
        return problems
    every = ledger.records([]) if rounds else []
    chosen = [find_round(every, key) for key in rounds] or recommended_rounds(records)
    shown = with_dense(ledger, chosen)
    check_code(shown, trust)
    check_folder(folder, "--out")  # now, because the report is written after everything is measured
    exported = _write_files(ledger, chosen, shown, folder, formats, data)
    beside = same_model_and_data(records, shown) or shown
    names = {record.experiment for record in beside}
    failures = [failure for failure in ledger.failures(problems) if failure.get("experiment") in names]
    print_and_write(beside, folder, failures=failures, exported=exported, storage=ledger.store.uri)
    if problems and not rounds:
        problems.append(
            "the networks were chosen without what is damaged: restore it and export again, or give --round"
        )
    return problems


def _write_files(
    ledger: Ledger,
    chosen: Sequence[Record],
    shown: Sequence[Record],
    folder: Path,
    formats: Sequence[str],
    data: str | None,
) -> ExportedNetworks:
    """Write and measure the networks of `shown`; print a line for each of `chosen` and each file."""
    source = source_of(shown, data)
    networks = side_by_side(ledger, shown, source.load(), source.load_task())
    for record in chosen:
        print(round_line(record), flush=True)
    exported = deploy(
        networks,
        folder,
        formats=formats,
        source=source,
        on_artifact=lambda each: print(artifact_line(each, folder), flush=True),
    )
    return exported.present(folder)
