"""How a network is trained: a frozen value, validated when built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import ConfigError
from orchestrator.schedules import Schedule, is_number
from orchestrator.training.optimizer import SGD, Optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The dense run's training; retraining uses a part of it.

    `batch_size` is global: the workers share it. `clip_norm` bounds the norm of the whole (masked) gradient.
    """

    epochs: int
    batch_size: int
    schedule: Schedule
    optimizer: Optimizer = field(default_factory=SGD)
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
                raise ConfigError(f"training.{name} must be a whole number of 1 or more, got {value!r}")
        for name, method in (("schedule", "lr_at"), ("optimizer", "build")):
            value = getattr(self, name)
            if not dataclasses.is_dataclass(value) or not callable(getattr(value, method, None)):
                raise ConfigError(f"training.{name} must be a dataclass with {method}(), got {value!r}")
        for name in ("channels_last", "compile"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"training.{name} must be True or False, got {value!r}")
        warmup = getattr(self.schedule, "warmup_epochs", 0)
        if warmup and warmup >= self.epochs:
            raise ConfigError(f"warmup_epochs must be below training.epochs, {self.epochs}, got {warmup}")
        if self.clip_norm is not None and not (is_number(self.clip_norm) and self.clip_norm > 0):
            raise ConfigError(f"training.clip_norm must be None or above 0, got {self.clip_norm!r}")
        if not (is_number(self.label_smoothing) and 0 <= self.label_smoothing < 1):
            raise ConfigError(f"training.label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"training.precision must be 'fp32' or 'bf16', got {self.precision!r}")
