"""Read the records of a storage, and write everything that a report of them consists of into one folder.

Equal rounds are trained once. A record carries the name of the experiment that trained it first, and
`experiments/<name>.<seed>.json` lists the rounds of an experiment. If a name was used with other settings before, the
rounds of those settings do not belong to the experiment any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.export.proof import DEPLOY, ExportedNetworks
from orchestrator.files import check_writable
from orchestrator.formatting import no_rounds
from orchestrator.record import Record
from orchestrator.report.chapters.exported import (
    ExportedSection,
    export_command,
    exported_pictures,
    load_call,
    may_need_data,
)
from orchestrator.report.chapters.families import families_section
from orchestrator.report.chapters.int8_rounds import int8_section
from orchestrator.report.chapters.searches import published_section, search_section
from orchestrator.report.chapters.supernet_searches import supernet_section
from orchestrator.report.comparison import Comparison, comparisons
from orchestrator.report.page import Chapter, Section, check_page_packages, save_page
from orchestrator.report.pictures import Picture, draw_pictures, drawing_style
from orchestrator.report.published import PublishedResult, find_published
from orchestrator.report.tables import print_table, save_csv, settings_table
from orchestrator.storage.experiments import gap, read_experiments
from orchestrator.storage.ledger import Ledger

# Functions that return more sections of a chapter, in the order of the page; none if they have nothing to show.
MORE_SECTIONS: tuple[Callable[[Comparison], Sequence[Section]], ...] = (
    search_section,
    supernet_section,
    published_section,
    int8_section,
)


def path_records(ledger: Ledger, problems: list[str] | None = None) -> tuple[list[Record], int]:
    """Return the finished rounds of every experiment, under its own name, and how many records belong to none.

    If the file of an experiment is missing, it has the rounds that were trained under its name and their ancestors.
    Rounds after a missing or damaged round belong to no experiment. A sentence for each unusable file is added to
    `problems`. Without `problems`, the first unusable file raises StorageError, which names it.
    """
    committed = {record.key: record for record in ledger.records(problems)}
    records: list[Record] = []
    named: set[tuple[str, int]] = set()
    used: set[str] = set()
    for experiment in sorted(read_experiments(ledger.store, problems), key=lambda each: each.is_misnamed):
        if (experiment.name, experiment.seed) in named:
            _add_problem(experiment.misnamed, problems)
            continue
        named.add((experiment.name, experiment.seed))
        used.update(experiment.keys)
        if problem := gap(experiment, committed):
            _add_problem(problem, problems)
        keys = takewhile(lambda key: key in committed, experiment.keys)
        records += [dataclasses.replace(committed[key], experiment=experiment.name) for key in keys]
    others = [record for key, record in committed.items() if key not in used]
    unnamed = [record for record in others if (record.experiment, record.seed) not in named]
    return records + _with_ancestors(unnamed, committed), len(others) - len(unnamed)


def write(
    records: Iterable[Record],
    folder: Path,
    *,
    failures: Iterable[Mapping[str, Any]] = (),
    exported: ExportedNetworks | None = None,
    storage: str | None = None,
) -> list[Path]:
    """Write report.csv, the pictures and report.html into `folder`; return the paths, the page last.

    `records` come from `path_records`. Each model, data set and task has pictures of its own. The names of those of the
    second end in -2. `exported` has the measurements of exported files, whose models and data come first.
    `storage` is where the records are, as the command line takes it.

    Raises OrchestratorError if a file cannot be written or a package is missing; report.csv needs none.
    """
    return list(_write_files(_comparisons(records, exported), folder, failures, exported, storage))


def print_and_write(
    records: Sequence[Record],
    folder: Path,
    *,
    failures: Iterable[Mapping[str, Any]] = (),
    exported: ExportedNetworks | None = None,
    storage: str | None = None,
) -> None:
    """Print the table of `records`, do what `write` does, and print the name of each file as soon as it is written."""
    found = _comparisons(records, exported)
    for comparison in found:
        print_table(record for record in comparison.records if record.experiment in comparison.shown)
    for path in _write_files(found, folder, failures, exported, storage):
        print(f"written: {path}", flush=True)
    shown = {name for comparison in found for name in comparison.shown}
    if more := len({record.experiment for record in records} - shown):
        print(f"{more} more experiments with larger recommended networks: the page has them all")


def report_storage(ledger: Ledger, folder: Path, experiments: Collection[str] = ()) -> list[str]:
    """Do what `print_and_write` does for the named `experiments`, or for all; return a sentence for each unusable file.

    The page has the measurements of exported files too, if `folder` has their deploy.json and the report shows their
    networks. Raises OrchestratorError as `write` does, and ConfigError for an unknown name.
    """
    problems: list[str] = []
    records, left_out = path_records(ledger, problems)
    failures = [f for f in ledger.failures(problems) if not experiments or f.get("experiment") in experiments]
    names = sorted({record.experiment for record in records})
    for name in experiments:
        if name not in names:
            there = f"one of {', '.join(names)}" if names else "of a storage with finished rounds"
            raise ConfigError(f"--experiment must be {there}, got {name!r}")
    records = [record for record in records if record.experiment in (experiments or names)]
    if not records:
        print(no_rounds(ledger.store.uri))
        return problems
    exported = ExportedNetworks.load(folder)
    # Without names the report is of the whole storage, which may hold the networks as rounds of earlier settings.
    reported = records if experiments or not exported else ledger.records([])
    if exported and exported.keys.isdisjoint(record.key for record in reported):
        print(f"left out: {folder / DEPLOY} measures networks that this report does not show")
        exported = None
    if left_out:
        print(f"left out: {left_out} rounds of earlier settings (orchestrator status shows them)")
    shown = exported and exported.present(folder)
    print_and_write(records, folder, failures=failures, exported=shown, storage=ledger.store.uri)
    return problems


def check_folder(folder: Path, flag: str) -> None:
    """Raise OrchestratorError, naming `flag`, if `write` could not write into `folder` or lacks a package."""
    check_writable(folder, flag)
    with drawing_style():
        check_page_packages()


def _comparisons(records: Iterable[Record], exported: ExportedNetworks | None) -> list[Comparison]:
    return comparisons(records, first=exported.keys if exported else ())


def _write_files(
    found: Sequence[Comparison],
    folder: Path,
    failures: Iterable[Mapping[str, Any]],
    exported: ExportedNetworks | None,
    storage: str | None,
) -> Iterator[Path]:
    """Yield each file as soon as it is written."""
    records = [record for comparison in found for record in comparison.records]
    yield save_csv(records, folder / "report.csv")
    chapters: list[Chapter] = []
    section: ExportedSection | None = None
    with drawing_style():
        if exported and (pictures := exported_pictures(exported)):
            for picture in pictures:
                yield picture.save(folder / f"{picture.name}.png")
            section = ExportedSection(exported, _drawings(pictures, ""))
        for comparison in found:
            references = _references(comparison)
            sections = [
                Section("settings", "Settings", tables=[settings_table(comparison, storage)]),
                *families_section(comparison, records, exported),
                *(s for more in MORE_SECTIONS for s in more(comparison)),
            ]
            pictures = draw_pictures(comparison, references)
            pictures += [picture for each in sections for picture in each.pictures]
            drawings = _drawings(pictures, f"t{comparison.number}-")
            command, needs_data = export_command(comparison, storage), may_need_data(comparison)
            call = load_call(comparison, storage)
            chapters.append(Chapter(comparison, references, drawings, sections, command, needs_data, call))
            for picture in pictures:
                yield picture.save(folder / f"{picture.name}{chapters[-1].end}.png")
    yield save_page(chapters, records, failures, folder / "report.html", section)


def _drawings(pictures: Iterable[Picture], prefix: str) -> dict[str, str]:
    """Return each picture as an SVG element, by name. `prefix` keeps the ids of chapters apart."""
    return {picture.name: picture.svg(f"{prefix}{picture.name}-") for picture in pictures}


def _references(comparison: Comparison) -> dict[str, PublishedResult]:
    """Return each published result once, by the first shown experiment with its technique and length."""
    found: dict[str, PublishedResult] = {}
    for name in comparison.shown:
        reference = find_published(comparison.records_by_experiment[name])
        if reference and reference not in found.values():
            found[name] = reference
    return found


def _add_problem(problem: str, problems: list[str] | None) -> None:
    if problems is None:
        raise DamagedError(problem)
    problems.append(problem)


def _with_ancestors(records: Iterable[Record], committed: Mapping[str, Record]) -> list[Record]:
    """Return `records` and their ancestors, which may have been trained for another experiment."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        ancestor: Record | None = record
        while ancestor is not None and (identity := (record.experiment, ancestor.key)) not in found:
            found[identity] = dataclasses.replace(ancestor, experiment=record.experiment)
            ancestor = committed.get(ancestor.parent) if ancestor.parent else None
    return sorted(found.values(), key=lambda record: (record.experiment, record.seed, record.round, record.key))
