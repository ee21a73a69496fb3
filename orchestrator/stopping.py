"""Decide when a path is small enough: by the value of the objective that it must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.objective import Objective
from orchestrator.validate import finite, fraction, whole

_ROUNDING = 1e-9  # more than a difference or a quotient may be off, less than one sample of any data set


@dataclass(frozen=True)
class Floor:
    """Set the worst validation objective that a path accepts: a fixed `target`, or `drop` worse than dense.

    Both are in the objective's own unit, not in per cent. A path is cut when its newest `patience` rounds are
    all worse. Raises ConfigError unless exactly one of the first two is given, drop is 0 or more and patience 1 or
    more.
    """

    target: float | None = None
    drop: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        whole("floor.patience", self.patience, minimum=1)
        given = {name: value for name in ("target", "drop") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ConfigError(f"a floor is either a target or a drop below dense, got {given or 'neither'}")
        for name, value in given.items():
            finite(f"floor.{name}", value, minimum=0 if name == "drop" else None)

    def check(self, objective: Objective) -> None:
        """Raise ConfigError if the floor lies outside the values that `objective` can have."""
        for name in ("target", "drop") if objective.fraction else ():
            if (value := getattr(self, name)) is None:
                continue
            if objective.higher_is_better:
                fraction(f"floor.{name}", value, zero=True, one=True)
            else:
                finite(f"floor.{name}", value, minimum=0)  # an error rate may be above 1

    def cuts(self, dense: float, values: Sequence[float], objective: Objective) -> bool:
        """Return whether a path ends here that began with `dense` and whose newest rounds reached `values`."""
        newest = values[-self.patience :]
        return len(newest) == self.patience and all(self.margin(value, dense, objective) < 0 for value in newest)

    def margin(self, value: float, dense: float, objective: Objective) -> float:
        """Return how much better `value` is than the floor; a round exactly at it is not below it."""
        return objective.gain(value) - objective.gain(self.of(dense, objective)) + _ROUNDING

    def of(self, dense: float, objective: Objective) -> float:
        """Return the floor, given the dense network's value."""
        if self.target is not None:
            return self.target
        assert self.drop is not None  # exactly one is given
        return objective.gain(objective.gain(dense) - self.drop)
