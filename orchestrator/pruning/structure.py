"""Define what is left of the dense network: all of it, some of its weights, or some of its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.pruning.channels.graph import ChannelGraph, Kept
from orchestrator.pruning.channels.shrink import check_configuration, cut_model, cut_optimizer, shrink
from orchestrator.pruning.choices import UNITS, Unit
from orchestrator.pruning.masks import count_true, dead_layers
from orchestrator.train_state import Tensors, TrainState
from orchestrator.training.masked import Masked
from orchestrator.validate import one_of


@runtime_checkable
class Structure(Protocol):
    """Describe what is left of the dense network.

    The methods below describe the whole network. A structure is a frozen dataclass that derives from this class and
    overrides what differs. No other file needs to know its class: a record has its fields, which JSON must be able to
    hold, but for the masks that `tensors` returns (see `orchestrator.structures`).
    """

    @property
    def channels(self) -> Kept:
        """Return the channel configuration, {} for all. Networks with equal ones have tensors of equal shapes."""
        return {}

    @property
    def network(self) -> object:
        """Return a value by which modules are kept: those built for equal values are alike, with equal shapes.

        A structure whose networks differ in more than their channels overrides it.
        """
        return self.channels

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        """Return `state`, of the network that `base` leaves, as it is in the network that this structure leaves.

        Raises DamagedError if the tensors of `state` are not those of `base`.
        """
        return state

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        """Return a network of this structure, made of a new dense one that `dense` gives. Raises ConfigError."""
        return dense()

    def hold(self, module: nn.Module) -> Masked:
        """Return what keeps the removed weights of `module`, which has this structure's shape, at zero."""
        return Masked(module, {})

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of those tensors of the dense network, given with theirs, that this network has too."""
        return dict(dense)

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        """Return how many weights of each tensor are left, of those that the dense network has."""
        return dict(dense)

    def dead_layers(self) -> list[str]:
        """Return the names of the weight tensors of which nothing is left."""
        return []

    def to_json(self) -> dict[str, Any] | None:
        """Return what a record says of channels (see `Record.channels`), or None if it says nothing of them."""
        return None

    def metrics(self) -> dict[str, float]:
        """Return what a record's metrics say of the structure: fractions kept, by name."""
        return {}

    def measured(
        self, module: nn.Module, with_statistics: Callable[[nn.Module], nn.Module]
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield each network by which `module`, which `build` made, is measured, after a prefix of its metrics' names.

        `with_statistics` returns a copy of a network whose batch norm is measured anew on training samples.
        """
        yield "", module

    def check(self, what: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ConfigError, naming `what` returned it, unless it fits prunable weights of these dense shapes."""
        return

    def current_masks(self) -> Tensors | None:
        """Return the masks by the name of their weight, perhaps {}; None for a structure that never has any."""
        return None

    def tensors(self) -> Tensors:
        """Return the masks by the name of their weight, which are stored and sent apart from the structure."""
        return {}

    def with_tensors(self, tensors: Tensors) -> Structure:
        """Return this structure with these masks; it must have none so far."""
        return Masks(tensors) if tensors else self


@dataclass(frozen=True)
class Dense(Structure):
    """The whole network."""


@dataclass(frozen=True)
class Masks(Structure):
    """The weights where `masks` (bool, by the weight's name, of its shape) are True; the others are zero."""

    masks: Tensors

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        """Return `state` with zeros in the place of removed weights, and in the optimizer's slots of them."""
        slots = {slot: self._cut(slot.rsplit("/", 1)[0], value) for slot, value in state.optimizer.items()}
        return TrainState({name: self._cut(name, tensor) for name, tensor in state.model.items()}, slots)

    def _cut(self, name: str, tensor: Tensor) -> Tensor:
        mask = self.masks.get(name)
        return tensor if mask is None or mask.shape != tensor.shape else tensor.masked_fill(~mask, 0)

    def hold(self, module: nn.Module) -> Masked:
        return Masked(module, self.masks)

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        return {name: count_true(self.masks[name]) if name in self.masks else size for name, size in dense.items()}

    def dead_layers(self) -> list[str]:
        return dead_layers(self.masks)

    def check(self, what: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        masks: object = self.masks
        if not isinstance(masks, dict) or masks.keys() != shapes.keys():
            got = sorted(masks) if isinstance(masks, dict) else type(masks).__name__
            raise ConfigError(f"{what} must return Masks with a mask for each of {sorted(shapes)}, got {got}")
        for name, shape in shapes.items():
            mask = masks[name]
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
                got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise ConfigError(f"{what} must return bool masks of their weight's shape, got {got} for {name}")

    def current_masks(self) -> Tensors:
        return self.masks

    def tensors(self) -> Tensors:
        return self.masks

    def with_tensors(self, tensors: Tensors) -> Structure:
        return Masks(tensors)


@dataclass(frozen=True)
class FewerChannels(Structure):
    """The smaller dense network with the channels that the configuration `kept` keeps.

    `graph` is that of the dense network. `unit`: what the density of the path counts.
    """

    kept: Kept
    graph: ChannelGraph
    unit: Unit = "macs"

    @staticmethod
    def from_json(content: Mapping[str, Any], graph: ChannelGraph) -> FewerChannels:
        """Return the structure that `to_json` described. Raise ConfigError if it is not of the network of `graph`."""
        kept: Kept = content.get("kept", {})
        check_configuration(graph, kept)
        unit: Any = content.get("unit")
        return FewerChannels(kept, graph, one_of("unit", unit, UNITS))

    @property
    def channels(self) -> Kept:
        return self.kept

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        return TrainState(
            cut_model(self.graph, state.model, self.kept, base.channels),
            cut_optimizer(self.graph, state.optimizer, self.kept, base.channels),
        )

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        return shrink(dense(), self.kept)

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: self.graph.kept_shape(name, self.kept) or shape for name, shape in dense.items()}

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        left = self.graph.kept_weights(self.kept)
        return {name: left.get(name, size) for name, size in dense.items()}

    def to_json(self) -> dict[str, Any]:
        left, dense = self.graph.counts(self.kept), self.graph.counts({})
        return {"unit": self.unit, **{unit: [left.of(unit), dense.of(unit)] for unit in UNITS}, "kept": self.kept}

    def metrics(self) -> dict[str, float]:
        left, dense = self.graph.counts(self.kept), self.graph.counts({})
        return {f"{unit}_kept": left.of(unit) / dense.of(unit) for unit in UNITS}


def check_structure(what: str, value: object, shapes: Mapping[str, tuple[int, ...]]) -> Structure:
    """Return `value` if it is a structure of prunable weights of these dense shapes. Raise ConfigError otherwise."""
    if not isinstance(value, Structure):
        raise ConfigError(f"{what} must return a structure, such as Masks(...), got {type(value).__name__}")
    value.check(what, shapes)
    return value
