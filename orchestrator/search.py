"""The smallest density that keeps an accuracy, found with few rounds.

First the experiment's own path is walked until PATIENCE rounds in a row fall below the floor: one alone may be chance.
Then the gap between the last round that held and the next one is halved, in compression ratio: each probe is one round
after the walk's last that held.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.pruning.counts import kept_count
from orchestrator.pruning.path import Explicit
from orchestrator.pruning.selection import NofM
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Record

PATIENCE = 3
Train = Callable[[Experiment, Floor], Sequence[Sequence[Record]]]
"""Trains every replicate until the floor cuts its path; returns the committed records of each, in order."""


@dataclass(frozen=True)
class Found:
    """`records`: of the smallest round that holds, of the best one if none does (`reason` tells), by replicate.

    A replicate that fell below its floor earlier on the path has none. `experiment`: the path that ends in the round,
    or passes it. `rounds`: distinct rounds that the search looked at, `epochs`: theirs together.
    """

    experiment: Experiment
    records: tuple[Record, ...]
    holds: bool
    reason: str
    rounds: int
    epochs: int


def search_density(experiment: Experiment, floor: Floor, train: Train, *, probes: int = 4) -> Found:
    """Walk the path, then halve the gap `probes` times.

    A round holds if the median over the replicates of what they have above their floors is not negative, by validation
    accuracy. Raises ConfigError for a negative number of probes, or a selection that has nothing to probe.
    """
    if probes < 0:
        raise ConfigError(f"probes must be 0 or more, got {probes}")
    if probes and isinstance(experiment.selection, NofM):
        raise ConfigError(f"{experiment.selection} has no density between two of its own, got probes={probes}: pass 0")
    seen: dict[str, Record] = {}

    def look(candidate: Experiment) -> list[list[Record]]:
        """For each round, the records of the replicates that got there."""
        patient = replace(floor, patience=max(floor.patience, PATIENCE))
        paths = [_until_cut(path, patient) for path in train(candidate, patient)]
        seen.update({record.key: record for path in paths for record in path})
        return [[path[r] for path in paths if r < len(path)] for r in range(max(map(len, paths)))]

    def found(experiment: Experiment, records: list[Record], reason: str, holds: bool = True) -> Found:
        epochs = sum(record.epochs for record in seen.values())
        return Found(experiment, tuple(records), holds, reason, len(seen), epochs)

    walk, densities = look(experiment), experiment.densities()
    holding = [r for r, records in enumerate(walk) if _holds(records, walk[0], floor)]
    held = holding[-1] + 1 if holding else 0  # rounds down to the last that holds, the dense one included
    if held == 0:
        best = max(walk, key=_median)
        reason = (
            f"the floor, {floor.of(_median(walk[0])):.2%}, is above the dense network's {_median(walk[0]):.2%}; "
            f"the best round, of density {best[0].density:.3g}, reaches {_median(best):.2%}"
        )
        return found(experiment, best, reason, holds=False)
    if held == len(densities):
        return found(experiment, walk[-1], "the path's last round holds: make it longer to find where it ends")

    smallest, fell, best, winner = densities[held - 1], densities[held], walk[held - 1], experiment
    shared, total = densities[1:held], best[0].prunable
    for _ in range(probes):
        middle = math.sqrt(smallest * fell)
        if kept_count(middle, total) in (kept_count(smallest, total), kept_count(fell, total)):
            break  # no number of weights lies between
        name = f"{experiment.name[:80]}-{1 / middle:.6g}x"
        probe = replace(experiment, name=name, path=Explicit((*shared, middle)))
        tried = look(probe)
        if _holds(tried[held], tried[0], floor):
            smallest, best, winner = middle, tried[held], probe
        else:
            fell = middle
    return found(winner, best, f"density {smallest:.3g} holds and {fell:.3g} does not")


def _until_cut(path: Sequence[Record], floor: Floor) -> Sequence[Record]:
    """`path` without what lies behind the floor's cut: storage may hold more, which another job has trained."""
    accuracies = [_accuracy(record) for record in path]
    return path[: next((n for n in range(1, len(path)) if floor.cuts(accuracies[0], accuracies[:n])), len(path))]


def _holds(records: list[Record], dense: list[Record], floor: Floor) -> bool:
    """Whether a round holds; the replicates that did not get there do not."""
    floors = {record.seed: floor.of(_accuracy(record)) for record in dense}
    above = [_accuracy(record) - floors[record.seed] for record in records]
    return statistics.median([*above, *[-math.inf] * (len(dense) - len(above))]) >= 0


def _median(records: list[Record]) -> float:
    return statistics.median(map(_accuracy, records))


def _accuracy(record: Record) -> float:
    return record.metrics["val_accuracy"]
