"""What sharing rounds saved: a round of several paths is trained once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.record import Record


@dataclass(frozen=True)
class Sharing:
    """Finished rounds and their epochs: as all paths ask for them, and as they were trained."""

    rounds_asked: int
    rounds_trained: int
    epochs_asked: int
    epochs_trained: int

    @property
    def saved(self) -> float:
        """Fraction of the epochs asked that nobody had to train."""
        return 1 - self.epochs_trained / self.epochs_asked if self.epochs_asked else 0.0


def sharing(records: Iterable[Record]) -> Sharing:
    """`records` as `path_records` gives them: a round appears once for each path that it is part of."""
    asked = list(records)
    trained = {record.key: record for record in asked}.values()
    return Sharing(
        rounds_asked=len(asked),
        rounds_trained=len(trained),
        epochs_asked=sum(record.epochs for record in asked),
        epochs_trained=sum(record.epochs for record in trained),
    )
