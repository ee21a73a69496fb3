"""Learning-rate schedules as pure functions of the place in training, so that rewinding is a change of argument.

A place is an epoch with a fraction: step s of an epoch of n steps is epoch + s/n. Nothing is remembered between
calls: a round that rewinds to epoch 60 asks for the rate at 60.0 and gets what the original run got there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.validate import finite, fraction, tuple_of


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
        finite("StepDecay.peak", self.peak, above=0)
        object.__setattr__(self, "drops", tuple_of("StepDecay.drops", self.drops, partial(finite, above=0)))
        if list(self.drops) != sorted(set(self.drops)):
            raise ConfigError(f"StepDecay.drops must rise, got {self.drops!r}")
        fraction("StepDecay.factor", self.factor, one=True)
        finite("StepDecay.warmup_epochs", self.warmup_epochs, minimum=0)

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
        finite("Cosine.peak", self.peak, above=0)
        finite("Cosine.warmup_epochs", self.warmup_epochs, minimum=0)
        finite("Cosine.final", self.final, minimum=0, maximum=self.peak, way_out="the peak is the highest rate")

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
        finite("Constant.rate", self.rate, above=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.rate
