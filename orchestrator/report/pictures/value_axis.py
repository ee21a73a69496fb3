"""The vertical axis of pictures that show values of an objective, whichever direction is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from orchestrator.formatting import shorten
from orchestrator.report.quantity import TOLERANCE, Quantity
from orchestrator.report.summary import Spread

LEFT = 0.98  # inches beside the axes, for its label
MAX_NAME = 22  # characters of the objective's name that labels and titles have space for


class ValueAxis:
    """Turn values of an objective into numbers to draw, and set up the axis.

    Numbers grow upwards, as readers expect, and the label says where lower is better. The caller computes the ends of
    the axis in gains, which are larger where values are better, so one computation serves both directions. Drawn
    numbers and gains of fractions are in per cent. `tolerance` is how much worse than the best of `values` a
    recommended network may be, or a small number if the best is zero: a measure for the height of the axis.
    """

    def __init__(self, quantity: Quantity, values: Iterable[float]) -> None:
        self.quantity, self._objective, values = quantity, quantity.objective, list(values)
        self._factor = 100 if self._objective.fraction else 1
        best, largest = max(values, key=self._objective.gain), max(values, key=abs)
        self.tolerance = self._factor * (quantity.tolerance(best) or quantity.tolerance(largest) or TOLERANCE)

    @property
    def name(self) -> str:
        """Return the objective's name, as long as there is space for."""
        return shorten(self.quantity.name, MAX_NAME)

    @property
    def worse_edge(self) -> int:
        """Return the edge of the axes where values are worst: 0 for the bottom, 1 for the top."""
        return 0 if self._objective.higher_is_better else 1

    @property
    def gain_bounds(self) -> tuple[float, float]:
        """Return the worst and the best gain that there can be."""
        worst, best = sorted(map(self.gain, self._objective.limits))
        return worst, best

    def drawn(self, value: float) -> float:
        """Return the number that stands for `value` on the axis."""
        return self._factor * value

    def gain(self, value: float) -> float:
        """Return the gain of `value`."""
        return self._objective.gain(self.drawn(value))

    def gains(self, spread: Spread) -> tuple[float, float]:
        """Return the worst and the best gain of a spread over seeds."""
        worst, best = sorted((self.gain(spread.low), self.gain(spread.high)))
        return worst, best

    def drawn_gain(self, gain: float) -> float:
        """Return the number that stands for a value of this gain on the axis."""
        return self._objective.gain(gain)  # undoes itself

    def rounded_down(self, gain: float) -> float:
        """Return a gain of few digits that is not above `gain`."""
        step = 10.0 ** math.ceil(math.log10(self.tolerance))
        return math.floor(gain / step) * step

    def set_up(self, axes: Any, worst: float, best: float, data: str) -> None:
        """Give `axes` these gains as ends, and a label that says which `data` was measured on and what is better."""
        axes.set_ylim(*sorted((self.drawn_gain(worst), self.drawn_gain(best))))
        axes.yaxis.set_major_formatter(lambda number, _: self._tick(number))
        direction = self.quantity.direction
        axes.set_ylabel(f"{data} {self.name}" + (f"\n({direction})" if direction else ""))

    def _tick(self, number: float) -> str:
        worst, best = self.gain_bounds
        return f"{number:g}{self.quantity.unit}" if worst <= self.drawn_gain(number) <= best else ""
