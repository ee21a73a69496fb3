"""Define `View`, the input of a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.pruning.geometry import Geometry
from orchestrator.pruning.masks import check_tensors
from orchestrator.pruning.structure import Dense, Structure
from orchestrator.train_state import Tensors


@dataclass(frozen=True)
class View:
    """A network before it is pruned further.

    `weights`: the prunable ones by name, of the network that `structure` leaves. Weights on the meta device are enough
    for `Selection.check`. `gradients`: dL/dw, of other tensors too, for a criterion that reads them.
    `min_kept_per_layer`: how many weights each layer keeps, if it has as many. `graph`: the channels of the dense
    network, `geometry`: the shapes of its layers, each for a selection that needs it.
    """

    weights: Mapping[str, Tensor]
    structure: Structure = field(default_factory=Dense)
    criterion: Criterion = magnitude
    gradients: Mapping[str, Tensor] | None = None
    min_kept_per_layer: int = 0
    graph: ChannelGraph | None = None
    geometry: Geometry | None = None

    @property
    def masks(self) -> Tensors | None:
        """Return the current masks by the name of their weight, or None if the structure has no masks."""
        return self.structure.current_masks()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name."""
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    @cached_property
    @torch.no_grad()
    def scores(self) -> Tensors:
        """Return the criterion's scores of the weights, with their shapes, on their device; computed once.

        Raises ConfigError as `check_tensors` and `score` do.
        """
        check_tensors(self.weights, self.masks, self.gradients)
        gradients = self.gradients or {}
        return {name: score(self.criterion, name, w, gradients.get(name)) for name, w in self.weights.items()}

    def candidates(self, name: str) -> Tensor:
        """Return which weights of a layer are left (bool), as a contiguous copy on the weight's device."""
        weight = self.weights[name]
        flags = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
        return flags.copy_(self.masks[name]) if self.masks else flags
