"""The metric that decides: how its values are compared, and how they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.validate import flag, text

LOSS = "loss"  # the task's own loss per sample, token or pixel, which is measured beside the metrics

NO_GAIN = -1e6  # of a network that diverged, where the objective has no bound


@dataclass(frozen=True)
class Objective:
    """A metric's name, its better direction, and whether it is a fraction in [0, 1], which is written in per cent."""

    name: str
    higher_is_better: bool
    fraction: bool = False

    def __post_init__(self) -> None:
        text("objective", self.name)
        flag("objective.higher_is_better", self.higher_is_better)
        flag("objective.fraction", self.fraction)

    def gain(self, value: float) -> float:
        """Return a number that is larger for a better `value`: itself, or its negative."""
        return value if self.higher_is_better else -value

    @property
    def worst_gain(self) -> float:
        """The gain of a network that has none, such as one whose training diverged: finite, and below all others."""
        if self.fraction:
            return self.gain(0.0 if self.higher_is_better else 1.0)
        return NO_GAIN

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is better than the other value; NaN is not better than anything."""
        return self.gain(value) > self.gain(than)

    def text(self, value: float) -> str:
        """Return `value` as people read it: "97.31 %" for a fraction, four digits otherwise."""
        if self.fraction:
            return f"{100 * value:.2f} %"
        return f"{value:#.4g}".removesuffix(".") if math.isfinite(value) else str(value)

    @property
    def mode(self) -> Literal["max", "min"]:
        """Return the better direction, as Ray Tune names it."""
        return "max" if self.higher_is_better else "min"


ACCURACY = Objective("accuracy", higher_is_better=True, fraction=True)
