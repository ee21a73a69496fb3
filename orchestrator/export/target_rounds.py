"""Put finished rounds through targets: the table on the terminal, and the page."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.export.candidates import check_code, find_round, side_by_side, source_of, structure, with_dense
from orchestrator.export.originals import Original, TestSet
from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.side_by_side import compare_on, save_cells
from orchestrator.files import check_writable
from orchestrator.formatting import no_rounds
from orchestrator.record import Record
from orchestrator.report import path_records
from orchestrator.report.exported import recommended_rounds, round_line
from orchestrator.report.targets_page import cell_line, print_cells, save_targets_page
from orchestrator.storage.ledger import Ledger
from orchestrator.validate import one_of


def compare_rounds(
    ledger: Ledger,
    rounds: Sequence[str] = (),
    *,
    on: Sequence[str] = (),
    folder: Path | None = None,
    data: str | None = None,
    trust: Sequence[str] = (),
) -> list[str]:
    """Measure finished rounds and their dense round on each target; print the table, and write it into `folder`.

    `rounds`: beginnings of their keys; none: the recommended round of each structure. `on`: names of targets; none:
    all. `data`, `trust`: as `finished_rounds.write` has them. Returns a sentence for each file of the storage that
    cannot be used. Raises OrchestratorError for rounds that cannot be exported or are of different tasks or data.
    """
    targets = [TARGETS[one_of("a target", name, TARGETS)] for name in dict.fromkeys(on or TARGETS)]
    problems: list[str] = []
    records, _ = path_records(ledger, problems)
    if not records:
        print(no_rounds(ledger.store.uri))
        return problems
    if folder is not None:
        check_writable(folder, "--report")
    every = ledger.records([]) if rounds else []
    shown = with_dense(ledger, [find_round(every, key) for key in rounds] or recommended_of_each_structure(records))
    check_code(shown, trust)
    source = source_of(shown, data)
    test_set = TestSet.of(source)
    for record in shown:
        print(round_line(record), flush=True)
    with contextlib.ExitStack() as stack:
        candidates = side_by_side(ledger, shown, test_set.data, test_set.task)
        originals = [stack.enter_context(Original.of(candidate, test_set)) for candidate in candidates]
        cells = compare_on(targets, originals, lambda cell: print(cell_line(cell), flush=True), folder)
    print_cells(cells, test_set.objective)
    if folder is not None:
        for path in (save_cells(folder, cells), save_targets_page(folder, cells, test_set.objective)):
            print(f"written: {path}")
    return problems


def recommended_of_each_structure(records: Sequence[Record]) -> list[Record]:
    """Return the recommended round of each structure: of masks, of blocks, of fewer channels, ...

    Where the dense network is recommended, the round of the structure that is best on validation stands in. Raises
    ConfigError as `recommended_rounds` does.
    """
    structures = {record.experiment: structure(record) for record in records if record.round}
    found: dict[str, Record] = {}
    for name in dict.fromkeys(structures.values()):
        alike = [record for record in records if structures.get(record.experiment) == name]
        pruned = [record for record in recommended_rounds(alike) if record.round]
        pruned = pruned or [max(filter(_is_pruned, alike), key=lambda record: record.objective.gain(record.val))]
        found |= {record.key: record for record in pruned}
    return list(found.values()) or recommended_rounds(records)


def _is_pruned(record: Record) -> bool:
    return record.round > 0
