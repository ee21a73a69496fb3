"""Replay the beginning of the dense run, whose state after an epoch was not kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from orchestrator.errors import ConfigError
from orchestrator.storage.ledger import Ledger
from orchestrator.train_state import TrainState
from orchestrator.training import collectives
from orchestrator.training.state import take_state
from orchestrator.training.trainer import Trainer
from orchestrator.work.keys import EPOCH
from orchestrator.work.preparation import Preparation
from orchestrator.work.train import Calls, Train


def snapshot_key(round_key: str, epoch: int) -> str:
    """Return the key of the work that replays a round's first `epoch` epochs."""
    return f"{round_key}-{EPOCH}{epoch}"


@dataclass(frozen=True)
class Snapshot(Preparation[TrainState]):
    """Replay the dense run, and answer with its state after `epoch` epochs.

    `replay` trains those epochs under this work's key. `workers`: as many must train it, because another number would
    give other bits; None: any number may.
    """

    answer_type: ClassVar[type[Any]] = TrainState
    round_key: str
    epoch: int
    replay: Train
    workers: int | None

    @staticmethod
    def of(dense: Train, epoch: int, workers: int) -> Snapshot:
        """Return the work for the snapshot of `dense` after `epoch` epochs, of a run that `workers` trained."""
        replay = replace(dense, key=snapshot_key(dense.key, epoch), epochs=epoch, keep=())
        return Snapshot(dense.key, epoch, replay, workers if epoch else None)  # the initialisation needs no training

    @property
    def key(self) -> str:
        return self.replay.key

    @property
    def training(self) -> Train:
        return self.replay

    def do(self, trainer: Trainer, calls: Calls) -> TrainState:
        """Return the state. Raises ConfigError if another number of workers trained the dense run."""
        if self.workers not in (None, collectives.world_size()):
            raise ConfigError(
                f"the dense run was trained by {self.workers} worker(s) and did not keep its state after epoch "
                f"{self.epoch}; a replay by {collectives.world_size()} would give other bits: "
                f"run with --workers {self.workers}, or choose another --storage"
            )
        attempt = trainer.attempt(self.replay, calls)
        return take_state(attempt.module, attempt.optimizer)

    def store(self, ledger: Ledger, answer: TrainState) -> None:
        ledger.write_snapshot(self.round_key, str(self.epoch), answer)
