"""How a report names, writes and judges the values of an objective: accuracy, bits per character, a user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.formatting import percent, points, shorten
from orchestrator.objective import Objective

TOLERANCE = 0.005  # half a point: how much worse than dense a recommended network may be, if values are fractions
RELATIVE_TOLERANCE = 0.01  # of the dense network's value, for every other objective
MAX_NAME = 40
_ROUNDING = 1e-6  # of the tolerance: rounding in binary fractions must not decide a tie


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
