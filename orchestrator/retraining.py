"""Retraining techniques: where a round's weights and its place in the schedule come from.

Each is a small dataclass with `start(dense, parent)`; a new one is a new class here and nothing elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.errors import ConfigError
from orchestrator.rounds import TrainState
from orchestrator.training.config import TrainingConfig
from orchestrator.training.lr import Schedule


class FinishedRound(Protocol):
    """A round whose result exists: what a technique may start from."""

    @property
    def training(self) -> TrainingConfig: ...

    def state(self) -> TrainState:
        """The final weights, buffers and optimizer state (already masked); a fresh copy of the dictionaries."""
        ...


@dataclass(frozen=True)
class Start:
    """Where a round begins: its state, which the driver masks, and its place in the dense run's schedule."""

    state: TrainState
    schedule: Schedule
    first_epoch: int
    epochs: int


class RetrainingTechnique(Protocol):
    def check(self, training: TrainingConfig) -> None:
        """Raise ConfigError if the technique cannot retrain what `training` trains."""
        ...

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start: ...


@dataclass(frozen=True)
class LearningRateRewinding:
    """Keep the trained weights, rewind the learning rate by `epochs` (Renda, Frankle, Carbin 2020, section 3).

    `epochs` is the paper's t; None means all T of the dense run, warm-up included. `optimizer_state="kept"` goes
    on with the parent's masked momentum, as the authors' code does.
    """

    epochs: int | None = None
    optimizer_state: Literal["kept", "fresh"] = "kept"

    def check(self, training: TrainingConfig) -> None:
        check_epochs(self, self.epochs, training)
        if self.optimizer_state not in ("kept", "fresh"):
            raise ConfigError(f"optimizer_state must be 'kept' or 'fresh', got {self.optimizer_state!r}")

    def start(self, dense: FinishedRound, parent: FinishedRound) -> Start:
        state = parent.state()
        if self.optimizer_state == "fresh":
            state = TrainState(state.model)
        epochs = self.epochs or dense.training.epochs
        return Start(state, dense.training.schedule, dense.training.epochs - epochs, epochs)


def check_epochs(technique: RetrainingTechnique, epochs: int | None, training: TrainingConfig) -> None:
    """Raise ConfigError unless `epochs` is None or lies within the dense run."""
    if epochs is not None and not (isinstance(epochs, int) and 1 <= epochs <= training.epochs):
        name = type(technique).__name__
        raise ConfigError(f"{name}.epochs must be in 1..{training.epochs}, the epochs of the dense run, got {epochs}")
