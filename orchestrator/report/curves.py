"""What happened inside the rounds of an experiment: learning curves, and where its weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.record import Record
from orchestrator.report.summary import Row, Spread, spread_of


@dataclass(frozen=True)
class RoundCurve:
    """One round, epoch by epoch, each a spread over the seeds. `start`: epochs trained on the path before it."""

    row: Row
    start: int
    val_accuracy: list[Spread]
    train_loss: list[Spread]


@dataclass(frozen=True)
class LayerDensity:
    """One prunable tensor: its name, its weights, and the fraction of them that is kept, over the seeds."""

    name: str
    weights: int
    density: Spread


def round_curves(records: Sequence[Record], rows: Sequence[Row]) -> list[RoundCurve]:
    """The rounds of one experiment, its `rows`, one after the other; a round without history is left out."""
    found: list[RoundCurve] = []
    start = 0
    for row in rows:
        histories = [record.history for record in _of(records, row) if record.history]
        # Seeds of one round train the same number of epochs; if they did not, what all of them have is shown.
        epochs = list(zip(*histories, strict=False))
        if epochs:
            curves = [
                [spread_of([of_seed[name] for of_seed in epoch]) for epoch in epochs]
                for name in ("val_accuracy", "train_loss")
            ]
            found.append(RoundCurve(row, start, *curves))
        start += row.epochs
    return found


def layers(records: Sequence[Record], row: Row) -> list[LayerDensity]:
    """The layers of one network in the order of the model, as far as every seed has them."""
    seeds = [record.layers for record in _of(records, row)]
    return [
        LayerDensity(name, weights, spread_of([layers[name][0] / weights for layers in seeds]))
        for name, (_, weights) in (seeds[0] if seeds else {}).items()
        if weights and all(name in layers for layers in seeds)
    ]


def _of(records: Sequence[Record], row: Row) -> list[Record]:
    return [record for record in records if (record.round, record.density) == (row.round, row.density)]
