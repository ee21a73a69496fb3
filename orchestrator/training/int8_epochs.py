"""Train the quantisation-aware epochs that end a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from orchestrator.data.batches import Batches, Split
from orchestrator.experiment import Experiment
from orchestrator.pruning.structure import Structure
from orchestrator.training.attempt import Attempt
from orchestrator.training.divergence import check_epoch
from orchestrator.training.int8_training import (
    RANGE_BATCHES,
    fake_quantised,
    follow_ranges,
    measure_ranges,
    share_ranges,
)
from orchestrator.training.int8_weights import quantised, restored
from orchestrator.training.state import put_model, take_model
from orchestrator.work.train import EpochMetrics, Train


class TrainsEpochs(Protocol):
    """A trainer, as far as these epochs need one."""

    experiment: Experiment
    batches: Batches

    def train_epoch(self, attempt: Attempt, epoch: int, rounded: nn.Module | None = None) -> float: ...

    def evaluate(self, structure: Structure, module: nn.Module, split: Split) -> Mapping[str, float]: ...


def train_int8(trainer: TrainsEpochs, attempt: Attempt) -> dict[str, float]:
    """Train the quantisation-aware epochs that end a round; return the record's `int8`.

    They are the last tenth of the schedule once more. A job that is killed here trains them from their beginning.
    """
    work, module, epochs = attempt.work, attempt.module, trainer.experiment.training.epochs
    batches = [batch for _, batch in zip(range(RANGE_BATCHES), trainer.batches.train(work.seed), strict=False)]
    network = fake_quantised(module, batches[0].inputs)
    measure_ranges(network, [batch.inputs for batch in batches])
    found = _objectives(trainer, work, "before", network)
    for epoch in range(epochs - max(1, epochs // 10), epochs):
        follow_ranges(network, True)
        loss = trainer.train_epoch(attempt, epoch, network)
        share_ranges(network)
        val = trainer.evaluate(work.structure, module, "val")
        check_epoch(work, epoch, loss, val)
        attempt.history.append(EpochMetrics(epoch, work.schedule.lr_at(epoch, epochs), loss, val))
    found |= _objectives(trainer, work, "after", network)
    exact = take_model(module)
    put_model(restored(quantised(exact), "the network"), module)
    found |= _objectives(trainer, work, "file", module)
    put_model(exact, module)
    return found


def _objectives(trainer: TrainsEpochs, work: Train, when: str, network: nn.Module) -> dict[str, float]:
    """Return the objective of `network` on validation and test data, as a record's `int8` names them."""
    splits: tuple[Split, ...] = ("val", "test")
    objective = trainer.experiment.task.objective
    return {f"{split}_{when}": trainer.evaluate(work.structure, network, split)[objective] for split in splits}
