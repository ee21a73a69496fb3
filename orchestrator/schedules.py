"""Learning-rate schedules as pure functions of the place in training, so that rewinding is a change of argument.

A place is an epoch with a fraction: step s of an epoch of n steps is epoch + s/n. Nothing is remembered between
calls: a round that rewinds to epoch 60 asks for the rate at 60.0 and gets what the original run got there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.validate import finite, fraction, tuple_of, whole


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
class Linear:
    """Linear warm-up from 0 to `peak`, then a straight line to 0."""

    peak: float
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        finite("Linear.peak", self.peak, above=0)
        finite("Linear.warmup_epochs", self.warmup_epochs, minimum=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup_epochs:
            return self.peak * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12)
        return self.peak * max(1 - done, 0.0)


@dataclass(frozen=True)
class Squeezed:
    """Linear warm-up from 0 to the highest rate of `original`, then all of `original` in the epochs that are left.

    `original_epochs`: the length of the run that `original` was made for. The warm-up of `original` is not repeated:
    until its highest rate is reached, the rate is that one.
    """

    original: Schedule
    original_epochs: int
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        finite("Squeezed.warmup_epochs", self.warmup_epochs, minimum=0)

    @cached_property
    def _range(self) -> RateRange:
        return RateRange.of(self.original, self.original_epochs)

    def lr_at(self, epoch: float, epochs: int) -> float:
        rates = self._range
        if epoch < self.warmup_epochs:
            return rates.highest * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-12)
        place = round(done * self.original_epochs, 9)  # so that a drop falls on its step and not one later
        return rates.highest if place < rates.peak_epoch else self.original.lr_at(place, self.original_epochs)


@dataclass(frozen=True)
class OfLength:
    """`schedule` over a run of `epochs` epochs, whatever the length of the dense run."""

    schedule: Schedule
    epochs: int

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.schedule.lr_at(epoch, self.epochs)


@dataclass(frozen=True)
class Rescaled:
    """`schedule`, which was made for a run of `epochs` epochs, in the shape it has there, for a run of another length.

    The warm-up and the drops move in proportion. All rates are multiplied by `factor`.
    """

    schedule: Schedule
    epochs: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        whole("Rescaled.epochs", self.epochs, minimum=1)
        finite("Rescaled.factor", self.factor, above=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        place = round(epoch * self.epochs / epochs, 9)  # so that a drop falls on its step and not one later
        return self.factor * self.schedule.lr_at(place, self.epochs)


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    rate: float

    def __post_init__(self) -> None:
        finite("Constant.rate", self.rate, above=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.rate


@dataclass(frozen=True)
class RateRange:
    """The highest rate of a schedule, where it is first reached, and the lowest from there on."""

    highest: float
    peak_epoch: float
    lowest: float

    @staticmethod
    def of(schedule: Schedule, epochs: int) -> RateRange:
        """Return the range of `schedule` over a dense run of `epochs` epochs, which leaves out its warm-up."""
        rates = sampled_rates(schedule, epochs)
        peak, highest = max(rates, key=lambda place: place[1])
        return RateRange(highest, peak, min(rate for epoch, rate in rates if epoch >= peak))


def sampled_rates(schedule: Schedule, epochs: int) -> list[tuple[float, float]]:
    """Return (epoch, rate) at every hundredth of an epoch, at the end of the warm-up and at the last instant."""
    places = {step / 100 for step in range(100 * epochs)}
    places |= {getattr(schedule, "warmup_epochs", 0.0), math.nextafter(epochs, 0)}
    return [(epoch, schedule.lr_at(epoch, epochs)) for epoch in sorted(places)]
