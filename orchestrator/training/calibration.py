"""Make the weights a candidate starts from: those of the round, cut, and adapted on samples without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from orchestrator.amc.least_squares import input_products, reconstructed
from orchestrator.amc.recalibrate import recalibrated
from orchestrator.data.batches import Batch, Batches
from orchestrator.modules import model_call
from orchestrator.pruning.candidate import Scoring
from orchestrator.pruning.structure import Structure
from orchestrator.randomness import derive, seed_all
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.kept_networks import Networks
from orchestrator.training.state import put_model, take_model


class FinishedNetwork(Protocol):
    """The network of a finished round, from which candidates follow, and how they are scored."""

    @property
    def round_key(self) -> str: ...

    @property
    def state(self) -> TrainState: ...

    @property
    def structure(self) -> Structure: ...

    @property
    def scoring(self) -> Scoring: ...


class Calibration:
    """Make the start of each candidate; keep what the candidates of one round share."""

    def __init__(self, networks: Networks, batches: Batches) -> None:
        self._networks, self._batches = networks, batches
        self._products: tuple[tuple[str, int], dict[str, Tensor]] = (("", 0), {})

    def start(self, base: FinishedNetwork, structure: Structure) -> TrainState:
        """Return the weights that a candidate of `base` with this structure has before it is trained."""
        state = TrainState(structure.apply(TrainState(base.state.model), base.structure).model)
        match base.scoring.reconstruct:
            case "bn":
                network = self._network(state, structure)
                state = TrainState(measured_again(network, self._batches, base.round_key, base.scoring.calibration))
            case "least_squares":
                kept, whole = structure.channels, base.structure.channels
                state.model.update(reconstructed(base.state.model, self._input_products(base), kept, whole))
        return state

    def _input_products(self, base: FinishedNetwork) -> dict[str, Tensor]:
        """Return the products of the finished round's layer inputs; measured once for all its candidates."""
        key = (base.round_key, base.scoring.calibration)
        if self._products[0] != key:
            network = self._network(base.state, base.structure)
            found = input_products(network, self._samples(base), seed=derive(*key), call=call_with_inputs)
            self._products = key, {name: product.cpu() for name, product in found.items()}
        return self._products[1]

    def _network(self, state: TrainState, structure: Structure) -> nn.Module:
        network = self._networks.network("student", structure)
        put_model(state.model, network)
        return network

    def _samples(self, base: FinishedNetwork) -> Iterator[Batch]:
        return _samples(self._batches, base.round_key, base.scoring.calibration)


def _samples(batches: Batches, key: str, samples: int) -> Iterator[Batch]:
    """Yield the samples on which candidates of the round `key` are calibrated.

    The generators are seeded before each batch, for a `prepare` that draws random numbers itself.
    """
    seed = derive(key, "calibration")
    seed_all(seed)
    for number, batch in enumerate(batches.calibration(seed, samples)):
        yield batch
        seed_all(derive(seed, number))


def measured_again(module: nn.Module, batches: Batches, key: str, samples: int) -> Tensors:
    """Return the tensors of `module`, with batch norm measured on the samples of candidates of the round `key`."""
    return take_model(recalibrated(module, _samples(batches, key, samples), call_with_inputs))


def call_with_inputs(module: nn.Module, batch: Batch) -> object:
    return model_call(module, batch.inputs)
