"""Take channels out of a module, or out of tensors by name, to make a smaller dense network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.pruning.channels.graph import ChannelGraph, Kept, Side, tensor_sides

_SIZES: dict[str, tuple[str, ...]] = {
    "out": ("out_channels", "out_features", "num_features", "num_parameters"),
    "in": ("in_channels", "in_features"),
}


@torch.no_grad()
def shrink(module: nn.Module, kept: Kept) -> nn.Module:
    """Reduce the dense `module` in place to the channels that `kept` keeps, and return it.

    It does not need a graph, so that a network can be rebuilt without tracing it. Raises ConfigError, before any
    change, for a configuration that is malformed or does not fit the module.
    """
    check_configuration(module, kept)
    for name, sides in kept.items():
        layer: Any = module.get_submodule(name)
        indices = {side: torch.tensor(places) for side, places in sides.items()}
        for attribute, dims in (tensor_sides(layer) or {}).items():
            tensor = getattr(layer, attribute, None)
            if tensor is None:
                continue
            for dim, side in enumerate(dims):
                if side in indices:
                    tensor = tensor.index_select(dim, indices[side].to(tensor.device))
            if isinstance(getattr(layer, attribute), nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=getattr(layer, attribute).requires_grad)
            setattr(layer, attribute, tensor)
        for end, places in sides.items():
            for size in _SIZES[end]:
                if hasattr(layer, size):
                    setattr(layer, size, len(places))
        if getattr(layer, "groups", 1) > 1:  # depthwise
            layer.groups = layer.in_channels = layer.out_channels
    return module


def check_configuration(network: nn.Module | ChannelGraph, kept: Kept) -> None:
    """Raise ConfigError unless `kept`, which is not trusted, is a channel configuration of the dense `network`."""
    given: Any = kept
    if not isinstance(given, dict):
        raise ConfigError(f"a channel configuration must map layers to kept channels, got {type(given).__name__}")
    sizes = network.sizes() if isinstance(network, ChannelGraph) else _sizes(network)
    for name, sides in given.items():
        if name not in sizes:
            raise ConfigError(f"a channel configuration must name layers that can lose channels, got {name!r}")
        if not isinstance(sides, dict) or not sides or not sides.keys() <= sizes[name].keys():
            raise ConfigError(f"{name} must have kept channels for {' or '.join(sizes[name])}, got {sides!r:.100}")
        for side, places in sides.items():
            _check_places(name, side, places, sizes[name][side])


def _sizes(module: nn.Module) -> dict[str, dict[Side, int]]:
    """Return the number of channels of every layer that can lose some, by side."""
    return {
        name: {
            side: getattr(layer, attribute).shape[dim]
            for attribute, of in sides.items()
            for dim, side in enumerate(of)
            if getattr(layer, attribute, None) is not None
        }
        for name, layer in module.named_modules()
        if (sides := tensor_sides(layer)) is not None
    }


def _check_places(name: str, side: str, places: object, size: int) -> None:
    if not isinstance(places, list) or not all(type(place) is int for place in places):
        raise ConfigError(f"kept channels must be a list of whole numbers, got {places!r:.100} for {name}.{side}")
    if not places:
        raise ConfigError(f"{name} would lose all its channels ({side}): a layer must keep at least one")
    if not (places[0] >= 0 and places[-1] < size and all(a < b for a, b in itertools.pairwise(places))):
        raise ConfigError(f"kept channels must ascend within 0..{size - 1}, got {places!r:.100} for {name}.{side}")


def cut_model(graph: ChannelGraph, tensors: Mapping[str, Tensor], kept: Kept, base: Kept) -> dict[str, Tensor]:
    """Cut `tensors` by name, of the network that `base` leaves, to the smaller network that `kept` leaves.

    Raises DamagedError for a tensor without the shape that `base` gives it, or a kept channel that `base` lacks.
    """
    return {name: _cut(graph, name, name, tensor, kept, base, strict=True) for name, tensor in tensors.items()}


def cut_optimizer(graph: ChannelGraph, slots: Mapping[str, Tensor], kept: Kept, base: Kept) -> dict[str, Tensor]:
    """Cut the optimizer's "<parameter>/<slot>" tensors likewise; one of another shape (a step counter) stays whole."""
    return {
        slot: _cut(graph, slot.rsplit("/", 1)[0], slot, tensor, kept, base, strict=False)
        for slot, tensor in slots.items()
    }


def _cut(
    graph: ChannelGraph, parameter: str, name: str, tensor: Tensor, kept: Kept, base: Kept, *, strict: bool
) -> Tensor:
    layer = parameter.rpartition(".")[0]
    cut = graph.cut_of(parameter)
    if cut is None:
        return tensor
    before, after = base.get(layer, {}), kept.get(layer, {})
    if tensor.shape != (expected := cut.kept_shape(before)):
        if strict:
            raise DamagedError(
                f"{name}: its channel configuration gives it the shape {expected}, got {tuple(tensor.shape)}"
            )
        return tensor
    for dim, side in enumerate(cut.sides):
        if side in after:
            tensor = tensor.index_select(dim, _places(after[side], before.get(side), cut.shape[dim], name))
    return tensor


def _places(kept: list[int], base: list[int] | None, size: int, name: str) -> Tensor:
    """Return the places of the channels of `kept` among those of `base`. Raises DamagedError if one is missing."""
    if base is None:
        return torch.tensor(kept)
    place = torch.full((size,), -1)
    place[torch.tensor(base)] = torch.arange(len(base))
    found = place[torch.tensor(kept)]
    if (found < 0).any():
        raise DamagedError(f"{name}: the channel configuration keeps a channel that an earlier round removed")
    return found
