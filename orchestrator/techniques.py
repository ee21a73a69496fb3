"""Retraining techniques: where a round's weights and its place in the schedule come from.

Each is a small dataclass with `start(dense, parent)`; a new one is a new class and nothing elsewhere. T is the
epochs of the dense run, t those of retraining, and dense@e the dense run's state after epoch e.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.errors import ConfigError
from orchestrator.schedules import Constant, Schedule
from orchestrator.training.config import TrainingConfig
from orchestrator.validate import one_of, whole
from orchestrator.work import TrainState


class FinishedRound(Protocol):
    """A round whose result exists: what a technique may start from."""

    @property
    def training(self) -> TrainingConfig: ...

    def state(self) -> TrainState:
        """The final weights, buffers and optimizer state (already masked); a fresh copy of the dictionaries."""
        ...

    def snapshot(self, epoch: int) -> TrainState:
        """The same after `epoch` epochs; of the dense round, and only for the epoch that `rewinds_to` names."""
        ...


@dataclass(frozen=True)
class Start:
    """Where a round begins: its state, which the driver masks, and its place in the dense run's schedule.

    A state of None is a fresh initialisation, another one in every round.
    """

    state: TrainState | None
    schedule: Schedule
    first_epoch: int
    epochs: int


class RetrainingTechnique(Protocol):
    """Derive from it for a technique of your own: a frozen dataclass with `start`, and the other two where needed."""

    def check(self, training: TrainingConfig) -> None:
        """Raise ConfigError if the technique cannot retrain what `training` trains."""
        return

    def rewinds_to(self, training: TrainingConfig) -> int | None:
        """The epoch of the dense run whose snapshot `start` reads (0: the initialisation); None: it reads none."""
        return None

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start: ...


@dataclass(frozen=True)
class LearningRateRewinding(RetrainingTechnique):
    """Keep the trained weights, rewind the learning rate by `epochs` (Renda, Frankle, Carbin 2020, section 3).

    `epochs` is the paper's t; None means all T of the dense run, warm-up included. `optimizer_state="kept"` goes
    on with the parent's masked momentum, as the authors' code does.
    """

    epochs: int | None = None
    optimizer_state: Literal["kept", "fresh"] = "kept"

    def check(self, training: TrainingConfig) -> None:
        check_epochs(self, self.epochs, training)
        one_of(f"{type(self).__name__}.optimizer_state", self.optimizer_state, ["kept", "fresh"])

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        state = parent.state()
        if self.optimizer_state == "fresh":
            state = TrainState(state.model)
        epochs = self.epochs or dense.training.epochs
        return Start(state, dense.training.schedule, dense.training.epochs - epochs, epochs)


@dataclass(frozen=True)
class FineTuning(LearningRateRewinding):
    """Keep the trained weights and train `epochs` more at the dense run's last learning rate (Han et al. 2015)."""

    def check(self, training: TrainingConfig) -> None:
        super().check(training)
        last_rate(training)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return dataclasses.replace(super().start(dense, parent), schedule=last_rate(dense.training))


@dataclass(frozen=True)
class WeightRewinding(RetrainingTechnique):
    """Rewind weights, norm statistics, optimizer state and learning rate to dense@(T-t), t = `epochs`.

    Frankle, Dziugaite, Roy and Carbin 2019; Renda, Frankle, Carbin 2020, section 3. `epochs=None` is t = T, a rewind
    to the initialisation: the lottery ticket of Frankle and Carbin 2019.
    """

    epochs: int | None = None

    def check(self, training: TrainingConfig) -> None:
        check_epochs(self, self.epochs, training)

    def rewinds_to(self, training: TrainingConfig) -> int:
        return training.epochs - (self.epochs or training.epochs)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        first = self.rewinds_to(dense.training)
        return Start(dense.snapshot(first), dense.training.schedule, first, dense.training.epochs - first)


@dataclass(frozen=True)
class LowRateWeightRewinding(WeightRewinding):
    """Control: weights rewound to dense@(T-t), but trained at the last learning rate."""

    def check(self, training: TrainingConfig) -> None:
        super().check(training)
        last_rate(training)

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return dataclasses.replace(super().start(dense, parent), schedule=last_rate(dense.training))


@dataclass(frozen=True)
class RandomReinitialisation(RetrainingTechnique):
    """Control: the mask stays, the weights are drawn anew; the whole schedule (Frankle and Carbin 2019, section 2)."""

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        return Start(None, dense.training.schedule, 0, dense.training.epochs)


def last_rate(training: TrainingConfig) -> Constant:
    """The learning rate of the dense run's last epoch, at its beginning, for ever.

    At its end, a schedule such as `Cosine` is as good as 0. Raises ConfigError where it is 0 at the beginning too.
    """
    rate = training.schedule.lr_at(training.epochs - 1, training.epochs)
    if not rate > 0:
        raise ConfigError(
            f"the schedule's last epoch must begin at a learning rate above 0 to be retrained at, got {rate} at epoch "
            f"{training.epochs - 1} of {training.schedule}: shorten its warm-up or train for more epochs"
        )
    return Constant(rate)


def check_epochs(technique: RetrainingTechnique, epochs: int | None, training: TrainingConfig) -> None:
    """Raise ConfigError unless `epochs` is None or lies within the dense run."""
    if epochs is not None:
        way_out = f"the dense run has {training.epochs} epochs"
        whole(f"{type(technique).__name__}.epochs", epochs, minimum=1, maximum=training.epochs, way_out=way_out)


def check_rewind(epoch: object, training: TrainingConfig) -> None:
    """Raise ConfigError unless the dense run has a state after `epoch` epochs that is not its last."""
    way_out = f"the dense run has {training.epochs} epochs"
    whole("an epoch to rewind to", epoch, minimum=0, maximum=training.epochs - 1, way_out=way_out)
