"""Put finished rounds through targets: the table on the terminal, and the page."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ExportError
from orchestrator.export.candidates import check_code, find_round, side_by_side, source_of, structure, with_dense
from orchestrator.export.originals import Original, TestSet
from orchestrator.export.recorded_code import setting
from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.side_by_side import CANNOT, Cell, compare_on, save_cells
from orchestrator.files import check_writable
from orchestrator.formatting import no_rounds
from orchestrator.ofa.subnet import is_supernet
from orchestrator.record import Record
from orchestrator.report import path_records
from orchestrator.report.chapters.exported import recommended_rounds, round_line
from orchestrator.report.target_table import TargetTable, cell_line
from orchestrator.report.targets_page import print_targets, save_targets_page
from orchestrator.storage.ledger import Ledger
from orchestrator.validate import one_of

_COLUMNS = {"unstructured": "masks", "subnet": "OFA"}  # by what `structure` returns
_SHARED = ("model", "data", "task", "model_options", "data_options", "data_identity")  # settings of all in a table
_ORDER = ("masks", "blocks", "2-of-4", "filters", "channels", "AMC", "OFA")


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
    cannot be used, and for each round of another model, data or task than the first. Raises OrchestratorError for
    rounds that cannot be exported.
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
    chosen = [find_round(every, key, "KEY") for key in rounds] or recommended_of_each(records)
    strangers = [record for record in chosen if _network(record) != _network(chosen[0])]
    problems += [_left_out(record, chosen[0]) for record in strangers]
    shown = _with_one_dense(with_dense(ledger, [record for record in chosen if record not in strangers]))
    check_code(shown, trust)
    source = source_of(shown, data)
    test_set = TestSet.of(source)
    for record in shown:
        print(round_line(record), flush=True)
    with contextlib.ExitStack() as stack:
        candidates = side_by_side(ledger, shown, test_set.data, test_set.task, column)
        originals, cells = [], []
        for candidate in candidates:
            try:
                originals.append(stack.enter_context(Original.of(candidate, test_set)))
            except ExportError as error:  # such as one that answers NaN
                named, why = candidate.name, str(error)
                cells += [Cell(target=t.name, network=named, reason=why, short=CANNOT) for t in targets]
        cells += compare_on(targets, originals, _print_measured, folder)
    networks = {candidate.name: record for candidate, record in zip(candidates, shown, strict=True)}
    table = TargetTable(cells, networks)
    print_targets(table)
    for path in [save_cells(folder, cells), *save_targets_page(folder, table)] if folder is not None else ():
        print(f"written: {path}")
    if folder is not None and any(cell.target == "web" and not cell.reason for cell in cells):
        print(f"written: {folder / 'web'}, a page for any static server: python -m http.server -d {folder / 'web'}")
    return problems


def column(record: Record) -> str:
    """Return what a round's network is in the table: dense, masks, blocks, 2-of-4, filters, channels, AMC or OFA."""
    what = structure(record)
    if record.search and what != "subnet":
        return "AMC"
    if what == "n-of-m":
        pattern = setting(record, "selection").get("pattern")
        m = pattern["of"] if pattern else setting(record, "selection")["m"]
        return f"{pattern['n'] if pattern else round(record.density * m)}-of-{m}"
    return _COLUMNS.get(what, what)


def recommended_of_each(records: Sequence[Record]) -> list[Record]:
    """Return the recommended round of each column of the table (see `column`), without the dense round.

    If the dense network is recommended, the round that is best on validation takes its place. Supernets, which are many
    networks, are left out. Raises ConfigError as `recommended_rounds` does.
    """
    networks = [record for record in records if not is_supernet(record.channels)]
    columns = {record.experiment: column(record) for record in networks if record.round}
    found: dict[str, Record] = {}
    for name in sorted(set(columns.values()), key=lambda name: (*_ORDER, name).index(name)):
        alike = [record for record in networks if columns.get(record.experiment) == name]
        pruned = [record for record in recommended_rounds(alike, flag="") if record.round]
        pruned = pruned or [max(filter(_is_pruned, alike), key=lambda record: record.objective.gain(record.val))]
        found |= {record.key: record for record in pruned}
    return list(found.values()) or recommended_rounds(networks, flag="")


def _network(record: Record) -> tuple[Any, ...]:
    """Return what decides the network of a round before anything is removed from it, its data and its task."""
    return tuple(setting(record, name) for name in _SHARED)


def _left_out(record: Record, first: Record) -> str:
    pairs = zip(_SHARED, _network(first), _network(record), strict=True)
    name, here, got = next((name, here, got) for name, here, got in pairs if here != got)
    return (
        f"round {record.key[:12]} was left out: rounds side by side must have the same data and task and model, here "
        f"{name} {here!r}, got {got!r}: give its key alone"
    )


def _print_measured(cell: Cell) -> None:
    """Print a line about a file that was measured; reasons stand below the table, each once with its networks."""
    if not cell.reason:
        print(cell_line(cell), flush=True)


def _with_one_dense(records: Sequence[Record]) -> list[Record]:
    """Leave out dense rounds of as many weights as one before: the same network of another seed costs the same."""
    sizes = [record.weights if record.round == 0 else None for record in records]
    return [record for place, record in enumerate(records) if sizes[place] is None or sizes[place] not in sizes[:place]]


def _is_pruned(record: Record) -> bool:
    return record.round > 0
