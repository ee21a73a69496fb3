"""Try the removal of channels on the network itself: what is left must compute what zeroed channels compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.modules import copy_module, logits_of, model_call
from orchestrator.nested import mapped
from orchestrator.pruning.channels.graph import ChannelGraph, Group, Kept
from orchestrator.pruning.channels.shrink import shrink


def check_removal(module: nn.Module, graph: ChannelGraph, kept: Kept, inputs: Any) -> None:
    """Raise ConfigError unless the network that `kept` leaves computes the same as `module` with channels zeroed."""
    generator = torch.Generator().manual_seed(0)
    network, inputs = _randomised(traceable(module), inputs, generator)
    if not _same_without(network, graph, inputs, graph.alive(kept)):
        raise ConfigError(f"channels of {some(kept)} cannot be removed together: give ratios for some of them only")


def confirmed_groups(network: nn.Module, graph: ChannelGraph, inputs: Any) -> list[Group]:
    """Return the groups of `graph` that can be removed correctly.

    If not all of them can, each one is tried together with those confirmed before it.
    """
    network, inputs = _randomised(network, inputs, torch.Generator().manual_seed(0))
    if _removal_is_masking(network, graph, inputs):
        return list(graph.groups)
    confirmed: list[Group] = []
    for group in graph.groups:
        if _removal_is_masking(network, replace(graph, groups=(*confirmed, group)), inputs):
            confirmed.append(group)
    return confirmed


@torch.no_grad()
def _randomised(network: nn.Module, inputs: Any, generator: torch.Generator) -> tuple[nn.Module, Any]:
    """Draw weights, in place, and inputs that reveal every error: none is zero, and signals neither die nor explode.

    Inputs that are not floating-point numbers, such as tokens, are returned unchanged.
    """
    network = network.double()
    for parameter in _continuous(network):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.dim() > 1:
            parameter.copy_(drawn * (parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.copy_(0.5 + drawn.abs())

    def drawn_like(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    return network, mapped(drawn_like, inputs)


def _removal_is_masking(network: nn.Module, graph: ChannelGraph, inputs: Any) -> bool:
    """Return whether removing channels gives the same outputs as zeroing them: every second one, and random ones twice.

    Every second one alone would not distinguish a channel from the one two places later. Halves alone would not show
    that groups must keep equal sizes, for example if two are joined and then split in the middle.
    """
    generator = torch.Generator().manual_seed(0)
    return all(
        _same_without(network, graph, inputs, alive)
        for alive in (
            [torch.arange(group.size) % 2 == 0 for group in graph.groups],
            [_random(group.size, group.size - group.size // 2, generator) for group in graph.groups],
            [_random(group.size, 1 + index % (group.size - 1), generator) for index, group in enumerate(graph.groups)],
        )
    )


def _random(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Return flags (size,), `count` of them True."""
    return torch.randperm(size, generator=generator) < count


@torch.no_grad()
def _same_without(network: nn.Module, graph: ChannelGraph, inputs: Any, alive: Sequence[Tensor]) -> bool:
    masked = copy_module(network)
    tensors = dict(masked.named_parameters())
    try:
        for group, kept in zip(graph.groups, alive, strict=True):
            for member in group.members:
                places = torch.tensor(member.positions)[~kept[torch.tensor(member.channels)]]
                for name, cut in graph.layers[member.layer].cuts.items():
                    if member.side == "out" and cut.trained:
                        tensors[name].index_fill_(cut.sides.index("out"), places, 0)
        expected = logits_of(model_call(masked, inputs))
        removed = logits_of(model_call(shrink(copy_module(network), graph.configuration(alive)), inputs))
    except Exception:  # the user's network may raise any type
        return False
    return removed.shape == expected.shape and bool(
        torch.allclose(removed, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    )


def traceable(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode, whose parameters have gradients."""
    network = copy_module(module).cpu().float().eval()
    for parameter in _continuous(network):
        parameter.requires_grad_()
    return network


def _continuous(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that can have gradients: not those of integers or bools."""
    return [p for p in network.parameters() if p.is_floating_point() or p.is_complex()]


def some(names: Iterable[str]) -> str:
    """List the first five of `names`, and how many more there are."""
    first, *others = dict.fromkeys(names)
    shown = ", ".join([first, *others[:4]])
    return f"{shown} and {len(others) - 4} more" if len(others) > 4 else shown
