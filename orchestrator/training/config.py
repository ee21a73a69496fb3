"""Define how a network is trained: a frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.errors import ConfigError
from orchestrator.schedules import Rescaled, Schedule
from orchestrator.training.optimizer import SGD, Optimizer
from orchestrator.validate import dataclass_with, finite, flag, fraction, one_of, whole


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hold the settings of the dense run's training; retraining uses a part of it.

    `batch_size` is global: the workers share it. `clip_norm` bounds the norm of the whole (masked) gradient.

    `accumulate` saves memory: a worker splits its share of each batch into that many parts and adds up their gradients
    before the one step of the optimizer. The gradient is still the mean over all `batch_size` samples. Batch
    normalisation sees one part at a time: its statistics are those of fewer samples, and its running statistics move
    once for each part.

    `ema`, such as 0.999, is the decay of an exponential moving average of the weights and of the running statistics;
    None keeps no average. After step n = 0, 1, ... of each round, average += (1 - d) * (weights - average) with d =
    min(ema, (1 + n) / (10 + n)). The average begins at the weights that the round starts from. The averaged network is
    evaluated, and is the result of the round: pruning looks at it, the next round starts from it, and in distillation
    it teaches. The optimizer's state, and the snapshots that weights are rewound to, are those of the network that is
    trained.
    """

    epochs: int
    batch_size: int
    schedule: Schedule
    optimizer: Optimizer = field(default_factory=SGD)
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        whole("training.epochs", self.epochs, minimum=1)
        whole("training.batch_size", self.batch_size, minimum=1)
        whole("training.accumulate", self.accumulate, minimum=1, maximum=self.batch_size, way_out="it divides a batch")
        dataclass_with("training.schedule", self.schedule, ["lr_at"])
        dataclass_with("training.optimizer", self.optimizer, ["build"])
        warmup = finite("training.schedule.warmup_epochs", getattr(self.schedule, "warmup_epochs", 0), minimum=0)
        if warmup >= self.epochs:
            raise ConfigError(f"warmup_epochs must be below training.epochs, {self.epochs}, got {warmup}")
        if self.clip_norm is not None:
            finite("training.clip_norm", self.clip_norm, above=0, way_out="None does not clip")
        if self.ema is not None:
            fraction("training.ema", self.ema)
        one_of("training.precision", self.precision, ["fp32", "bf16"])
        flag("training.channels_last", self.channels_last)
        flag("training.compile", self.compile)

    def shortened(self, epochs: int, batch_size: int | None = None) -> TrainingConfig:
        """Return the same training in `epochs` epochs, with batches of `batch_size`; None keeps their size.

        The learning rate shrinks in proportion to the batch (Goyal et al. 2017, section 2.1).
        """
        batch_size = batch_size or self.batch_size
        return replace(
            self,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=min(self.accumulate, batch_size),
            schedule=Rescaled(self.schedule, self.epochs, batch_size / self.batch_size),
        )
