"""Read `experiments/<name>.<seed>.json`, which lists the rounds of an experiment."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from orchestrator.decode import decode
from orchestrator.errors import DamagedError
from orchestrator.record import Record
from orchestrator.sealed import unseal
from orchestrator.storage.store import JSON_BYTES, MissingError, Store, listed, read_each

FILE = re.compile(r"experiments/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.-?[0-9]+\.json")  # files of other names are ignored
WAY_OUT = "run its job again, which writes it anew"


@dataclass(frozen=True)
class StoredExperiment:
    """Hold the path of an experiment and seed. `rewinds_to`: epochs of its dense round; None if the file has none."""

    file: str
    name: str
    seed: int
    keys: tuple[str, ...]
    rewinds_to: tuple[int, ...] | None = None

    @property
    def is_misnamed(self) -> bool:
        """Return whether the file has the name of another experiment, because it is a copy."""
        return self.file != f"experiments/{self.name}.{self.seed}.json"

    @property
    def misnamed(self) -> str:
        """Return the message about a file with a wrong name."""
        return f"{self.file} is damaged: it is the path of {self.name!r:.100}, seed {self.seed}; delete it"

    def missing(self, finished: Collection[str]) -> list[int]:
        """Return the indices of the rounds that are not among the `finished` keys."""
        return [index for index, key in enumerate(self.keys) if key not in finished]


def read_experiments(store: Store, problems: list[str] | None = None) -> list[StoredExperiment]:
    """Read every experiment, in the order of the file names.

    Appends a sentence to `problems` for each that cannot be read; without `problems` the first one raises StorageError.
    """
    files = filter(FILE.fullmatch, listed(store, "experiments/", problems))
    return read_each(store, lambda file: read_experiment(store, file), files, problems)


def read_experiment(store: Store, file: str) -> StoredExperiment:
    """Read one experiment. Raises DamagedError, naming `file`, if it does not list the experiment's rounds."""
    try:
        content = {**unseal(store.read(file, JSON_BYTES)), "file": file}
        experiment = decode(StoredExperiment, content, more_fields=True)
        return replace(experiment, keys=tuple(dict.fromkeys(experiment.keys)))
    except ValueError as error:
        raise DamagedError(f"{file} does not say which rounds an experiment has ({error!s:.200}): {WAY_OUT}") from error


def stored_path(store: Store, name: str, seed: int) -> tuple[str, ...]:
    """Return the keys that experiment `name` had when it last ran in `store`; () if it never ran or is unreadable."""
    try:
        return read_experiment(store, f"experiments/{name}.{seed}.json").keys
    except (DamagedError, MissingError):
        return ()


def contradiction(experiment: StoredExperiment, records: Iterable[Record]) -> str | None:
    """Return a sentence on a finished round that contradicts the file of `experiment`, or None."""
    if experiment.is_misnamed:
        return experiment.misnamed
    finished = {record.key: record for record in records}
    for index, key in enumerate(experiment.keys):
        record, parent = finished.get(key), experiment.keys[index - 1] if index else None
        if record and (record.round, record.seed, record.parent) != (index, experiment.seed, parent):
            return f"{experiment.file} has rounds/{key} as its round {index}, but its record disagrees: {WAY_OUT}"
    return None


def gap(experiment: StoredExperiment, finished: Collection[str]) -> str | None:
    """Return a sentence if a round of `experiment` is not among the `finished` keys although a later one is."""
    missing = experiment.missing(finished)
    if missing and missing[0] < len(experiment.keys) - len(missing):
        return (
            f"{experiment.file} has rounds/{experiment.keys[missing[0]]} as its round {missing[0]}: it is missing or "
            "damaged, though later ones are finished; restore it, or run the job again, which trains it again"
        )
    return None


def without_file(experiments: Iterable[StoredExperiment], records: Iterable[Record]) -> dict[str, str]:
    """Return {file: a sentence} for each experiment and seed that has trained a round but is not in `experiments`."""
    named = {(experiment.name, experiment.seed) for experiment in experiments}
    trained = {(record.experiment, record.seed): None for record in records}
    files = [f"experiments/{name:.200}.{seed}.json" for name, seed in trained if (name, seed) not in named]
    return {file: f"{file} is missing, though rounds were trained for it: {WAY_OUT}" for file in files}
