"""How a report names, writes, judges and draws the values of an objective: accuracy, perplexity, a user's own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import percent, points, shorten
from orchestrator.objective import Objective

TOLERANCE = 0.005  # half a point: how much worse than dense a recommended network may be, if values are fractions
RELATIVE_TOLERANCE = 0.01  # of the dense network's value, for every other objective
MAX_NAME = 40
MAX_AXIS_NAME = 22  # characters of the objective's name that labels and titles of pictures have space for
MAX_TICKS = 6
_ROUNDING = 1e-6  # of the tolerance: rounding in binary fractions must not decide a tie


@dataclass(frozen=True)
class Spread:
    """Hold the median, minimum and maximum of a number over the seeds."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median and range of `values`, which must not be empty."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Quantity:
    """Put the values of `objective` into words. Fractions are written in per cent, their differences in points."""

    objective: Objective

    @property
    def name(self) -> str:
        """Return the objective's name as people read it, on one line: `bits per character`."""
        return shorten(self.objective.name.replace("_", " "), MAX_NAME)

    @property
    def unit(self) -> str:
        """Return what follows a number: " %" for fractions, "" otherwise."""
        return " %" if self.objective.fraction else ""

    @property
    def direction(self) -> str:
        """Return `lower is better`; "" where higher is better, which a reader expects."""
        return "" if self.objective.higher_is_better else "lower is better"

    @property
    def legend(self) -> str:
        """Return what the numbers of a table are: `accuracy in per cent`, `bits per character, lower is better`."""
        name = f"{self.name} in per cent" if self.objective.fraction else self.name
        return f"{name}, {self.direction}" if self.direction else name

    @property
    def points(self) -> str:
        """Return what differences are counted in, to be put into a sentence: `, in points` for fractions."""
        return ", in points" if self.objective.fraction else ""

    @property
    def allowance(self) -> str:
        """Return how much worse than dense a recommended network may be: `half a point below`, `1 % above`."""
        amount = "half a point" if self.objective.fraction else f"{RELATIVE_TOLERANCE:.0%}".replace("%", " %")
        return f"{amount} {'below' if self.objective.higher_is_better else 'above'}"

    @property
    def lost(self) -> str:
        """Say that a network is worse than it may be: `more than half a point below the dense one`."""
        return f"more than {self.allowance} the dense one"

    @property
    def bound(self) -> str:
        """Return which kind of limit the floor is: `at least` or `at most`."""
        return "at least" if self.objective.higher_is_better else "at most"

    @property
    def rule(self) -> str:
        """Return the sentences that say which network is recommended."""
        return (
            f"recommended: the network with the fewest weights of those whose validation {self.name} is at most "
            f"{self.allowance} the dense one's. Test {self.name} is shown, never used to choose."
        )

    def column(self, data: str) -> str:
        """Return the title of a column of `data`: `val %` for fractions, else `val`."""
        return f"{data}{self.unit}"

    def number(self, value: float) -> str:
        """Return `value` without its unit: `97.31`, or four digits of what is not a fraction, as in `1.930`."""
        return percent(value) if self.objective.fraction else f"{value:#.4g}".removesuffix(".")

    def text(self, value: float) -> str:
        """Return `value` with its unit: `97.31 %`, `1.930`."""
        return f"{self.number(value)}{self.unit}"

    def decimals(self, value: float) -> int:
        """Return how many decimals `number` shows of values that are not fractions and as large as `value`."""
        return min(max(3 - math.floor(math.log10(abs(value))), 0), 12) if value else 3

    def difference(self, difference: float, value: float) -> str:
        """Return a difference between values as large as `value`: `+0.42` points of fractions, else `-0.021`."""
        if self.objective.fraction:
            return points(difference)
        text = f"{difference:+.{self.decimals(value)}f}"
        return text[1:] if float(text) == 0 else text

    def tolerance(self, dense: float) -> float:
        """Return how much worse than `dense` a recommended network may be."""
        return TOLERANCE if self.objective.fraction else RELATIVE_TOLERANCE * abs(dense)

    def floor(self, dense: float) -> float:
        """Return the worst value that a recommended network may have."""
        return self.objective.gain(self.objective.gain(dense) - self.tolerance(dense))

    def reaches_floor(self, value: float, dense: float) -> bool:
        """Return whether `value` is at the floor or better. NaN is not."""
        slack = (1 + _ROUNDING) * self.tolerance(dense)
        return self.objective.gain(value) >= self.objective.gain(dense) - slack


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
        return shorten(self.quantity.name, MAX_AXIS_NAME)

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
        from matplotlib.ticker import MaxNLocator

        ends = sorted((self.drawn_gain(worst), self.drawn_gain(best)))
        least, greatest = self.gain_bounds
        ticks = [float(tick) for tick in MaxNLocator(MAX_TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)]
        inside = [tick for tick in ticks if ends[0] <= tick <= ends[1] and least <= self.drawn_gain(tick) <= greatest]
        axes.set_yticks(inside, [f"{tick:g}{self.quantity.unit}" for tick in inside])
        axes.set_ylim(*ends)
        direction = self.quantity.direction
        axes.set_ylabel(f"{data} {self.name}" + (f"\n({direction})" if direction else ""))
