"""Multiply-accumulate operations (MACs) of one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from orchestrator.training.rng import own_randomness


class Macs(NamedTuple):
    """`dense`: every weight counts. `effective`: only those that are not zero, as a perfect sparse kernel would."""

    dense: int
    effective: int


def weight_uses(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> Iterator[tuple[Tensor, int]]:
    """(weight, how often each of its elements multiplies) in one call of `part`, as a forward hook sees it.

    A convolution's weight is used once for each output position (a transposed one's: input position), a linear
    layer's and an attention projection's once for each row. Biases, norms and the products of attention itself have
    no weights and do not count.
    """
    if isinstance(part, _ConvNd):
        places = inputs[0] if isinstance(part, _ConvTransposeNd) else output
        yield part.weight, places[:, 0].numel()
    elif isinstance(part, nn.Linear):
        yield part.weight, output.numel() // part.out_features
    elif isinstance(part, nn.MultiheadAttention):  # calls no layer of its own
        rows = inputs[0].numel() // part.embed_dim
        if part.in_proj_weight is not None:
            yield part.in_proj_weight, rows
        yield part.out_proj.weight, rows


@torch.no_grad()
def count_macs(module: nn.Module, input_shape: tuple[int, int, int]) -> Macs:
    """MACs of all convolutions, linear layers and attention projections for one image of (C, H, W).

    The module is left as it is.
    """
    dense = effective = 0

    def see(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal dense, effective
        for weight, uses in weight_uses(part, inputs, output):
            dense += uses * weight.numel()
            effective += uses * int(weight.count_nonzero())

    was_training = module.training
    hooks = [part.register_forward_hook(see) for part in module.modules()]
    try:
        with own_randomness():
            module.eval()(torch.zeros((1, *input_shape)))
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    return Macs(dense, effective)
