"""Represent what a round of a Once-for-All path leaves: all of the network, elastic, or one network of its space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.models.ofa_networks import ImageArguments, Part, chain
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.costs import CostModel, SubnetCost
from orchestrator.ofa.elastic import Supernet, skeleton, subnet_tensors, tensor_shapes
from orchestrator.ofa.extract import extract, network_of
from orchestrator.ofa.sort import sort_channels
from orchestrator.ofa.spaces import Space
from orchestrator.pruning.structure import Structure
from orchestrator.train_state import TrainState

SMALLEST = "smallest_"  # before the names of the smallest network's metrics


@dataclass(frozen=True)
class Elastic(Structure):
    """Represent the supernet of `space`: the largest network, whose tensors all others share, and kernel matrices."""

    space: Space
    arguments: ImageArguments

    @staticmethod
    def of(space: Space, arguments: Mapping[str, Any]) -> Elastic:
        """Return the supernet of `space` for data with these `model_arguments`."""
        return Elastic(space, ImageArguments.of(arguments))

    @property
    def network(self) -> object:
        return self.space.name

    @cached_property
    def costs(self) -> CostModel:
        return CostModel(self.arguments)

    @cached_property
    def largest(self) -> SubnetCost:
        """Return the cost of the largest network."""
        return self.costs(self.space.largest())

    def parts(self, architecture: Architecture) -> dict[str, Part]:
        """Return the parts of an architecture's network. Raise ConfigError if it is outside the space."""
        return chain(self.space.check(architecture), self.arguments)

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        return Supernet(self.space, self.arguments, dense())

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        """Return the supernet whose largest network is that of `state`; kernel matrices are the identity at first."""
        if isinstance(base, Elastic):
            return state
        model = {f"network.{name}": tensor for name, tensor in state.model.items()}
        kernels = self._empty().kernels.named_parameters("kernels")
        return TrainState(model | {name: torch.zeros(matrix.shape) for name, matrix in kernels})

    def sorted(self, state: TrainState, trained: Space) -> TrainState:
        """Return `state` with the channels that matter most first (see `sort_channels`)."""
        copied = {name: tensor.clone() for name, tensor in state.model.items()}
        supernet = self._empty()
        supernet.load_state_dict(copied, assign=True)
        sort_channels(supernet, trained)
        return TrainState({name: tensor.detach() for name, tensor in supernet.tensors().items()})

    def _empty(self) -> Supernet:
        """Return the supernet without memory for its tensors."""
        with torch.device("meta"):
            return Supernet(self.space, self.arguments)

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {f"network.{name}": shape for name, shape in dense.items()}

    def to_json(self) -> dict[str, Any]:
        return {**_counted(self.largest, self.largest), "space": self.space.name}

    def measured(
        self, module: nn.Module, with_statistics: Callable[[nn.Module], nn.Module]
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the largest network, and the smallest after "smallest_", each with batch norm of its own.

        The supernet's statistics fit neither.
        """
        supernet = cast(Supernet, module)
        yield "", with_statistics(extract(supernet, self.space.largest()))
        yield SMALLEST, with_statistics(extract(supernet, self.space.smallest()))


@dataclass(frozen=True)
class Subnet(Structure):
    """Represent the plain network of `architecture`, as it is in the supernet; its batch norm is measured again."""

    supernet: Elastic
    architecture: Architecture

    @property
    def network(self) -> object:
        return self.architecture

    @cached_property
    def cost(self) -> SubnetCost:
        return self.supernet.costs(self.architecture)

    def build(self, dense: Callable[[], nn.Module]) -> nn.Module:
        """Return the network with zeros in its tensors, which have other values only in a supernet."""
        parts = self.supernet.parts(self.architecture)
        zeros = {
            f"{name}.{inner}": torch.zeros(tensor.shape, dtype=tensor.dtype)
            for name, part in parts.items()
            for inner, tensor in skeleton(part).state_dict().items()
        }
        return network_of(parts, self.architecture.resolution, zeros)

    def apply(self, state: TrainState, base: Structure) -> TrainState:
        if isinstance(base, Subnet):
            return state
        try:
            tensors = subnet_tensors(state.model, self.supernet.parts(self.architecture))
        except (KeyError, RuntimeError) as error:
            raise DamagedError(f"they are not those of a supernet of the space {self._space!r}: {error}") from None
        return TrainState({name: tensor.contiguous() for name, tensor in tensors.items()})

    def shapes(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        own = {
            f"{name}.{inner}": shape
            for name, part in self.supernet.parts(self.architecture).items()
            for inner, shape in tensor_shapes(part).items()
        }
        return {name: own[name] for name in dense if name in own}

    def counts(self, dense: Mapping[str, int]) -> dict[str, int]:
        own = self.shapes(dict.fromkeys(dense, ()))
        return {name: math.prod(own[name]) if name in own else 0 for name in dense}

    def to_json(self) -> dict[str, Any]:
        counted = _counted(self.cost, self.supernet.largest)
        return {**counted, "space": self._space, "architecture": self.architecture.to_json()}

    def metrics(self) -> dict[str, float]:
        largest = self.supernet.largest
        return {
            "macs_kept": self.cost.macs / largest.macs,
            "parameters_kept": self.cost.parameters / largest.parameters,
        }

    @property
    def _space(self) -> str:
        return self.supernet.space.name


def _counted(cost: SubnetCost, largest: SubnetCost) -> dict[str, Any]:
    """Return the counts as `FewerChannels.to_json` has them, so that a report shows both alike."""
    return {
        "unit": "macs",
        "macs": [cost.macs, largest.macs],
        "parameters": [cost.parameters, largest.parameters],
        "kept": {},
    }


def is_elastic(content: Mapping[str, Any] | None) -> bool:
    """Return whether a record's `channels` are those of `Elastic` or `Subnet`."""
    return content is not None and "space" in content


def is_supernet(content: Mapping[str, Any] | None) -> bool:
    """Return whether a record's `channels` are those of `Elastic`, which is many networks."""
    return is_elastic(content) and "architecture" not in (content or {})


def structure_from_json(content: Mapping[str, Any], supernet: Elastic) -> Structure:
    """Return the structure that `to_json` described. Raise ConfigError if it is not of `supernet`."""
    if content.get("space") != supernet.space.name:
        raise ConfigError(f"it is of the space {content.get('space')!r:.100}, not {supernet.space.name!r}")
    if is_supernet(content):
        return supernet
    return Subnet(supernet, supernet.space.check(Architecture.from_json(content["architecture"])))
