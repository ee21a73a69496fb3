"""Define learning-rate schedules as pure functions of the place in training, so that rewinding changes an argument.

A place is an epoch with a fraction: step s of an epoch of n steps is epoch + s/n. A schedule has no state: a round
that rewinds to epoch 60 asks for the rate at 60.0 and gets the rate of the original run.
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
        """Return the learning rate at `epoch` (0.0 = the first step) of a dense run of `epochs` epochs."""
        ...


@dataclass(frozen=True)
class StepDecay:
    """Warm up linearly from 0 to `peak`, then multiply by `factor` at each epoch of `drops`.

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
    """Warm up linearly from 0 to `peak`, then follow half a cosine to `final` (Loshchilov and Hutter 2017, eq. 5)."""

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
    """Warm up linearly from 0 to `peak`, then follow a straight line to 0."""

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
    """Warm up linearly from 0 to the highest rate of `original`, then squeeze all of it into the remaining epochs.

    `original_epochs`: the length of the run for which `original` was made. Its warm-up is not repeated: the rate stays
    at its highest until the place where `original` reaches it.
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
        place = round(done * self.original_epochs, 9)  # rounded, so that a drop is not one step late
        return rates.highest if place < rates.peak_epoch else self.original.lr_at(place, self.original_epochs)


@dataclass(frozen=True)
class OfLength:
    """Follow `schedule` over `epochs` epochs, independent of the length of the dense run."""

    schedule: Schedule
    epochs: int

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.schedule.lr_at(epoch, self.epochs)


@dataclass(frozen=True)
class Rescaled:
    """Stretch `schedule`, which was made for a run of `epochs` epochs, to the length of the dense run.

    The warm-up and the drops move in proportion. All rates are multiplied by `factor`.
    """

    schedule: Schedule
    epochs: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        whole("Rescaled.epochs", self.epochs, minimum=1)
        finite("Rescaled.factor", self.factor, above=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        place = round(epoch * self.epochs / epochs, 9)  # rounded, so that a drop is not one step late
        return self.factor * self.schedule.lr_at(place, self.epochs)


@dataclass(frozen=True)
class Constant:
    """Keep the same rate throughout."""

    rate: float

    def __post_init__(self) -> None:
        finite("Constant.rate", self.rate, above=0)

    def lr_at(self, epoch: float, epochs: int) -> float:
        return self.rate


@dataclass(frozen=True)
class RateRange:
    """The highest rate of a schedule, the epoch where it is first reached, and the lowest rate from there on."""

    highest: float
    peak_epoch: float
    lowest: float

    @staticmethod
    def of(schedule: Schedule, epochs: int) -> RateRange:
        """Return the range of `schedule` without its warm-up, over a dense run of `epochs` epochs."""
        rates = sampled_rates(schedule, epochs)
        peak, highest = max(rates, key=lambda place: place[1])
        return RateRange(highest, peak, min(rate for epoch, rate in rates if epoch >= peak))


def sampled_rates(schedule: Schedule, epochs: int) -> list[tuple[float, float]]:
    """Return (epoch, rate) at every hundredth of an epoch, at the end of the warm-up and at the last instant."""
    places = {step / 100 for step in range(100 * epochs)}
    places |= {getattr(schedule, "warmup_epochs", 0.0), math.nextafter(epochs, 0)}
    return [(epoch, schedule.lr_at(epoch, epochs)) for epoch in sorted(places)]
