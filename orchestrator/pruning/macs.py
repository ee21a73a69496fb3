"""Count the multiply-accumulate operations (MACs) of one sample."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from orchestrator.layer_kinds import Convolution, TransposedConvolution
from orchestrator.modules import model_call
from orchestrator.nested import number_of_samples
from orchestrator.randomness import own_randomness


class Macs(NamedTuple):
    """Count multiplications. `dense`: of every weight; `effective`: of weights that are not zero."""

    dense: int
    effective: int


def weight_uses(
    part: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any
) -> Iterator[tuple[Tensor, int]]:
    """Yield (weight, how often each of its elements multiplies) in one call of `part`.

    The arguments are those of a forward hook with kwargs.
    A convolution's weight is used once for each output position (a transposed one's: input position), a linear
    layer's and an attention projection's once for each row, a recurrent layer's once for each step of each sequence.
    Biases, norms and the products of attention itself have no weights and do not count.
    """
    if isinstance(part, TransposedConvolution):
        given = _arguments(part, inputs, named)["input"]
        yield part.weight, given.numel() // max(part.in_channels, 1)
    elif isinstance(part, Convolution):
        yield part.weight, output.numel() // max(part.out_channels, 1)
    elif isinstance(part, nn.Linear):
        yield part.weight, output.numel() // max(part.out_features, 1)
    elif isinstance(part, (nn.RNNBase, nn.RNNCellBase)):
        given = _arguments(part, inputs, named)["input"]
        steps = given.data.numel() // part.input_size  # `data`, because a packed sequence holds its values there
        layers: Any = [[part.weight_ih, part.weight_hh]] if isinstance(part, nn.RNNCellBase) else part.all_weights
        yield from ((weight, steps) for weight in itertools.chain(*layers) if weight.dim() > 1)
    elif isinstance(part, nn.MultiheadAttention):  # calls no layer of its own
        given = _arguments(part, inputs, named)
        rows = [given[name].numel() // given[name].shape[-1] for name in ("query", "key", "value")]
        if part.embed_dim == part.kdim == part.vdim:
            projections = part.in_proj_weight.chunk(3)
        else:
            projections = (part.q_proj_weight, part.k_proj_weight, part.v_proj_weight)
        yield from zip(projections, rows, strict=True)
        yield part.out_proj.weight, rows[0]


def _arguments(part: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    return inspect.signature(part.forward).bind(*inputs, **named).arguments


@torch.no_grad()
def count_macs(module: nn.Module, inputs: Any) -> Macs:
    """Return the MACs of all convolutions, linear layers, attention projections and recurrent layers for one sample.

    `inputs`: a batch as the model takes it; the result is the mean over its samples, rounded down. The module is not
    changed.
    """
    dense = effective = 0

    def see(part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        nonlocal dense, effective
        for weight, uses in weight_uses(part, inputs, named, output):
            dense += uses * weight.numel()
            effective += uses * int(weight.count_nonzero())

    was_training = module.training
    hooks = [part.register_forward_hook(see, with_kwargs=True) for part in module.modules()]
    try:
        with own_randomness():
            model_call(module.eval(), inputs)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    samples = max(1, number_of_samples(inputs))
    return Macs(dense // samples, effective // samples)
