"""What an architecture costs, without building it: exactly what `count_macs` finds in the network taken out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from orchestrator.ofa.architecture import Architecture, StageChoice
from orchestrator.ofa.elastic import skeleton
from orchestrator.ofa.networks import FAMILIES, Part
from orchestrator.pruning.macs import weight_uses


class Cost(NamedTuple):
    """Multiply-accumulates of one image, and parameters, biases and those of batch norm included."""

    macs: int
    parameters: int


class _Step(NamedTuple):
    """The cost of some parts in a row, and the shape (channels, H, W) that they give."""

    macs: int
    parameters: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CostModel:
    """Count networks for images of `input_shape` (channels, H, W); an architecture's resolution replaces H and W."""

    num_classes: int
    input_shape: tuple[int, int, int]

    def __call__(self, architecture: Architecture) -> Cost:
        family = FAMILIES[architecture.family]
        shape: tuple[int, ...] = self.input_shape
        if architecture.resolution is not None:
            shape = (shape[0], architecture.resolution, architecture.resolution)
        stem, _ = family.stem(shape[0])
        steps = [_in_a_row(stem, shape)]
        for place, choice in enumerate(architecture.stages):
            steps.append(_stage(architecture.family, place, choice, steps[-1].shape))
        steps.append(_part(family.head(steps[-1].shape[0], self.num_classes), steps[-1].shape))
        return Cost(sum(step.macs for step in steps), sum(step.parameters for step in steps))


@lru_cache(maxsize=2**18)
def _stage(family: str, place: int, choice: StageChoice, shape: tuple[int, ...]) -> _Step:
    parts, _ = FAMILIES[family].stage(place, choice, shape[0])
    return _in_a_row(parts, shape)


def _in_a_row(parts: Iterable[Part], shape: tuple[int, ...]) -> _Step:
    macs = parameters = 0
    for part in parts:
        step = _part(part, shape)
        macs, parameters, shape = macs + step.macs, parameters + step.parameters, step.shape
    return _Step(macs, parameters, shape)


@lru_cache(maxsize=2**16)
def _part(part: Part, shape: tuple[int, ...]) -> _Step:
    module, macs = skeleton(part).eval(), 0

    def see(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        nonlocal macs
        macs += sum(uses * weight.numel() for weight, uses in weight_uses(layer, inputs, named, output))

    hooks = [layer.register_forward_hook(see, with_kwargs=True) for layer in module.modules()]
    try:
        with torch.no_grad():
            output = module(torch.empty((1, *shape), device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return _Step(macs, sum(parameter.numel() for parameter in module.parameters()), tuple(output.shape[1:]))
