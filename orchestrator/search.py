"""Find the smallest density that keeps the objective's value, with few rounds.

A round holds if it is not below the floor.

1. Walk the experiment's own path until PATIENCE rounds in a row fall below the floor: one alone may be chance. Later
   rounds count too if they are in storage.
2. If the path's last round holds, lengthen the path round by round (see `longer`) until one falls below.
3. Halve the gap between the last round that held and the next one, in log compression ratio. Each probe is one round
   after the last round of the path that held.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError, DensityError
from orchestrator.experiment import Experiment
from orchestrator.pruning.counts import kept_count
from orchestrator.pruning.path import Explicit, longer
from orchestrator.record import Record
from orchestrator.stopping import Floor
from orchestrator.validate import whole

PATIENCE = 3
Train = Callable[[Experiment, Floor], Sequence[Sequence[Record]]]
"""Train every replicate until the floor cuts its path. Return all records of each path that are in storage, in order.

Raises DensityError, before any training, if the network cannot be given a density of the path.
"""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    `records`: those of the smallest round that holds, one per replicate, or of the best round if none holds (see
    `reason`). A replicate that was cut earlier on the path does not have one. `experiment`: its path contains the
    round. `rounds`, `epochs`: how many distinct rounds the search used, and their epochs together.
    """

    experiment: Experiment
    records: tuple[Record, ...]
    holds: bool
    reason: str
    rounds: int
    epochs: int


def search_density(experiment: Experiment, floor: Floor, train: Train, *, probes: int = 4) -> SearchResult:
    """Walk the path, then halve the gap `probes` times.

    A round holds if the median of the replicates' margins above their floors is not negative, on validation data.
    Raises ConfigError for a negative number of probes, or if the selection cannot have densities between two rounds.
    """
    whole("probes", probes, minimum=0)
    if probes and not experiment.selection.any_density:
        raise ConfigError(f"{experiment.selection} has only fixed densities, so probes must be 0, got {probes}")
    seen: dict[str, Record] = {}
    patient = replace(floor, patience=max(floor.patience, PATIENCE))

    def walk_path(candidate: Experiment) -> list[list[Record]]:
        """Train the path. Return for each round the records of the replicates that have all rounds up to it."""
        paths = [[record for r, record in enumerate(path) if record.round == r] for path in train(candidate, patient)]
        seen.update({record.key: record for path in paths for record in path})
        return [[path[r] for path in paths if r < len(path)] for r in range(max(map(len, paths)))]

    def result(experiment: Experiment, records: list[Record], reason: str, holds: bool = True) -> SearchResult:
        epochs = sum(record.epochs for record in seen.values())
        return SearchResult(experiment, tuple(records), holds, reason, len(seen), epochs)

    walk, name = walk_path(experiment), experiment.name[:80]
    if _held(walk, floor) == 0:
        objective = walk[0][0].objective
        best = max(walk, key=lambda records: objective.gain(_median(records)))
        return result(experiment, best, _none_holds(walk, best, floor), holds=False)
    while (held := _held(walk, floor)) == len(experiment.densities()):
        try:
            lengthened = _lengthened(experiment, f"{name}-longer", walk[0][0])
            walk = walk_path(lengthened)
        except DensityError as error:
            return result(experiment, walk[-1], f"the last round holds and a smaller one cannot be made: {error}")
        experiment = lengthened

    densities = experiment.densities()
    smallest, fell, best, winner = densities[held - 1], densities[held], walk[held - 1], experiment
    shared, total = densities[1:held], best[0].prunable
    for _ in range(probes):
        middle = math.sqrt(smallest * fell)
        if kept_count(middle, total) in (kept_count(smallest, total), kept_count(fell, total)):
            break  # the two rounds keep neighbouring numbers of weights
        probe = replace(experiment, name=f"{name}-{1 / middle:.6g}x", path=Explicit((*shared, middle)))
        tried = walk_path(probe)
        if _holds(tried[held], tried[0], floor):
            smallest, best, winner = middle, tried[held], probe
        else:
            fell = middle
    return result(winner, best, f"density {smallest:.3g} holds and {fell:.3g} does not")


def _lengthened(experiment: Experiment, name: str, dense: Record) -> Experiment:
    """Return `experiment` with one more round. Raises DensityError if that round would keep too few weights."""
    try:
        lengthened = replace(experiment, name=name, path=longer(experiment.path))
    except ConfigError as error:
        raise DensityError(str(error)) from None
    kept, layers = kept_count(lengthened.densities()[-1], dense.prunable), max(1, len(dense.layers))
    if kept < layers:
        raise DensityError(f"the next round would keep {kept} weights in {layers} layers")
    return lengthened


def _none_holds(walk: Sequence[list[Record]], best: list[Record], floor: Floor) -> str:
    dense, objective = _median(walk[0]), walk[0][0].objective
    return (
        f"the floor, {objective.text(floor.of(dense, objective))}, is better than the dense network's "
        f"{objective.text(dense)}; the best of {len(walk)} rounds, of density {best[0].density:.3g}, reaches "
        f"{objective.text(_median(best))}"
    )


def _held(walk: Sequence[list[Record]], floor: Floor) -> int:
    """Return how many rounds there are up to the last one that holds, with the dense one; 0 if none holds."""
    return max((r + 1 for r, records in enumerate(walk) if _holds(records, walk[0], floor)), default=0)


def _holds(records: list[Record], dense: list[Record], floor: Floor) -> bool:
    """Return whether a round holds; the margin of replicates without this round counts as minus infinity."""
    starts = {record.seed: record.val for record in dense}
    margins = [floor.margin(record.val, starts[record.seed], record.objective) for record in records]
    return statistics.median([*margins, *[-math.inf] * (len(dense) - len(margins))]) >= 0


def _median(records: list[Record]) -> float:
    return statistics.median(record.val for record in records)
