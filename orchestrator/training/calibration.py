"""Where a candidate's training begins: the round's weights cut, and adapted on samples that nothing augments."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from orchestrator.amc.least_squares import input_products, reconstructed
from orchestrator.amc.recalibrate import recalibrated
from orchestrator.data.batches import Batch, Batches
from orchestrator.modules import model_call
from orchestrator.pruning.structure import Structure
from orchestrator.randomness import derive
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.kept_networks import Networks
from orchestrator.training.state import put_model, take_model
from orchestrator.work import Evaluate


class Calibration:
    """Makes the start of each candidate; keeps what candidates of one round share."""

    def __init__(self, networks: Networks, batches: CalibrationBatches) -> None:
        self._networks, self._batches = networks, batches
        self._products: tuple[tuple[str, int], dict[str, Tensor]] = (("", 0), {})

    def start(self, work: Evaluate, structure: Structure) -> TrainState:
        """Return the weights that a candidate of `work` with this structure has before it is trained."""
        state = TrainState(structure.apply(TrainState(work.state.model), work.structure).model)
        match work.scoring.reconstruct:
            case "bn":
                network = self._network(state, structure)
                state = TrainState(measured_again(network, self._batches, work.round_key, work.scoring.calibration))
            case "least_squares":
                kept, base = structure.channels, work.structure.channels
                state.model.update(reconstructed(work.state.model, self._input_products(work), kept, base))
        return state

    def _input_products(self, work: Evaluate) -> dict[str, Tensor]:
        """Return the products of the finished round's layer inputs; measured once for all its candidates."""
        key = (work.round_key, work.scoring.calibration)
        if self._products[0] != key:
            network = self._network(work.state, work.structure)
            found = input_products(network, self._samples(work), seed=derive(*key), call=call_with_inputs)
            self._products = key, {name: product.cpu() for name, product in found.items()}
        return self._products[1]

    def _network(self, state: TrainState, structure: Structure) -> nn.Module:
        network = self._networks.network("student", structure)
        put_model(state.model, network)
        return network

    def _samples(self, work: Evaluate) -> Iterator[Batch]:
        return self._batches.calibration(derive(work.round_key, "calibration"), work.scoring.calibration)


class CalibrationBatches(Batches):
    """The batches of a trainer, and besides them training samples that nothing augments, the same on every rank."""

    def calibration(self, seed: int, samples: int) -> Iterator[Batch]:
        """Return batches of `samples` training samples in all, drawn by `seed`; of fewer if there are no more."""
        shape = (min(self.steps_per_epoch, -(-samples // self._batch_size)), self._batch_size)
        order = self._shuffled(shape, torch.Generator().manual_seed(seed)).flatten()[:samples]
        for batch in self._raw("train", order, order, self._batch_size):
            yield self._finish(batch, None)


def measured_again(module: nn.Module, batches: CalibrationBatches, key: str, samples: int) -> Tensors:
    """Return the tensors of `module`, with batch norm measured on the samples of candidates of the round `key`."""
    drawn = batches.calibration(derive(key, "calibration"), samples)
    return take_model(recalibrated(module, drawn, call_with_inputs))


def call_with_inputs(module: nn.Module, batch: Batch) -> object:
    return model_call(module, batch.inputs)
