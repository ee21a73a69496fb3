"""The networks of a trainer: built once for each role, and again only where another network is left."""

from __future__ import annotations

import torch
from torch import nn

from orchestrator.data.dataset import Data
from orchestrator.experiment import Experiment
from orchestrator.models.build import build_model
from orchestrator.pruning.structure import Structure
from orchestrator.randomness import derive
from orchestrator.training.config import TrainingConfig


class Networks:
    """Keeps one network on `device` for each role, such as "student" and "teacher"."""

    def __init__(self, experiment: Experiment, data: Data, device: torch.device) -> None:
        self.arguments = data.model_arguments
        self._experiment, self._device = experiment, device
        self._kept: dict[str, tuple[object, nn.Module]] = {}

    def network(self, role: str, structure: Structure) -> nn.Module:
        """Return the network that is kept for `role`; it is built again only for another structure than before."""
        if role not in self._kept or self._kept[role][0] != structure.network:
            module = self.built(derive(self._experiment.seed, "model"), structure)
            self._kept[role] = (structure.network, placed(module, self._device, self._experiment.training))
        return self._kept[role][1]

    def built(self, seed: int, structure: Structure) -> nn.Module:
        """Return a new network on the CPU with what `structure` has left of it, initialised by `seed`."""
        experiment = self._experiment
        return structure.build(
            lambda: build_model(experiment.model, experiment.model_options, self.arguments, seed=seed)
        )


def placed(module: nn.Module, device: torch.device, training: TrainingConfig) -> nn.Module:
    """Return `module` on `device`, in the layout of `training` and compiled if it says so."""
    module = module.to(device)
    if training.channels_last:
        module = module.to(memory_format=torch.channels_last)
    if training.compile:
        module.compile()
    return module
