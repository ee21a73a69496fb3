"""Which records make up an experiment, and what sharing rounds between experiments saved.

Equal rounds are trained once. A record carries the name of the experiment that trained it first, and
`experiments/<name>.<seed>.json` lists the rounds of an experiment. If a name was used with other settings before, the
rounds of those settings do not belong to the experiment any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from orchestrator.errors import DamagedError
from orchestrator.record import Record
from orchestrator.storage.experiments import gap, read_experiments
from orchestrator.storage.ledger import Ledger


@dataclass(frozen=True)
class Sharing:
    """Count finished rounds and their epochs, as the paths ask for them and as they were trained."""

    rounds_asked: int
    rounds_trained: int
    epochs_asked: int
    epochs_trained: int

    @property
    def saved(self) -> float:
        """Return the fraction of the asked epochs that did not have to be trained."""
        return 1 - self.epochs_trained / self.epochs_asked if self.epochs_asked else 0.0


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


def count_sharing(records: Iterable[Record]) -> Sharing:
    """Count the shared rounds of `records` from `path_records`, where a round appears once for each of its paths."""
    asked = list(records)
    trained = {record.key: record for record in asked}.values()
    return Sharing(
        rounds_asked=len(asked),
        rounds_trained=len(trained),
        epochs_asked=sum(record.epochs for record in asked),
        epochs_trained=sum(record.epochs for record in trained),
    )


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
