"""Write an objective's values in words, one row per round of an experiment, and choose the recommended round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from orchestrator.formatting import compression, name_largest, percent, points, shorten, size
from orchestrator.objective import Objective
from orchestrator.record import Record

TOLERANCE = 0.005  # half a point: how much worse than dense a recommended network may be, if values are fractions
RELATIVE_TOLERANCE = 0.01  # of the dense network's value, for every other objective
MAX_NAME = 40  # characters of the objective's name
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


@dataclass(frozen=True)
class Row:
    """Describe one round of one experiment over its seeds.

    `validation` and `test` are values of the objective, which `quantity` puts into words. `weights_kept`, `epochs`,
    `retraining_epochs`, `seconds` and `bytes` (of the model file) are medians. `retraining_epochs` counts the path up
    to this round, without the dense round. `weights` are all weights, of which `prunable` may be removed. `unpruned`
    names the other tensors and their numbers of weights.
    """

    experiment: str
    round: int
    technique: str
    density: float
    prunable: int
    weights: int
    weights_kept: int
    unpruned: Mapping[str, int]
    seeds: tuple[int, ...]
    quantity: Quantity
    validation: Spread
    test: Spread
    epochs: int
    retraining_epochs: int
    seconds: float
    bytes: int
    recommended: bool = False

    @property
    def compression(self) -> float:
        return self.weights / self.weights_kept  # not 1 / density: some selections keep more than was asked for

    @property
    def gain(self) -> float:
        """Return a number that is larger for a row that is better on validation."""
        return self.quantity.objective.gain(self.validation.median)

    def text(self, spread: Spread) -> str:
        """Return `validation` or `test` without the unit: `97.31`, or `97.31 (96.97..97.64)` for several seeds."""
        number = self.quantity.number
        middle = number(spread.median)
        return middle if len(self.seeds) < 2 else f"{middle} ({number(spread.low)}..{number(spread.high)})"

    @property
    def prunable_share(self) -> str | None:
        """Say which share of the weights is prunable and which tensors are not. None if all weights are prunable."""
        if not self.unpruned:
            return None
        return (
            f"Compression counts all {self.weights:,} weights, of which {self.prunable / self.weights:.1%} are "
            f"prunable; these are not: {name_largest(self.unpruned)}."
        )


@dataclass(frozen=True)
class Recommendation:
    """Name the recommended row, the dense row that it is compared with, and what it was chosen from.

    `floor` is the worst validation value of the objective that a recommended row may have. `acceptable` of all
    `candidates` rows reach it.
    """

    row: Row
    dense: Row
    floor: float
    acceptable: int
    candidates: int

    @property
    def warning(self) -> str | None:
        """Say that the recommended network loses more on test data than it may on validation data. None if it does not.

        The choice stays: test data must not make it.
        """
        row, dense, quantity = self.row, self.dense, self.row.quantity
        if row.round == 0 or quantity.reaches_floor(row.test.median, dense.test.median):
            return None
        difference = quantity.difference(row.test.median - dense.test.median, dense.test.median)
        return (
            f"On test data the recommended network is {quantity.lost}: {quantity.text(row.test.median)}, the dense one "
            f"{quantity.text(dense.test.median)} ({difference}{quantity.points}). It was chosen on validation data "
            "alone, where it is within the tolerance. Look at the rounds before it, or train more seeds."
        )

    @property
    def reason(self) -> str:
        """Explain the recommendation."""
        row, quantity = self.row, self.row.quantity
        needed = (
            f"a validation {quantity.name} of {quantity.bound} {quantity.text(self.floor)}, {quantity.allowance} the "
            f"dense network's {quantity.text(self.dense.validation.median)}"
        )
        if row.round == 0:
            return f"No pruned network has {needed}: use the dense network for now."
        return (
            f"{self.acceptable:,} of {self.candidates:,} rounds have {needed}. This one keeps the fewest weights of "
            f"them: {row.weights_kept:,} of {row.weights:,} ({compression(row.compression)}, {size(row.bytes)}), at "
            f"{quantity.text(row.validation.median)}."
        )


def summary(records: Iterable[Record]) -> list[Row]:
    """Return one row per experiment, round and density, in that order, with one row per experiment recommended.

    An experiment without a dense round has no recommended row. Seeds of one experiment that have different objectives
    are rows of their own, as if they were two experiments. Test data is never used to choose.
    """
    groups: dict[tuple[str, tuple[str, bool, bool], int, float, str], list[Record]] = {}
    records = list(records)
    for record in records:
        measured = (record.objective.name, record.objective.higher_is_better, record.objective.fraction)
        which = (record.experiment, measured, record.round, -record.density, record.technique)
        groups.setdefault(which, []).append(record)
    epochs = retraining_epochs(records)
    rows = [_row(groups[which], epochs) for which in sorted(groups)]
    marked: list[Row] = []
    for of_experiment in by_experiment(rows):
        best = _best_of_experiment(of_experiment)
        marked += [replace(row, recommended=True) if row is best else row for row in of_experiment]
    return marked


def options_of(record: Record, setting: str) -> dict[str, Any]:
    """Return a setting of `record` that consists of options; {} if the record has no such setting."""
    options = record.settings.get(setting)
    return options if isinstance(options, dict) else {}


def by_experiment(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each experiment and objective, in the order of `rows`."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.experiment, row.quantity))]


def recommend(rows: Sequence[Row]) -> Recommendation | None:
    """Choose one row of several experiments on the same model, data and task. Return None without a dense round.

    The row with the fewest weights is chosen among those whose median validation value of the objective is within the
    tolerance of the best dense row's. A row must have every seed of the dense round of its own experiment. Of two rows
    of equal size the one that is better on validation is chosen. Test data is never used.
    """
    dense_rows = {row.experiment: row for row in rows if row.round == 0}
    if not dense_rows:
        return None
    dense = max(dense_rows.values(), key=lambda row: row.gain)
    value = dense.validation.median
    acceptable = [
        row for row in rows if row.experiment in dense_rows and _is_acceptable(row, dense_rows[row.experiment], value)
    ]
    row = min(acceptable, key=lambda row: (row.weights_kept, -row.gain, row.experiment, row.round))
    return Recommendation(row, dense, dense.quantity.floor(value), len(acceptable), len(rows))


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows for which no other row is both smaller in bytes and better on validation, by size.

    A row is left out if another one is at least as good in both and better in one. Of equal rows the first is kept.
    """
    front: list[Row] = []
    best = -math.inf
    for row in sorted(rows, key=lambda row: (row.bytes, -row.gain)):
        if row.gain > best:
            best = row.gain
            front.append(row)
    return front


def retraining_epochs(records: Iterable[Record]) -> dict[str, int]:
    """Return for each record's key the epochs of retraining from the dense round to it, through its parents."""
    epochs: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record.round):
        before = epochs.get(record.parent, 0) if record.parent else 0
        epochs[record.key] = before + record.epochs if record.round else 0
    return epochs


def _row(records: Sequence[Record], epochs: Mapping[str, int]) -> Row:
    first = records[0]
    return Row(
        experiment=first.experiment,
        round=first.round,
        technique=first.technique,
        density=first.density,
        prunable=first.prunable,
        weights=first.weights,
        weights_kept=round(statistics.median(record.weights_kept for record in records)),
        unpruned={name: total for name, (_, total) in first.unpruned.items()},
        seeds=tuple(sorted({record.seed for record in records})),
        quantity=Quantity(first.objective),
        validation=spread_of([record.val for record in records]),
        test=spread_of([record.test for record in records]),
        epochs=round(statistics.median(record.epochs for record in records)),
        retraining_epochs=round(statistics.median(epochs[record.key] for record in records)),
        seconds=statistics.median(record.seconds for record in records),
        bytes=round(statistics.median(record.model_bytes for record in records)),
    )


def _best_of_experiment(rows: Sequence[Row]) -> Row | None:
    dense = next((row for row in rows if row.round == 0), None)
    if dense is None:
        return None
    acceptable = [row for row in rows if _is_acceptable(row, dense, dense.validation.median)]
    return min(acceptable, key=lambda row: (row.weights_kept, row.round), default=None)


def _is_acceptable(row: Row, dense: Row, value: float) -> bool:
    """Return whether `row` has all seeds of its dense round, and a median within the tolerance of a dense `value`."""
    return row.quantity.reaches_floor(row.validation.median, value) and set(row.seeds) >= set(dense.seeds)
