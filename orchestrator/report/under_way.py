"""Say what is under way in a storage: the next round of each experiment, who trains it, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.formatting import MAX_NAMES
from orchestrator.storage.claims import living
from orchestrator.storage.experiments import StoredExperiment
from orchestrator.storage.progress import places
from orchestrator.storage.store import Store

PATIENCE_SECONDS = 600.0  # more than the clocks of this machine and of the storage differ


@dataclass(frozen=True)
class NextRound:
    """The first round of an experiment that is not finished. `owner` is None if no living job has claimed it."""

    experiment: StoredExperiment
    number: int
    finished: int
    owner: str | None
    checkpoint: tuple[int, int] | None

    @property
    def line(self) -> str:
        """Say who trains it."""
        last = len(self.experiment.keys) - 1
        return f"{name_of(self.experiment)}: round {self.number} of {last} is trained by {self.owner}, {self.safe}"

    @property
    def safe(self) -> str:
        """Say which part of the round a checkpoint covers."""
        return safe_part(self.checkpoint)


def safe_part(checkpoint: tuple[int, int] | None) -> str:
    """Say how many epochs, and steps of the next one, a checkpoint covers."""
    return f"{checkpoint[0]} epochs and {checkpoint[1]} steps are safe" if checkpoint else "from its beginning"


def name_of(experiment: StoredExperiment) -> str:
    """Return the name of one path of an experiment."""
    return f"{experiment.name}, seed {experiment.seed}"


def round_names(experiments: Iterable[StoredExperiment]) -> dict[str, str]:
    """Return {key: "digits, seed 0: round 2"}; a round that several experiments share has the name of the first."""
    names: dict[str, str] = {}
    for experiment in experiments:
        for number, key in enumerate(experiment.keys):
            names.setdefault(key, f"{name_of(experiment)}: round {number}")
    return names


def next_rounds(store: Store, experiments: Iterable[StoredExperiment], finished: Collection[str]) -> list[NextRound]:
    """Return the next round of each experiment that is not finished. `finished`: keys. Raises StorageError."""
    files, _ = store.files("claims/")
    open_claims = [file for file in files if file.path.split("/")[1] not in finished]
    owners, checkpoints = living(store, open_claims, time.time(), PATIENCE_SECONDS), places(store)
    found = []
    for experiment in experiments:
        if missing := experiment.missing(finished):
            key = experiment.keys[missing[0]]
            done = len(experiment.keys) - len(missing)
            found.append(NextRound(experiment, missing[0], done, owners.get(key), checkpoints.get(key)))
    return found


def lines(rounds: Iterable[NextRound], failures: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Yield a line for each round that is being trained, and one for all paths that no job trains.

    Those in `failures` are left out of the latter, because they have lines of their own.
    """
    idle = []
    failed = {(failure.get("experiment"), failure.get("seed")) for failure in failures}
    for each in rounds:
        if each.owner is not None:
            yield each.line
        elif (each.experiment.name, each.experiment.seed) not in failed:
            idle.append(each)
    if idle:
        named = [
            f"{name_of(each.experiment)} ({each.finished} of {len(each.experiment.keys)} rounds"
            + (f", {each.safe})" if each.checkpoint else ")")
            for each in idle[:MAX_NAMES]
        ]
        more = f", and {len(idle) - MAX_NAMES} more" if len(idle) > MAX_NAMES else ""
        yield f"not finished, and no job trains it now (the same command goes on): {'; '.join(named)}{more}"
