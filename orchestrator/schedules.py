"""Learning-rate schedules as pure functions of the place in training, so that rewinding is a change of argument.

A place is an epoch with a fraction: step s of an epoch of n steps is epoch + s/n. Nothing is remembered between
calls: a round that rewinds to epoch 60 asks for the rate at 60.0 and gets what the original run got there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import ConfigError


class Schedule(Protocol):
    def lr_at(self, epoch: float, epochs: int) -> float:
        """Learning rate at `epoch` (0 = the first step, fractions count) of a dense run of `epochs` epochs."""
        ...


@dataclass(frozen=True)
class StepDecay:
    """Linear warm-up from 0 to `peak`, then a multiplication by `factor` at each epoch of `drops`.

    The schedule of He et al. 2016 (CIFAR-10) and of Goyal et al. 2017 (ImageNet).
    """

    peak: float
    drops: tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        _check_rate("StepDecay.peak", self.peak)
        _check_warmup("StepDecay.warmup_epochs", self.warmup_epochs)
        drops = tuple(self.drops) if isinstance(self.drops, tuple | list) else (None,)
        if not all(is_number(drop) and drop > 0 for drop in drops) or list(drops) != sorted(set(drops)):
            raise ConfigError(f"StepDecay.drops must be rising epochs above 0, got {self.drops!r}")
        object.__setattr__(self, "drops", drops)
        if not (is_number(self.factor) and 0 < self.factor <= 1):
            raise ConfigError(f"StepDecay.factor must be in (0, 1], got {self.factor!r}")

    def lr_at(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup_epochs:
            return self.peak * epoch / self.warmup_epochs
        return self.peak * self.factor ** sum(epoch >= drop for drop in self.drops)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0 to `peak`, then half a cosine to `final` (Loshchilov and Hutter 2017, equation 5)."""

    peak: float
    warmup_epochs: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate("Cosine.peak", self.peak)
        _check_warmup("Cosine.warmup_epochs", self.warmup_epochs)
        if not (is_number(self.final) and 0 <= self.final <= self.peak):
            raise ConfigError(f"Cosine.final must be between 0 and the peak {self.peak}, got {self.final}")

    def lr_at(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup_epochs:
            return self.peak * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate("Constant.rate", self.rate)

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.rate


def _check_rate(field: str, value: float) -> None:
    if not (is_number(value) and value > 0):
        raise ConfigError(f"{field} must be a finite learning rate above 0, got {value!r}")


def _check_warmup(field: str, value: float) -> None:
    if not (is_number(value) and value >= 0):
        raise ConfigError(f"{field} must be 0 or more epochs, got {value!r}")


def is_number(value: object) -> bool:
    """A finite int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
