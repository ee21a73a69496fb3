"""The smallest density that keeps an accuracy, found with few rounds.

First the experiment's own path is walked until a round falls below the floor. Then the gap between the last round that
held and the one that fell is halved, in compression ratio: each probe shares the path up to the last round that
held, so it costs one round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError
from orchestrator.experiment import Experiment
from orchestrator.pruning.path import Explicit
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Record

Train = Callable[[Experiment, Floor], Sequence[Sequence[Record]]]
"""Trains every replicate until a round falls below the floor; returns the committed records of each, in order."""


@dataclass(frozen=True)
class Found:
    """`records`: of the smallest round that holds, one a replicate; of the best one if none does. `reason` says which.

    `rounds`: distinct rounds that the search looked at, `epochs`: theirs together.
    """

    experiment: Experiment
    records: tuple[Record, ...]
    holds: bool
    reason: str
    rounds: int
    epochs: int


def search_density(experiment: Experiment, floor: Floor, train: Train, *, probes: int = 4) -> Found:
    """Walk the path, then halve the gap `probes` times. Chosen on validation accuracy: the median over replicates.

    Raises ConfigError for a negative number of probes.
    """
    if probes < 0:
        raise ConfigError(f"probes must be 0 or more, got {probes}")
    seen: dict[str, Record] = {}

    def look(candidate: Experiment) -> list[list[Record]]:
        """By round, the records of the replicates that got there, worst first."""
        paths = [list(path) for path in train(candidate, floor)]
        seen.update({record.key: record for path in paths for record in path})
        return [[path[r] for path in paths if r < len(path)] for r in range(max(map(len, paths)))]

    def holds(records: list[Record], dense: list[Record]) -> bool:
        floors = {record.seed: floor.of(record.metrics["val_accuracy"]) for record in dense}
        above = [record.metrics["val_accuracy"] - floors[record.seed] for record in records]
        return statistics.median([*above, *[-math.inf] * (len(dense) - len(above))]) >= 0

    rounds, densities = look(experiment), experiment.densities()
    held = 0
    while held < len(rounds) and holds(rounds[held], rounds[0]):
        held += 1

    def found(experiment: Experiment, records: list[Record], reason: str, holds: bool = True) -> Found:
        epochs = sum(record.epochs for record in seen.values())
        return Found(experiment, tuple(records), holds, reason, len(seen), epochs)

    if held == 0:
        best = max(rounds, key=lambda records: statistics.median(r.metrics["val_accuracy"] for r in records))
        reached = statistics.median(record.metrics["val_accuracy"] for record in best)
        return found(experiment, best, f"the floor is above the dense network, whose best is {reached:.2%}", False)
    if held == len(densities):
        return found(experiment, rounds[-1], "the whole path holds: make it longer to find where it ends")

    smallest, fell, best, winner = densities[held - 1], densities[held], rounds[held - 1], experiment
    shared = densities[1:held]
    for _ in range(probes):
        middle = math.sqrt(smallest * fell)
        name = f"{experiment.name[:80]}-{1 / middle:.2f}x"
        probe = replace(experiment, name=name, path=Explicit((*shared, middle)))
        tried = look(probe)
        if len(tried) == len(shared) + 2 and holds(tried[-1], tried[0]):
            smallest, best, winner = middle, tried[-1], probe
        else:
            fell = middle
    return found(winner, best, f"{1 / smallest:.2f}x holds and {1 / fell:.2f}x does not")
