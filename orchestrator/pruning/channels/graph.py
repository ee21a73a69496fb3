"""Represent which channels of a network belong together, and count what the network costs without some of them.

Some layers write a channel and others read it; it can only be removed from all of them at once. A channel
configuration says which channels are kept: {layer: {"out": [...], "in": [...]}}, ascending indices into the dense
layer, only for the sides that lost some; {} is the dense network. It is plain JSON.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.lazy import lazy
from orchestrator.pruning.choices import Unit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from orchestrator import layer_kinds
else:
    torch, nn, layer_kinds = lazy("torch"), lazy("torch.nn"), lazy("orchestrator.layer_kinds")

Side: TypeAlias = Literal["out", "in"]
SIDES: tuple[Side, ...] = ("out", "in")
Kept: TypeAlias = dict[str, dict[str, list[int]]]


def tensor_sides(layer: nn.Module) -> dict[str, tuple[Side, ...]] | None:
    """Return {tensor of the layer: side of each leading dimension}, or None for a layer that cannot lose channels.

    A depthwise convolution, a normalisation and a PReLU with a slope for each channel have only an "out", because
    their inputs and outputs are the same channels. A layer whose weight is computed, by a hook or a parametrization,
    cannot lose channels.
    """
    tensors = [getattr(layer, name, None) for name in ("weight", "bias")]
    if not all(tensor is None or isinstance(tensor, nn.Parameter) for tensor in tensors):
        return None
    if isinstance(layer, layer_kinds.Convolution):
        if layer.groups > 1:
            depthwise = layer.groups == layer.in_channels == layer.out_channels
            return {"weight": ("out",), "bias": ("out",)} if depthwise else None
        transposed = isinstance(layer, layer_kinds.TransposedConvolution)
        return {"weight": ("in", "out") if transposed else ("out", "in"), "bias": ("out",)}
    if isinstance(layer, nn.Linear):
        return {"weight": ("out", "in"), "bias": ("out",)}
    if isinstance(layer, layer_kinds.BatchNorm | layer_kinds.InstanceNorm):
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ("out",))
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        return {"weight": ("out",)}
    return None


@dataclass(frozen=True)
class Cut:
    """A tensor of a layer: its dense shape, the side of each leading dimension, and whether it is a parameter."""

    shape: tuple[int, ...]
    sides: tuple[Side, ...]
    trained: bool

    def kept_shape(self, kept: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        cut = tuple(len(kept[s]) if s in kept else n for s, n in zip(self.sides, self.shape, strict=False))
        return cut + self.shape[len(self.sides) :]


@dataclass(frozen=True)
class Layer:
    """A layer that can lose channels.

    `cuts`: by the tensor's name in the network. `weight`: the name of the one that mixes channels, or None.
    `positions`: how often each weight is used for one sample (the pixels of the output).
    """

    cuts: Mapping[str, Cut]
    weight: str | None
    positions: int

    def size(self, side: Side) -> int:
        """Return the channels of the dense layer on a side; 0 if it does not have this side."""
        found = (c.shape[c.sides.index(side)] for c in self.cuts.values() if side in c.sides)
        return next(found, 0)


@dataclass(frozen=True)
class Member:
    """One side of a layer that holds a group's channels: index `positions[i]` of it is channel `channels[i]`."""

    layer: str
    side: Side
    positions: Sequence[int]
    channels: Sequence[int]


@dataclass(frozen=True)
class Group:
    """`size` channels, each of which is removed from all `members` together."""

    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Counts:
    """The costs of one network for one sample. `macs`: multiplications of its convolutions and linear layers."""

    parameters: int
    macs: int

    def of(self, unit: Unit) -> int:
        return self.macs if unit == "macs" else self.parameters


@dataclass(frozen=True)
class ChannelGraph:
    """The channels of a network.

    `layers`: the layers that can lose channels, by name. `groups`: the channels that may be removed. `parameters`,
    `macs`: of the dense network, including its other layers.
    """

    layers: Mapping[str, Layer]
    groups: tuple[Group, ...]
    parameters: int
    macs: int

    @property
    def identity(self) -> str:
        """Return a sha256 of layers and groups."""
        return hashlib.sha256(repr((sorted(self.layers.items()), self.groups)).encode()).hexdigest()

    def sizes(self) -> dict[str, dict[Side, int]]:
        """Return the number of channels of every layer of the dense network, by side."""
        return {name: {s: layer.size(s) for s in SIDES if layer.size(s)} for name, layer in self.layers.items()}

    def writers(self, group: Group) -> Iterator[tuple[Member, str]]:
        """Yield (member, name of the weight) of the convolutions and linear layers whose filters write the channels."""
        for member in group.members:
            weight = self.layers[member.layer].weight
            if member.side == "out" and weight is not None:
                yield member, weight

    def configuration(self, alive: Sequence[Tensor]) -> Kept:
        """Return the configuration that keeps the channels whose flag is True; `alive` has flags (size,) by group."""
        flags: dict[tuple[str, Side], Tensor] = {}
        for group, kept in zip(self.groups, alive, strict=True):
            for member in group.members:
                key = (member.layer, member.side)
                if key not in flags:
                    flags[key] = torch.ones(self.layers[member.layer].size(member.side), dtype=torch.bool)
                flags[key][torch.tensor(member.positions)] = kept[torch.tensor(member.channels)]
        configuration: Kept = {}
        for name in self.layers:  # in the network's order
            for side in SIDES:
                if (name, side) in flags and not flags[name, side].all():
                    configuration.setdefault(name, {})[side] = flags[name, side].nonzero()[:, 0].tolist()
        return configuration

    def alive(self, kept: Kept) -> list[Tensor]:
        """Invert `configuration`: return for each group flags (size,) of the channels that `kept` keeps."""
        found = []
        for group in self.groups:
            member = group.members[0]
            flags = torch.ones(group.size, dtype=torch.bool)
            if (indices := kept.get(member.layer, {}).get(member.side)) is not None:
                inside = torch.zeros(self.layers[member.layer].size(member.side), dtype=torch.bool)
                inside[torch.tensor(indices)] = True
                flags[torch.tensor(member.channels)] = inside[torch.tensor(member.positions)]
            found.append(flags)
        return found

    def counts(self, kept: Kept) -> Counts:
        """Return the exact costs of the network that `kept` leaves."""
        parameters, macs = self.parameters, self.macs
        for name, sides in kept.items():
            layer = self.layers[name]
            for tensor, cut in layer.cuts.items():
                gone = math.prod(cut.shape) - math.prod(cut.kept_shape(sides))
                parameters -= gone if cut.trained else 0
                macs -= gone * layer.positions if tensor == layer.weight else 0
        return Counts(parameters, macs)

    def cut_of(self, tensor: str) -> Cut | None:
        """Return the `Cut` of the tensor of this name, or None if it does not depend on channels."""
        layer = self.layers.get(tensor.rpartition(".")[0])
        return layer.cuts.get(tensor) if layer else None

    def kept_shape(self, tensor: str, kept: Kept) -> tuple[int, ...] | None:
        """Return the shape that `kept` leaves of the tensor of this name, or None if it does not depend on channels."""
        cut = self.cut_of(tensor)
        return cut.kept_shape(kept.get(tensor.rpartition(".")[0], {})) if cut else None

    def kept_weights(self, kept: Kept) -> dict[str, int]:
        """Return {name of the weight: number of its entries that are left} for the layers in `kept`."""
        layers = {name: self.layers[name] for name in kept}
        return {
            layer.weight: math.prod(layer.cuts[layer.weight].kept_shape(kept[name]))
            for name, layer in layers.items()
            if layer.weight is not None
        }
