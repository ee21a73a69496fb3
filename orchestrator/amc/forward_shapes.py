"""Read the geometry of a network's convolutions and linear layers in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.amc.layer_shape import LayerShape
from orchestrator.layer_kinds import Convolution, TransposedConvolution
from orchestrator.randomness import own_randomness


@torch.no_grad()
def layer_shapes(module: nn.Module, forward: Callable[[], object]) -> dict[str, LayerShape]:
    """Return the shape of each convolution and linear layer of `module` by name, in the order of the module.

    `forward` calls `module` on one sample. The module is in evaluation mode meanwhile, and left as it was. A layer that
    is called several times has the shape of its last call; a layer that is not called has none.
    """
    seen: dict[nn.Module, LayerShape] = {}

    def see(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[part] = shape_of(part, inputs[0])

    kinds = (Convolution, nn.Linear)
    modes = {part: part.training for part in module.modules()}
    hooks = [part.register_forward_hook(see) for part in module.modules() if isinstance(part, kinds)]
    try:
        with own_randomness():
            module.eval()
            forward()
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return {name: seen[part] for name, part in module.named_modules() if part in seen}


def shape_of(layer: nn.Module, inputs: Tensor) -> LayerShape:
    """Return the shape of a convolution with input (n, C, ...), or of a linear layer with input (n, ..., C)."""
    if not isinstance(layer, Convolution):
        assert isinstance(layer, nn.Linear)
        return LayerShape(layer.in_features, layer.out_features, rows=inputs[0].numel() // layer.in_features)
    return LayerShape(
        layer.in_channels,
        layer.out_channels,
        tuple(inputs.shape[2:]),
        tuple(layer.kernel_size),
        tuple(layer.stride),
        tuple(layer.dilation),
        padding_of(layer),
        layer.groups,
        isinstance(layer, TransposedConvolution),
    )


def padding_of(layer: Convolution) -> tuple[tuple[int, int], ...]:
    """Return how many places a convolution adds before and after, for each spatial dimension."""
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [step * (kernel - 1) for step, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(places), int(places)) for places in layer.padding)
