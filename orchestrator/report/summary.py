"""One row per round of an experiment, the medians over its seeds, and which round is recommended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from orchestrator.formatting import compression, name_largest, percent, size
from orchestrator.record import Record

TOLERANCE = 0.005  # half a point of accuracy
RECOMMENDATION_RULE = (
    "recommended: the network with the fewest weights of those whose validation accuracy is at most half a point below "
    "the dense one's. Test accuracy is shown, never used to choose."
)


@dataclass(frozen=True)
class Spread:
    """Hold the median, minimum and maximum of a quantity over the seeds. Accuracies are fractions."""

    median: float
    low: float
    high: float

    def text(self, seeds: int) -> str:
        """Return `97.31`, or `97.31 (96.97..97.64)` for several seeds."""
        middle = percent(self.median)
        return middle if seeds < 2 else f"{middle} ({percent(self.low)}..{percent(self.high)})"


@dataclass(frozen=True)
class Row:
    """Describe one round of one experiment over its seeds.

    `weights_kept`, `epochs`, `retraining_epochs`, `seconds` and `bytes` (of the model file) are medians.
    `retraining_epochs` counts the path up to this round, without the dense round. `weights` are all weights, of which
    `prunable` may be removed. `unpruned` names the other tensors and their numbers of weights.
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

    A recommended row needs a validation accuracy of `min_validation`. `acceptable` of all `candidates` rows have it.
    """

    row: Row
    dense: Row
    min_validation: float
    acceptable: int
    candidates: int

    @property
    def reason(self) -> str:
        """Explain the recommendation in one sentence."""
        row, dense = self.row, percent(self.dense.validation.median)
        if row.round == 0:
            return (
                f"No pruned network keeps a validation accuracy of {percent(self.min_validation)} %, half a point "
                f"below the dense network's {dense} %: the dense network is what to take so far."
            )
        return (
            f"Of the {self.candidates:,} rounds of this network and data, {self.acceptable:,} have a validation "
            f"accuracy of at least {percent(self.min_validation)} %, half a point below the dense network's {dense} %; "
            f"of those this one keeps the fewest weights ({row.weights_kept:,} of {row.weights:,}, "
            f"{compression(row.compression)}, {size(row.bytes)}), with {percent(row.validation.median)} %."
        )


def summary(records: Iterable[Record]) -> list[Row]:
    """Return one row per experiment, round and density, in that order, with one row per experiment recommended.

    An experiment without a dense round has no recommended row. Test accuracy is never used to choose.
    """
    groups: dict[tuple[str, int, float, str], list[Record]] = {}
    records = list(records)
    for record in records:
        groups.setdefault((record.experiment, record.round, -record.density, record.technique), []).append(record)
    epochs = retraining_epochs(records)
    rows = [_row(groups[key], epochs) for key in sorted(groups)]
    marked: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row.experiment):
        of_experiment = list(group)
        best = _best_of_experiment(of_experiment)
        marked += [replace(row, recommended=True) if row is best else row for row in of_experiment]
    return marked


def recommend(rows: Sequence[Row]) -> Recommendation | None:
    """Choose one row of several experiments on the same model and data. Return None if no dense round has finished.

    The row with the fewest weights is chosen among those that are at most half a point of median validation accuracy
    below the best dense row. A row must have every seed of the dense round of its own experiment. Of two rows of equal
    size the more accurate one on validation is chosen. Test accuracy is never used.
    """
    dense_rows = {row.experiment: row for row in rows if row.round == 0}
    if not dense_rows:
        return None
    dense = max(dense_rows.values(), key=lambda row: row.validation.median)
    minimum = dense.validation.median - TOLERANCE
    acceptable = [
        row for row in rows if row.experiment in dense_rows and _is_acceptable(row, dense_rows[row.experiment], minimum)
    ]
    row = min(acceptable, key=lambda row: (row.weights_kept, -row.validation.median, row.experiment, row.round))
    return Recommendation(row, dense, minimum, len(acceptable), len(rows))


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows for which no other row is both smaller in bytes and more accurate on validation, by size.

    A row is left out if another one is at least as good in both and better in one. Of equal rows the first is kept.
    """
    front: list[Row] = []
    best = -math.inf
    for row in sorted(rows, key=lambda row: (row.bytes, -row.validation.median)):
        if row.validation.median > best:
            best = row.validation.median
            front.append(row)
    return front


def retraining_epochs(records: Iterable[Record]) -> dict[str, int]:
    """Return for each record's key the epochs of retraining from the dense round to it, through its parents."""
    epochs: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record.round):
        before = epochs.get(record.parent, 0) if record.parent else 0
        epochs[record.key] = before + record.epochs if record.round else 0
    return epochs


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median and range of `values`, which must not be empty."""
    return Spread(statistics.median(values), min(values), max(values))


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
    acceptable = [row for row in rows if _is_acceptable(row, dense, dense.validation.median - TOLERANCE)]
    return min(acceptable, key=lambda row: (row.weights_kept, row.round), default=None)


def _is_acceptable(row: Row, dense: Row, min_validation: float) -> bool:
    """Return whether `row` has all seeds of its dense round and a median validation accuracy of `min_validation`."""
    # Rounding in binary fractions must not decide a tie.
    accurate = row.validation.median >= min_validation - 1e-9
    return accurate and set(row.seeds) >= set(dense.seeds)
