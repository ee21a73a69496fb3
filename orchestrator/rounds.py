"""Read the finished rounds of a path: from memory while one is on its way to storage, otherwise from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.experiment import Problem
from orchestrator.pruning.candidate import Scores, StructureSearch
from orchestrator.pruning.structure import Structure
from orchestrator.record import Record
from orchestrator.stopping import Floor
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.score_files import read_new_scores
from orchestrator.storage.store import JSON_BYTES
from orchestrator.structures import read_structure
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.work.gradients import GRADIENTS
from orchestrator.work.train import Train, Trained


class Round(Protocol):
    """A round whose result exists."""

    @property
    def key(self) -> str: ...

    @property
    def structure(self) -> Structure:
        """Return what its network has left of the dense one. Raises DamagedError."""

    @property
    def val(self) -> float:
        """Return the objective on validation data after the last epoch."""

    @property
    def workers(self) -> int:
        """Return how many workers trained it."""

    def state(self) -> TrainState:
        """Return the final state; its dictionaries may be changed."""

    def snapshot(self, epoch: int) -> TrainState:
        """Return the state after `epoch` epochs. Raises DamagedError, MissingError."""

    def has_snapshot(self, epoch: int) -> bool: ...

    def gradients(self) -> Tensors:
        """Return {name: dL/dw}. Raises DamagedError, MissingError."""

    def has_gradients(self) -> bool: ...


@dataclass(frozen=True)
class NewRound:
    """A round that has just been trained and is on its way to storage."""

    work: Train
    answer: Trained
    ledger: Ledger
    problem: Problem

    @property
    def key(self) -> str:
        return self.work.key

    @property
    def structure(self) -> Structure:
        return self.work.structure

    @property
    def val(self) -> float:
        return self.answer.val[self.problem.objective.name]

    @property
    def workers(self) -> int:
        return self.answer.workers

    def state(self) -> TrainState:
        return TrainState(dict(self.answer.state.model), dict(self.answer.state.optimizer))

    def snapshot(self, epoch: int) -> TrainState:
        return self.answer.snapshots.get(epoch) or self.ledger.snapshot(self.key, str(epoch), self._max_bytes)

    def has_snapshot(self, epoch: int) -> bool:
        return epoch in self.answer.snapshots or self.ledger.has_snapshot(self.key, str(epoch))

    def gradients(self) -> Tensors:
        return self.ledger.snapshot(self.key, GRADIENTS, self._max_bytes).model

    def has_gradients(self) -> bool:
        return self.ledger.has_snapshot(self.key, GRADIENTS)

    @property
    def _max_bytes(self) -> int:
        """Return the maximum size of a snapshot, as the record, which may not exist yet, would give it."""
        state = self.answer.state
        return sum(tensor.nbytes for part in (state.model, state.optimizer) for tensor in part.values()) + JSON_BYTES


@dataclass(frozen=True)
class StoredRound:
    """A committed round. Its tensors are read when they are first needed."""

    key: str
    ledger: Ledger
    problem: Problem

    @cached_property
    def record(self) -> Record:
        record = self.ledger.record(self.key)
        if record is None:
            raise DamagedError(f"rounds/{self.key}/record.json was there and is gone: start the job again")
        return record

    @cached_property
    def _content(self) -> tuple[TrainState, Structure]:
        try:
            structure = read_structure(self.record, self.problem)
        except ConfigError as error:
            raise DamagedError(f"rounds/{self.key}/record.json is damaged: {error}") from None
        state, masks = self.ledger.load(self.record, structure.shapes(self.problem.prunable))
        return state, structure.with_tensors(masks)

    @property
    def structure(self) -> Structure:
        return self._content[1]

    @property
    def val(self) -> float:
        return self.record.val

    @property
    def workers(self) -> int:
        return self.record.workers

    def state(self) -> TrainState:
        state, _ = self._content
        return TrainState(dict(state.model), dict(state.optimizer))

    def snapshot(self, epoch: int) -> TrainState:
        return self.ledger.snapshot(self.key, str(epoch))

    def has_snapshot(self, epoch: int) -> bool:
        return self.ledger.has_snapshot(self.key, str(epoch))

    def gradients(self) -> Tensors:
        return self.ledger.snapshot(self.key, GRADIENTS).model

    def has_gradients(self) -> bool:
        return self.ledger.has_snapshot(self.key, GRADIENTS)


@dataclass(frozen=True)
class CutRound:
    """A finished round as it is in the next round's network, whose structure is `structure`.

    This is what a technique starts from.
    """

    finished: Round
    training: TrainingConfig
    structure: Structure

    def state(self) -> TrainState:
        return TrainState(dict(self._final.model), dict(self._final.optimizer))

    @cached_property
    def _final(self) -> TrainState:
        return self.structure.apply(self.finished.state(), self.finished.structure)

    def snapshot(self, epoch: int) -> TrainState:
        return self.structure.apply(self.finished.snapshot(epoch), self.finished.structure)


class Rounds:
    """The rounds of one path, by their number; None for one that is not finished.

    `keys`: of all its rounds. `keep`: epochs of the dense run whose state is kept.
    """

    def __init__(self, keys: Sequence[str], problem: Problem, ledger: Ledger, keep: tuple[int, ...]) -> None:
        self.keys, self.problem, self.ledger, self.keep = tuple(keys), problem, ledger, keep
        self._finished: dict[str, Round] = {}
        self._scores: dict[str, dict[str, Scores]] = {}  # by round and file; a file never changes
        self._searches: dict[str, StructureSearch | None] = {}

    def __getitem__(self, index: int) -> Round | None:
        key = self.keys[index]
        if key not in self._finished and self.ledger.record(key) is not None:
            self._finished[key] = StoredRound(key, self.ledger, self.problem)
        return self._finished.get(key)

    def finished(self, index: int) -> Round:
        """Return a round that was committed or added before: every one below `next_index`."""
        found = self[index]
        assert found is not None
        return found

    def first_unfinished(self) -> int | None:
        """Return the number of the first round that is not finished, or None."""
        return next((index for index in range(len(self.keys)) if self[index] is None), None)

    def next_index(self, floor: Floor | None) -> int | None:
        """Return the number of the round that is next, or None if all are finished or the path ends at `floor`."""
        index = self.first_unfinished()
        return None if index and self._is_cut_after(index, floor) else index

    def scores(self, key: str) -> Scores:
        """Return the scores, by their digest, of all candidates that follow from the round `key`.

        Raises DamagedError, naming the file.
        """
        files = self._scores.setdefault(key, {})
        files |= read_new_scores(self.ledger.store, key, files)
        return {digest: score for _, scores in sorted(files.items()) for digest, score in scores.items()}

    def search(self, index: int, begin: Callable[[], StructureSearch | None]) -> StructureSearch | None:
        """Return the search for the structure of a round, which is begun once.

        It follows from its beginning and the scores, so that it may be begun again at any time.
        """
        key = self.keys[index]
        if key not in self._searches:
            self._searches[key] = begin()
        return self._searches[key]

    def add(self, work: Train, answer: Trained) -> None:
        """Count a round as finished that is on its way to storage."""
        self._finished[work.key] = NewRound(work, answer, self.ledger, self.problem)

    def remove(self, key: str) -> None:
        """Count a round as not finished, because it could not be stored."""
        self._finished.pop(key, None)
        self._searches.clear()  # they look at the network that was lost

    def release_before(self, index: int) -> None:
        """Keep the tensors of earlier rounds in storage only."""
        for key in self.keys[:index]:
            self._finished[key] = StoredRound(key, self.ledger, self.problem)
            self._searches.pop(key, None)

    def _is_cut_after(self, count: int, floor: Floor | None) -> bool:
        """Return whether the newest of the first `count` rounds, as many as the floor's patience, are below it."""
        if floor is None or count < floor.patience:
            return False
        finished = [self[index] for index in (0, *range(count - floor.patience, count))]
        dense, *newest = [each.val for each in finished if each is not None]
        return floor.cuts(dense, newest, self.problem.objective)
