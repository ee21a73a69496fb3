"""Keep the networks of a trainer: each role's is built once, and again only for another structure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from orchestrator.data.dataset import Data
from orchestrator.experiment import Experiment
from orchestrator.models.build import build_model
from orchestrator.models.constants import DRAWN_AGAIN, check_constants
from orchestrator.models.start_weights import load_start_weights
from orchestrator.pruning.structure import Structure
from orchestrator.randomness import derive
from orchestrator.training.config import TrainingConfig


class Networks:
    """Keep one network on `device` for each role, such as "student" and "teacher"."""

    def __init__(self, experiment: Experiment, data: Data, device: torch.device) -> None:
        self.arguments = data.model_arguments
        self._experiment, self._device = experiment, device
        self._kept: dict[str, tuple[object, nn.Module]] = {}

    def network(self, role: str, structure: Structure) -> nn.Module:
        """Return the network that is kept for `role`; it is built again only if `structure` leaves another one."""
        if role not in self._kept or self._kept[role][0] != structure.network:
            module = self.built(derive(self._experiment.seed, "model"), structure)
            self._kept[role] = (structure.network, on_device(module, self._device, self._experiment.training))
        return self._kept[role][1]

    def built(self, seed: int, structure: Structure) -> nn.Module:
        """Return a new network of this structure on the CPU, initialised by `seed`."""
        experiment = self._experiment
        return structure.build(
            lambda: build_model(experiment.model, experiment.model_options, self.arguments, seed=seed)
        )

    def initial(self, seed: int, number: int, structure: Structure, constants: Mapping[str, str]) -> nn.Module:
        """Return a new network with the initial weights of round `number`: for 0 the start weights, else random ones.

        `constants`: digests of tensors that it must begin with (see `check_constants`), or {}.
        """
        purpose = ("model",) if number == 0 else ("reinitialisation", number)
        fresh = self.built(derive(seed, *purpose), structure)
        if number == 0:
            load_start_weights(fresh, self._experiment, self.arguments)
        if constants:
            again = self.built(derive(seed, *DRAWN_AGAIN), structure)
            load_start_weights(again, self._experiment, self.arguments)
            check_constants(fresh, again, constants, self._experiment.model)
        return fresh


def on_device(module: nn.Module, device: torch.device, training: TrainingConfig) -> nn.Module:
    """Return `module` on `device`, in the memory layout of `training`, and compiled if `training.compile`."""
    module = module.to(device)
    if training.channels_last:
        module = module.to(memory_format=torch.channels_last)
    if training.compile:
        module.compile()
    return module
