"""When a path is small enough: the accuracy that it must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.validate import fraction, whole

_ROUNDING = 1e-9  # more than a difference or a quotient may be off, less than one sample of any data set


@dataclass(frozen=True)
class Floor:
    """Validation accuracies that a round must not fall below, as fractions: a fixed one, or `drop` below dense.

    A path is cut when its newest `patience` rounds are all below. Raises ConfigError unless exactly one of the first
    two is given and in [0, 1], and patience is 1 or more.
    """

    accuracy: float | None = None
    drop: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        whole("floor.patience", self.patience, minimum=1)
        given = {name: value for name in ("accuracy", "drop") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ConfigError(f"a floor is either an accuracy or a drop below dense, got {given or 'neither'}")
        for name, value in given.items():
            fraction(f"floor.{name}", value, zero=True, one=True)

    def cuts(self, dense: float, accuracies: Sequence[float]) -> bool:
        """Whether a path goes no further that began with `dense` and whose newest rounds reached `accuracies`."""
        newest = accuracies[-self.patience :]
        return len(newest) == self.patience and all(accuracy < self.of(dense) for accuracy in newest)

    def of(self, dense: float) -> float:
        """Return the floor, given the dense network's validation accuracy: a round exactly at it is not below it."""
        if self.accuracy is not None:
            return self.accuracy - _ROUNDING
        assert self.drop is not None  # exactly one is given
        return dense - self.drop - _ROUNDING
