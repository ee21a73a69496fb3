"""Which network to take of all that may be compared, and which ones are worth a look: on validation accuracy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.formatting import compression, percent, size
from orchestrator.report.summary import TOLERANCE, Row, is_good


@dataclass(frozen=True)
class Choice:
    """The recommended row, the dense row that it is held against, and the least validation accuracy asked of it."""

    row: Row
    dense: Row
    least: float
    good: int
    looked_at: int

    @property
    def reason(self) -> str:
        """Why this one, in a sentence."""
        row, dense = self.row, percent(self.dense.validation.median)
        if row.round == 0:
            return (
                f"No pruned network keeps a validation accuracy of {percent(self.least)} %, half a point below the "
                f"dense network's {dense} %: the dense network is what to take so far."
            )
        return (
            f"Of the {self.looked_at:,} rounds of this network and data, {self.good:,} have a validation accuracy of "
            f"at least {percent(self.least)} %, half a point below the dense network's {dense} %; "
            f"of those this one keeps the fewest weights ({row.weights_kept:,} of {row.weights:,}, "
            f"{compression(row.compression)}, {size(row.bytes)}), with {percent(row.validation.median)} %."
        )


def choose(rows: Sequence[Row]) -> Choice | None:
    """The row with the fewest weights whose median validation accuracy is at most half a point below the dense one.

    Of several dense networks the best counts. The row must have every seed of its own dense round; of equally small
    ones the better on validation is taken. Test accuracy takes no part in it. None before a dense round has finished.
    """
    dense_rows = {row.experiment: row for row in rows if row.round == 0}
    if not dense_rows:
        return None
    dense = max(dense_rows.values(), key=lambda row: row.validation.median)
    least = dense.validation.median - TOLERANCE
    good = [row for row in rows if row.experiment in dense_rows and is_good(row, dense_rows[row.experiment], least)]
    row = min(good, key=lambda row: (row.weights_kept, -row.validation.median, row.experiment, row.round))
    return Choice(row, dense, least, len(good), len(rows))


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in validation accuracy and in bytes at once, by size.

    A row is beaten by one that is no larger and no less accurate, and better in one of the two. Of equals the first.
    """
    front: list[Row] = []
    best = -math.inf
    for row in sorted(rows, key=lambda row: (row.bytes, -row.validation.median)):
        if row.validation.median > best:
            best = row.validation.median
            front.append(row)
    return front
