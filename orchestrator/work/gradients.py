"""Compute the gradients at the end of a finished round, for a criterion that reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from orchestrator.pruning.structure import Structure
from orchestrator.storage.ledger import Ledger
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training import collectives
from orchestrator.training.attempt import starting_from
from orchestrator.training.mean_gradients import mean_gradients
from orchestrator.training.state import put_model
from orchestrator.training.trainer import Trainer
from orchestrator.work.preparation import Preparation
from orchestrator.work.train import Calls

GRADIENTS = "gradients"  # name of their file among a round's snapshots


@dataclass(frozen=True)
class Gradients(Preparation[Tensors]):
    """Compute the gradients of the mean training loss at the end of a finished round.

    `round`, `state` and `structure` are those of the finished round, as in `Train`.
    """

    answer_type: ClassVar[type[Any]] = dict
    round_key: str
    round: int
    seed: int
    state: TrainState
    structure: Structure

    @property
    def key(self) -> str:
        return f"{self.round_key}-{GRADIENTS}"

    def do(self, trainer: Trainer, calls: Calls) -> Tensors:
        """Return {name: dL/dw} of the mean training loss over an epoch's batches, with running statistics fixed."""
        module = trainer.network(self.structure)
        with starting_from(f"the gradients of round {self.round}", self.round_key):
            put_model(self.state.model, module)
        collectives.start_alike(module)
        self.structure.hold(module).mask_weights()
        batches = trainer.seeded_batches((self.seed, self.round, "gradients"))
        return mean_gradients(module, (batch for _, batch in batches), trainer.step, trainer.training.accumulate)

    def store(self, ledger: Ledger, answer: Tensors) -> None:
        ledger.write_snapshot(self.round_key, GRADIENTS, TrainState(answer))

    def split(self) -> tuple[Gradients, Any]:
        light = replace(self, state=TrainState({}), structure=self.structure.with_tensors({}))
        return light, (self.state, self.structure.tensors())

    def joined(self, tensors: Any) -> Gradients:
        state, masks = tensors
        return replace(self, state=state, structure=self.structure.with_tensors(masks))
