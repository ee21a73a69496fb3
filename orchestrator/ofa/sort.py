"""Put the channels that matter most first, so that a narrower network keeps them (Cai et al. 2020, section 3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.models.ofa_networks import chain
from orchestrator.ofa.elastic import Supernet, skeleton, tensor_shapes
from orchestrator.ofa.spaces import Space

Orders = dict[str, list[tuple[int, Tensor]]]


@torch.no_grad()
def sort_channels(supernet: Supernet, trained: Space) -> Orders:
    """Sort the inner channels of every block of `supernet`, in place, by the L1 norm of the weights that read them.

    `trained`: the networks that are trained already. A channel stays among those of the narrowest of them that has it,
    so that each of them remains the same function. Of equal channels the first stays first. Returns how each tensor
    was reordered, for `reorder` to do the same to an optimizer's momentum.
    """
    orders = channel_orders(supernet, trained)
    reorder(dict(supernet.network.state_dict(keep_vars=True)), orders)
    return orders


@torch.no_grad()
def channel_orders(supernet: Supernet, trained: Space) -> Orders:
    """Return the order of the channels along the sides of tensors of `supernet.network`, by name (see above)."""
    tensors = supernet.network.state_dict()
    widths = _trained_widths(supernet, trained)
    orders: Orders = {}
    for name, part in supernet.parts(supernet.space.largest()).items():
        inner_channels = getattr(skeleton(part), "inner_channels", tuple)
        for channels in inner_channels():
            reader = tensors[f"{name}.{channels.reader}"]
            order = _within(reader.abs().transpose(0, 1).flatten(1).sum(1), widths[f"{name}.{channels.reader}"])
            for inner, side in channels.sides:
                orders.setdefault(f"{name}.{inner}", []).append((side, order))
    return orders


@torch.no_grad()
def reorder(tensors: Mapping[str, Tensor], orders: Orders) -> None:
    """Put the channels of `tensors` into these orders, in place. Tensors without an order stay as they are."""
    for name, sides in orders.items():
        for side, order in sides:
            tensors[name].copy_(tensors[name].index_select(side, order))


def _trained_widths(supernet: Supernet, trained: Space) -> dict[str, set[int]]:
    """Return how many channels each weight reads in the trained networks, by its name."""
    widths: dict[str, set[int]] = {}
    for architecture in trained.uniform():
        for name, part in chain(architecture, supernet.arguments).items():
            for inner, shape in tensor_shapes(part).items():
                if len(shape) == 4:
                    widths.setdefault(f"{name}.{inner}", set()).add(shape[1])
    return widths


def _within(importance: Tensor, widths: set[int]) -> Tensor:
    """Return the order of channels from the most important on, separately between each two of `widths`."""
    borders = sorted({0, len(importance), *widths})
    pieces = [
        start + importance[start:end].argsort(descending=True, stable=True)
        for start, end in itertools.pairwise(borders)
    ]
    return torch.cat(pieces)
