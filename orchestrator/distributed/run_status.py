"""Define what the driver actor reports of a run to the process that prints it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.distributed.search_report import SearchReport
from orchestrator.objective import Objective
from orchestrator.record import Record
from orchestrator.work.train import EpochMetrics, Train


@dataclass(frozen=True)
class Report:
    """Report the progress of a round to the process that prints it."""

    round: int
    rounds: int
    density: float
    epochs_done: int
    epochs: int
    epochs_left: int
    metrics: EpochMetrics
    objective: Objective
    samples_per_second: float
    workers: int

    @staticmethod
    def of(
        work: Train, metrics: EpochMetrics, objective: Objective, done: int, samples_per_second: float, workers: int
    ) -> Report:
        """Return the report after an epoch of `work`, of whose epochs `done` are done."""
        epochs_left = work.epochs - done + (work.rounds - work.round) * work.epochs
        return Report(
            round=work.round,
            rounds=work.rounds,
            density=work.density,
            epochs_done=done,
            epochs=work.epochs,
            epochs_left=epochs_left,
            metrics=metrics,
            objective=objective,
            samples_per_second=samples_per_second,
            workers=workers,
        )


@dataclass(frozen=True)
class Status:
    """Hold the state of the run: its newest report, the records it has committed, and why it failed, if it did.

    `starts`: number of groups of workers that started. `restarts`: how many of them Ray Train started again by itself.
    `holder`: the owner that trains the round the run waits for, if it waits. `crash`: the error of the last worker that
    crashed. `resumed`: the round that was last resumed from a checkpoint, and the epochs and steps that it covers.
    """

    report: Report | SearchReport | None
    records: tuple[Record, ...]
    failure: str | None
    starts: int
    restarts: int
    holder: str | None
    crash: str | None = None
    resumed: tuple[int, int, int] | None = None
