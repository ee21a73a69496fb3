"""What an architecture costs, without building it: exactly what `count_macs` finds in the network taken out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from orchestrator.models.ofa_blocks import Size
from orchestrator.models.ofa_networks import FAMILIES, ImageArguments, Part
from orchestrator.ofa.architecture import Architecture, StageChoice
from orchestrator.ofa.elastic import skeleton


class SubnetCost(NamedTuple):
    """Multiply-accumulates of one sample, and parameters, biases and those of batch norm included."""

    macs: int
    parameters: int


@dataclass(frozen=True)
class CostModel:
    """Count networks for data with these arguments, at the resolution of each."""

    arguments: ImageArguments

    def __call__(self, architecture: Architecture) -> SubnetCost:
        family, arguments = architecture.family, self.arguments
        here = _stem(family, arguments, arguments.size_at(architecture.resolution))
        macs, parameters = here.macs, here.parameters
        for place, choice in enumerate(architecture.stages):
            here = _stage(family, place, choice, here.channels, here.size)
            macs, parameters = macs + here.macs, parameters + here.parameters
        head = _head(family, arguments, here.channels, here.size)
        return SubnetCost(macs + head.macs, parameters + head.parameters)


class _Passed(NamedTuple):
    """The cost of some parts in a row, and the channels and size of what they give."""

    macs: int
    parameters: int
    channels: int
    size: Size


@lru_cache(maxsize=2**10)
def _stem(family: str, arguments: ImageArguments, size: Size) -> _Passed:
    return _in_a_row(*FAMILIES[family].stem(arguments), size)


@lru_cache(maxsize=2**18)
def _stage(family: str, place: int, choice: StageChoice, channels: int, size: Size) -> _Passed:
    return _in_a_row(*FAMILIES[family].stage(place, choice, channels), size)


@lru_cache(maxsize=2**10)
def _head(family: str, arguments: ImageArguments, channels: int, size: Size) -> SubnetCost:
    part = FAMILIES[family].head(channels, arguments)
    return SubnetCost(part_macs(part, size)[0], _parameters(part))


def _in_a_row(parts: Iterable[Part], channels: int, size: Size) -> _Passed:
    macs = parameters = 0
    for part in parts:
        own, size = part_macs(part, size)
        macs, parameters = macs + own, parameters + _parameters(part)
    return _Passed(macs, parameters, channels, size)


@lru_cache(maxsize=2**16)
def part_macs(part: Part, size: Size) -> tuple[int, Size]:
    """Return the multiply-accumulates of a part for an input of this size, and the size of its output."""
    found: tuple[int, Size] = skeleton(part).macs(size)  # type: ignore[operator]  # of an nn.Module, mypy knows nothing
    return found


@lru_cache(maxsize=2**13)
def _parameters(part: Part) -> int:
    return sum(parameter.numel() for parameter in skeleton(part).parameters())
