"""Define what the driver asks of a trainer: a round, a snapshot, gradients, or scores of candidates.

| work        | answer                                         |
| ----------- | ---------------------------------------------- |
| `Train`     | `Trained`                                      |
| `Snapshot`  | `TrainState`, that of the dense run            |
| `Gradients` | `Tensors`, by the name of their weights        |
| `Evaluate`  | `Scored`, by the digest of their candidates    |
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor

from orchestrator.ofa.phases import Phase
from orchestrator.ofa.spaces import Space
from orchestrator.pruning.candidate import Generation, Scores, Scoring
from orchestrator.pruning.structure import Structure
from orchestrator.schedules import Schedule
from orchestrator.train_state import Tensors, TrainState, raw_bytes

GRADIENTS = "gradients"  # name of their file among a round's snapshots
SCORES = "scores"
_WORK_KEY = re.compile(rf"(.+)-(?:({GRADIENTS}|{SCORES}(?:-[0-9a-f]+)?)|epoch([0-9]+))")


def snapshot_key(round_key: str, epoch: int) -> str:
    """Return the key of the work that replays a round's first `epoch` epochs."""
    return f"{round_key}-epoch{epoch}"


def gradients_key(round_key: str) -> str:
    """Return the key of the work that computes the gradients at the end of a round."""
    return f"{round_key}-{GRADIENTS}"


def scores_key(round_key: str, name: str) -> str:
    """Return the key of the work that scores candidates of a round; `name` is that of the scores' file."""
    return f"{round_key}-{SCORES}-{name}"


def claim_key(key: str) -> str:
    """Return what is claimed for the work with this key: all scores of a round together, else the work itself.

    Generations of two searches may share candidates. So one search of a round scores at a time, with all workers, and
    the next one finds its scores in storage.
    """
    round_key, name = split_key(key)
    return f"{round_key}-{SCORES}" if name and name.startswith(SCORES) else key


def split_key(key: str) -> tuple[str, str | None]:
    """Return the key of the round that a work's key belongs to, and the name of what the work makes beside it.

    The name is None for the work that trains the round.
    """
    match = _WORK_KEY.fullmatch(key)
    return (match[1], match[2] or match[3]) if match else (key, None)


def answer_file(key: str) -> str:
    """Return the file that is in storage when the work with this key is done."""
    round_key, name = split_key(key)
    if name is None:
        return f"rounds/{key}/record.json"
    if name.startswith(f"{SCORES}-"):
        return f"scores/{round_key}/{name.removeprefix(f'{SCORES}-')}.json"
    return f"snapshots/{round_key}/{name}.safetensors"


@dataclass(frozen=True)
class Train:
    """Train one round.

    `first_epoch` is the place in the dense run's schedule where the round begins, `epochs` how many epochs it runs.
    `start` None is a fresh initialisation that follows from `seed` and `round`. `structure`: what is left of the dense
    network, whose tensors `start` holds. `keep`: epochs of the dense run after which the answer must hold a snapshot.
    `constants`: digests of tensors that the dense network must begin with (see `constants_of`). `teacher`: the dense
    round's final model, where that teaches. `proof`: what the search that found the structure says of itself.
    `phase`: that of a round that trains a supernet, and the space of its networks. `calibration`: the key of a supernet
    and a number of training samples, which batch norm is measured on before the round begins. `quantise`: whether the
    round ends with quantisation-aware epochs.
    """

    key: str
    parent: str | None
    round: int
    rounds: int
    density: float
    kept: int
    prunable: int
    seed: int
    schedule: Schedule
    first_epoch: int
    epochs: int
    start: TrainState | None
    structure: Structure
    keep: tuple[int, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    teacher: TrainState | None = None
    proof: Mapping[str, Any] | None = None
    phase: tuple[Phase, Space] | None = None
    calibration: tuple[str, int] | None = None
    quantise: bool = False

    @property
    def round_key(self) -> str:
        """Return the key of the round that the work belongs to."""
        return self.key

    @property
    def training(self) -> Train:
        """Return the work with the epochs to train."""
        return self

    def origin(self) -> str:
        """Return a digest of the weights and masks that the round starts from, and of its teacher.

        A round's key says what they should be; a parent that was lost and trained again elsewhere may have other bits.
        """
        digest = hashlib.sha256()
        teacher = [self.teacher.model] if self.teacher else []
        for tensors in (self.start.model if self.start else {}, self.structure.tensors(), *teacher):
            for name, tensor in sorted(tensors.items()):  # storage gives them in another order
                digest.update(name.encode())
                digest.update(raw_bytes(tensor))
        return digest.hexdigest()

    def split(self) -> tuple[Train, Any]:
        """Return this work without its tensors, and the tensors, which travel apart from it on a cluster."""
        light = replace(self, start=None, structure=self.structure.with_tensors({}), teacher=None)
        return light, (self.start, self.structure.tensors(), self.teacher)

    def joined(self, tensors: Any) -> Train:
        """Return this work with the tensors that `split` took away."""
        start, masks, teacher = tensors
        return replace(self, start=start, structure=self.structure.with_tensors(masks), teacher=teacher)


@dataclass(frozen=True)
class Snapshot:
    """Replay the beginning of the dense run, whose state after `epoch` epochs was not kept.

    `replay` trains those epochs under this work's key. `workers`: as many must train it, because another number would
    give other bits; None: any number may.
    """

    round_key: str
    epoch: int
    replay: Train
    workers: int | None

    @staticmethod
    def of(dense: Train, epoch: int, workers: int) -> Snapshot:
        """Return the work for the snapshot of `dense` after `epoch` epochs, of a run that `workers` trained."""
        replay = replace(dense, key=snapshot_key(dense.key, epoch), epochs=epoch, keep=())
        return Snapshot(dense.key, epoch, replay, workers if epoch else None)  # the initialisation needs no training

    @property
    def key(self) -> str:
        return self.replay.key

    @property
    def training(self) -> Train:
        """Return the work with the epochs to train."""
        return self.replay

    def split(self) -> tuple[Snapshot, Any]:
        """Return this work: it has no tensors."""
        return self, None

    def joined(self, tensors: Any) -> Snapshot:
        """Return this work: it has no tensors."""
        return self


@dataclass(frozen=True)
class Gradients:
    """Compute the gradients of the mean training loss at the end of a finished round, for a criterion that reads them.

    `round`, `state` and `structure` are those of the finished round, as in `Train`.
    """

    round_key: str
    round: int
    seed: int
    state: TrainState
    structure: Structure

    @property
    def key(self) -> str:
        return gradients_key(self.round_key)

    @property
    def training(self) -> None:
        """Return None: no epochs are trained."""

    def split(self) -> tuple[Gradients, Any]:
        """Return this work without its tensors, and the tensors, which travel apart from it on a cluster."""
        light = replace(self, state=TrainState({}), structure=self.structure.with_tensors({}))
        return light, (self.state, self.structure.tensors())

    def joined(self, tensors: Any) -> Gradients:
        """Return this work with the tensors that `split` took away."""
        state, masks = tensors
        return replace(self, state=state, structure=self.structure.with_tensors(masks))


@dataclass(frozen=True)
class Evaluate:
    """Score a generation of candidates, which follow from a finished round and have no round of their own.

    `round`, `state` and `structure` are those of the finished round. `rounds`: how many the path has.
    """

    round_key: str
    round: int
    rounds: int
    state: TrainState
    structure: Structure
    scoring: Scoring
    generation: Generation

    @property
    def name(self) -> str:
        """Return the name of the scores' file: a digest of the candidates, whose digests hold the settings."""
        digests = sorted(candidate.digest for candidate in self.generation.candidates)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:24]

    @property
    def key(self) -> str:
        return scores_key(self.round_key, self.name)

    @property
    def training(self) -> None:
        """Return None: no epochs of a round are trained."""

    def split(self) -> tuple[Evaluate, Any]:
        """Return this work without its tensors, and the tensors, which travel apart from it on a cluster."""
        tensors = tuple(candidate.structure.tensors() for candidate in self.generation.candidates)
        light = self._with(TrainState({}), self.structure.with_tensors({}), tuple({} for _ in tensors))
        return light, (self.state, self.structure.tensors(), tensors)

    def joined(self, tensors: Any) -> Evaluate:
        """Return this work with the tensors that `split` took away."""
        state, masks, candidates = tensors
        return self._with(state, self.structure.with_tensors(masks), candidates)

    def _with(self, state: TrainState, structure: Structure, tensors: tuple[Tensors, ...]) -> Evaluate:
        pairs = zip(self.generation.candidates, tensors, strict=True)
        candidates = tuple(candidate.with_tensors(masks) for candidate, masks in pairs)
        generation = replace(self.generation, candidates=candidates)
        return replace(self, state=state, structure=structure, generation=generation)


@dataclass(frozen=True)
class Scored:
    """The answer to `Evaluate`: the scores of its candidates by their digest, or of some if the workers had to stop."""

    scores: Scores


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch of a round.

    `lr`: at its first step. `train_loss`: per sample, token or pixel, as the task counts. `val`: the task's metrics on
    validation data after the epoch, and the loss as "loss".
    """

    epoch: int
    lr: float
    train_loss: float
    val: Mapping[str, float]

    def numbers(self) -> dict[str, float]:
        """Return all of them by name, as a record and a log have them: val_loss, val_perplexity, ..."""
        val = {f"val_{name}": value for name, value in self.val.items()}
        return {"epoch": self.epoch, "lr": self.lr, "train_loss": self.train_loss, **val}


@dataclass(frozen=True)
class Trained:
    """The answer to `Train`.

    `state`: of the averaged model, where the training has one. `test`: the final network's metrics on test data, and
    the loss as "loss". `seconds`: time spent on it, over the attempts that it goes back to. `snapshots`: the state
    after each epoch of the work's `keep` that this attempt passed. `start_val`: validation metrics of a round that
    trained no epoch, whose `history` is empty. `processor`: the name of the first worker's, its GPU where it has one.
    `int8`: what quantisation-aware epochs gave, as a record has it.
    """

    state: TrainState
    history: tuple[EpochMetrics, ...]
    test: Mapping[str, float]
    seconds: float
    samples_per_second: float
    attempts: int = 1
    workers: int = 1
    processor: str = ""
    snapshots: Mapping[int, TrainState] = field(default_factory=dict)
    start_val: Mapping[str, float] | None = None
    int8: Mapping[str, float] | None = None

    @property
    def val(self) -> Mapping[str, float]:
        """Return the final network's metrics on validation data."""
        if self.history:
            return self.history[-1].val
        assert self.start_val is not None  # a trainer measures what it does not train
        return self.start_val

    def split(self) -> tuple[Trained, Any]:
        """Return this answer without its tensors, and the tensors, which travel apart from it on a cluster."""
        return replace(self, state=TrainState({}), snapshots={}), (self.state, dict(self.snapshots))

    def joined(self, tensors: Any) -> Trained:
        """Return this answer with the tensors that `split` took away."""
        state, snapshots = tensors
        return replace(self, state=state, snapshots=snapshots)


Work: TypeAlias = Train | Snapshot | Gradients | Evaluate
Answer: TypeAlias = Trained | TrainState | Tensors | Scored


@dataclass(frozen=True)
class Progress:
    """A round in its middle: enough to go on with the same bits, after `epochs_done` epochs and `steps_done` steps.

    `parts` (workers, n), float64: in the middle of an epoch, what each worker has of its own: running statistics, then
    the sum and the count of its losses. `origin`: see `Train.origin`. `average`: the tensors of the averaged model,
    where the training has one; `state` is that of the trained one, and `parts` has the statistics of both.
    """

    key: str
    epochs_done: int
    state: TrainState
    history: tuple[EpochMetrics, ...]
    seconds: float
    attempts: int
    steps_done: int = 0
    parts: Tensor | None = None
    origin: str = ""
    average: Tensors | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.epochs_done, self.steps_done
