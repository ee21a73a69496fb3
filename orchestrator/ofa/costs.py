"""What an architecture costs, without building it: exactly what `count_macs` finds in the network taken out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from orchestrator.ofa.architecture import Architecture, StageChoice
from orchestrator.ofa.blocks import Size
from orchestrator.ofa.elastic import skeleton
from orchestrator.ofa.networks import FAMILIES, Part, is_resized


class SubnetCost(NamedTuple):
    """Multiply-accumulates of one image, and parameters, biases and those of batch norm included."""

    macs: int
    parameters: int


@dataclass(frozen=True)
class CostModel:
    """Count networks for images of `input_shape` (channels, H, W), which are made smaller to the resolution."""

    num_classes: int
    input_shape: tuple[int, int, int]

    def __call__(self, architecture: Architecture) -> SubnetCost:
        family, (channels, *size) = architecture.family, self.input_shape
        height, width = size
        if architecture.resolution is not None and is_resized((height, width), architecture.resolution):
            height = width = architecture.resolution
        here = _stem(family, channels, (height, width))
        macs, parameters = here.macs, here.parameters
        for place, choice in enumerate(architecture.stages):
            here = _stage(family, place, choice, here.channels, here.size)
            macs, parameters = macs + here.macs, parameters + here.parameters
        head = _head(family, self.num_classes, here.channels, here.size)
        return SubnetCost(macs + head.macs, parameters + head.parameters)


class _Passed(NamedTuple):
    """The cost of some parts in a row, and the channels and size of the images that they give."""

    macs: int
    parameters: int
    channels: int
    size: Size


@lru_cache(maxsize=2**10)
def _stem(family: str, channels: int, size: Size) -> _Passed:
    return _in_a_row(*FAMILIES[family].stem(channels), size)


@lru_cache(maxsize=2**18)
def _stage(family: str, place: int, choice: StageChoice, channels: int, size: Size) -> _Passed:
    return _in_a_row(*FAMILIES[family].stage(place, choice, channels), size)


@lru_cache(maxsize=2**10)
def _head(family: str, num_classes: int, channels: int, size: Size) -> _Passed:
    return _in_a_row([FAMILIES[family].head(channels, num_classes)], num_classes, size)


def _in_a_row(parts: Iterable[Part], channels: int, size: Size) -> _Passed:
    macs = parameters = 0
    for part in parts:
        own, size = part_macs(part, size)
        macs, parameters = macs + own, parameters + _parameters(part)
    return _Passed(macs, parameters, channels, size)


@lru_cache(maxsize=2**16)
def part_macs(part: Part, size: Size) -> tuple[int, Size]:
    """Return the multiply-accumulates of a part for an image of this size, and the size of its output."""
    found: tuple[int, Size] = skeleton(part).macs(size)  # type: ignore[operator]  # of an nn.Module, mypy knows nothing
    return found


@lru_cache(maxsize=2**13)
def _parameters(part: Part) -> int:
    return sum(parameter.numel() for parameter in skeleton(part).parameters())
