"""What a report says: one row per round and experiment, the median over its seeds, and which round to take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from orchestrator.formatting import name_largest, percent
from orchestrator.record import Record

TOLERANCE = 0.005  # half a point of accuracy
RULE = (
    "recommended: the network with the fewest weights of those whose validation accuracy is at most half a point below "
    "the dense one's. Test accuracy is shown, never used to choose."
)


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest value over the seeds; accuracies as fractions."""

    median: float
    low: float
    high: float

    def text(self, seeds: int) -> str:
        """Return `97.31`, or `97.31 (96.97..97.64)` over several seeds."""
        middle = percent(self.median)
        return middle if seeds < 2 else f"{middle} ({percent(self.low)}..{percent(self.high)})"


@dataclass(frozen=True)
class Row:
    """One round of one experiment over its seeds. `epochs`, `cost`, `seconds` and `bytes` (of the model) are medians.

    `cost`: epochs of retraining spent on the path up to this round, those of the dense round not counted.
    `weights_kept`, a median too, is of all `weights`, of which some are `prunable`; `unpruned` names the other tensors,
    with their numbers of weights.
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
    cost: int
    seconds: float
    bytes: int
    recommended: bool = False

    @property
    def compression(self) -> float:
        return self.weights / self.weights_kept  # some selections keep more than was asked for

    @property
    def prunable_share(self) -> str | None:
        """What share of the weights is prunable, and which ones are not, in a sentence; None where all are."""
        if not self.unpruned:
            return None
        return (
            f"Compression counts all {self.weights:,} weights, of which {self.prunable / self.weights:.1%} are "
            f"prunable; these are not: {name_largest(self.unpruned)}."
        )


def summary(records: Iterable[Record]) -> list[Row]:
    """One row per experiment, round and density, in that order.

    Recommended is, in each experiment with a dense round, the row with the fewest weights among those that every
    seed of the dense round has finished and whose median validation accuracy is no worse than the dense median
    minus half a point. Test accuracy takes no part in it.
    """
    groups: dict[tuple[str, int, float, str], list[Record]] = {}
    records = list(records)
    for record in records:
        groups.setdefault((record.experiment, record.round, -record.density, record.technique), []).append(record)
    spent = search_cost(records)
    rows = [_row(groups[key], spent) for key in sorted(groups)]
    marked: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row.experiment):
        of_one = list(group)
        best = _recommended(of_one)
        marked += [replace(row, recommended=True) if row is best else row for row in of_one]
    return marked


def search_cost(records: Iterable[Record]) -> dict[str, int]:
    """Epochs of retraining from the dense round to each record's key, through its parents."""
    spent: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record.round):
        before = spent.get(record.parent, 0) if record.parent else 0
        spent[record.key] = before + record.epochs if record.round else 0
    return spent


def _row(records: Sequence[Record], spent: Mapping[str, int]) -> Row:
    first = records[0]
    return Row(
        experiment=first.experiment,
        round=first.round,
        technique=first.technique,
        density=first.density,
        prunable=first.prunable,
        weights=first.weights,
        weights_kept=round(statistics.median(record.weights_kept for record in records)),
        unpruned={name: size for name, (_, size) in first.unpruned.items()},
        seeds=tuple(sorted({record.seed for record in records})),
        validation=spread_of([record.metrics["val_accuracy"] for record in records]),
        test=spread_of([record.metrics["test_accuracy"] for record in records]),
        epochs=round(statistics.median(record.epochs for record in records)),
        cost=round(statistics.median(spent[record.key] for record in records)),
        seconds=statistics.median(record.seconds for record in records),
        bytes=round(statistics.median(record.model_bytes for record in records)),
    )


def _recommended(rows: Sequence[Row]) -> Row | None:
    dense = next((row for row in rows if row.round == 0), None)
    if dense is None:
        return None
    good = [row for row in rows if is_good(row, dense, dense.validation.median - TOLERANCE)]
    return min(good, key=lambda row: (row.weights_kept, row.round), default=None)


def is_good(row: Row, dense: Row, least: float) -> bool:
    """Whether `row` has every seed of the dense row that its path began with, and a median validation of `least`."""
    enough = row.validation.median >= least - 1e-9  # a tie must not hang on the last bit of a fraction
    return enough and set(row.seeds) >= set(dense.seeds)


def spread_of(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))
