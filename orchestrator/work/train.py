"""Train one round: the work, its answer, a checkpoint in its middle, and what is called meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeAlias

from torch import Tensor

from orchestrator.ofa.phases import Phase
from orchestrator.ofa.spaces import Space
from orchestrator.pruning.structure import Structure
from orchestrator.schedules import Schedule
from orchestrator.train_state import Tensors, TrainState, raw_bytes


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


TakeProgress: TypeAlias = Callable[[], "Progress | None"]  # a checkpoint, on the first worker; None on the others
OnStep: TypeAlias = Callable[[TakeProgress], None]  # every worker must take the checkpoint, or none
# (work, the epoch's metrics, training samples per second over all workers, a function that takes a checkpoint)
OnEpoch: TypeAlias = Callable[["Train", EpochMetrics, float, TakeProgress], None]
OnSnapshot: TypeAlias = Callable[[int, TrainState], None]  # (epochs of the dense run, its state after them)
# (an `Evaluate`, how many candidates this worker has scored, the best score within the budget): whether to continue
OnScore: TypeAlias = Callable[[Any, int, float | None], bool]


@dataclass(frozen=True)
class Calls:
    """What a trainer calls while it does a work, and the checkpoint from which it resumes it.

    `on_epoch` is called on every worker after each epoch, `on_step` after each step, `on_snapshot` with each snapshot
    that the work wants kept, `on_score` on a worker after each candidate that it has scored.
    """

    resume: Progress | None = None
    on_epoch: OnEpoch | None = None
    on_step: OnStep | None = None
    on_snapshot: OnSnapshot | None = None
    on_score: OnScore | None = None


class TrainsRounds(Protocol):
    """A trainer, as far as `Train` needs one."""

    def train(self, work: Train, calls: Calls) -> Trained: ...


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

    answer_type: ClassVar[type[Any]] = Trained
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

    def is_current(self, index: int, scored: Callable[[str], Container[str]]) -> bool:
        """Return whether this is what round `index` needs: a round's own work is planned once."""
        return self.round == index

    def do(self, trainer: TrainsRounds, calls: Calls) -> Trained:
        """Train the round to its end, or measure it where it has no epoch."""
        return trainer.train(self, calls)

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
