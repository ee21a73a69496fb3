"""Define the metric that decides: how its values are compared, and how they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.validate import flag, text

LOSS = "loss"  # the task's own loss per sample, token or pixel, which is measured beside the metrics

NO_GAIN = -1e6  # of a network that diverged, where the objective has no bound
# Of torchmetrics' classes whose plots span [0, 1]. The plots of correlations and of others span it too, and are wrong.
_FRACTIONS = ("torchmetrics.classification.", "torchmetrics.segmentation.")
_NO_FRACTIONS = ("MatthewsCorrCoef", "CohenKappa", "HingeLoss", "CoverageError")


@dataclass(frozen=True)
class Objective:
    """A metric's name, its better direction, and whether it is a fraction, which is written in per cent.

    A fraction is in [0, 1] if higher is better. An error rate may be above 1.
    """

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
    def limits(self) -> tuple[float, float]:
        """Return the lowest and the highest value that there can be."""
        if not self.fraction:
            return -math.inf, math.inf
        return 0.0, 1.0 if self.higher_is_better else math.inf

    @property
    def worst_gain(self) -> float:
        """Return the gain of a network without a value, because its training diverged: finite, and below all others."""
        return self.limits[0] if self.fraction and self.higher_is_better else NO_GAIN

    def is_better(self, value: float, than: float) -> bool:
        """Return whether `value` is better than the other value; NaN is never better."""
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


def is_fraction(metric: object) -> bool:
    """Return whether the values of a metric are written in per cent: what it says, or what torchmetrics' class is."""
    if (own := getattr(metric, "is_fraction", None)) is not None:
        return flag(f"is_fraction of {type(metric).__name__}", own)
    for kind in type(metric).__mro__:
        if kind.__module__.startswith("torchmetrics."):
            bounds = [getattr(kind, f"plot_{end}_bound", None) for end in ("lower", "upper")]
            known = kind.__module__.startswith(_FRACTIONS) and not kind.__name__.endswith(_NO_FRACTIONS)
            return (known and bounds == [0, 1]) or kind.__name__.endswith("ErrorRate")
    return False
