"""Which records make up an experiment.

Equal rounds are trained once, whoever asks: a record carries the name of the experiment that trained it first, and
`experiments/<name>.<seed>.json` says which rounds an experiment consists of. A name may also have been given to
other settings before; the rounds of those are no part of it any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import takewhile

from orchestrator.errors import DamagedError
from orchestrator.record import Record
from orchestrator.storage.experiments import gap, read_experiments
from orchestrator.storage.ledger import Ledger


def path_records(ledger: Ledger, problems: list[str] | None = None) -> tuple[list[Record], int]:
    """(the finished rounds of every experiment, under its own name; how many records belong to none).

    An experiment whose file is missing has the rounds that were trained under its name, and those before them. What
    lies behind a round that is missing or damaged belongs to none. `problems` gets a sentence for each file that cannot
    be used; without it, the first one raises StorageError, naming the file.
    """
    committed = {record.key: record for record in ledger.records(problems)}
    found: list[Record] = []
    named: set[tuple[str, int]] = set()
    used: set[str] = set()
    for experiment in sorted(read_experiments(ledger.store, problems), key=lambda each: each.is_misnamed):
        if (experiment.name, experiment.seed) in named:
            _tell(experiment.misnamed, problems)
            continue
        named.add((experiment.name, experiment.seed))
        used.update(experiment.keys)
        if problem := gap(experiment, committed):
            _tell(problem, problems)
        keys = takewhile(lambda key: key in committed, experiment.keys)
        found += [dataclasses.replace(committed[key], experiment=experiment.name) for key in keys]
    others = [record for key, record in committed.items() if key not in used]
    unnamed = [record for record in others if (record.experiment, record.seed) not in named]
    return found + _with_ancestors(unnamed, committed), len(others) - len(unnamed)


def _tell(problem: str, problems: list[str] | None) -> None:
    if problems is None:
        raise DamagedError(problem)
    problems.append(problem)


def _with_ancestors(records: Iterable[Record], committed: Mapping[str, Record]) -> list[Record]:
    """`records`, and the rounds that they descend from, which may have been trained for another experiment."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        before: Record | None = record
        while before is not None and (place := (record.experiment, before.key)) not in found:
            found[place] = dataclasses.replace(before, experiment=record.experiment)
            before = committed.get(before.parent) if before.parent else None
    return sorted(found.values(), key=lambda record: (record.experiment, record.seed, record.round, record.key))
