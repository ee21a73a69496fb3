"""Latency of a network of a space: the sum of its layers' measured times, from a table for all networks of the space.

The table is an AMC `LatencyTable` whose layers are named by their geometry, each with its one size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import torch

from orchestrator.amc.forward_shapes import layer_shapes
from orchestrator.amc.latency import MAKE_AGAIN, LatencyTable, LayerTimes
from orchestrator.amc.latency_measure import in_own_process
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.errors import ConfigError
from orchestrator.models.ofa_blocks import Size
from orchestrator.models.ofa_networks import Part
from orchestrator.ofa.architecture import Architecture, BlockChoice, StageChoice
from orchestrator.ofa.costs import part_macs
from orchestrator.ofa.elastic import skeleton
from orchestrator.ofa.spaces import Space
from orchestrator.ofa.subnet import Elastic
from orchestrator.processor import processor


class SubnetLatency(NamedTuple):
    """Milliseconds for one sample."""

    latency_ms: float


@dataclass(frozen=True)
class BlockLatency:
    """Add up a table's times of an architecture's layers. Raises ConfigError for a table of other networks."""

    supernet: Elastic
    digest: str
    table: LatencyTable = field(compare=False, repr=False)

    @staticmethod
    def of(supernet: Elastic, table: LatencyTable) -> BlockLatency:
        latency = BlockLatency(supernet, table.digest, table)
        latency(supernet.space.largest())
        return latency

    def __call__(self, architecture: Architecture) -> SubnetLatency:
        return _latency(self, architecture)

    def cheapest(self, space: Space) -> Architecture:
        """Return the network of `space` that takes the least time, which need not be the smallest.

        A small kernel may be measured slower than a larger one. Each stage has one width, so at one resolution and
        depth the choice for a block adds the same time to every network, and is made alone.
        """
        return _cheapest(self, space)


@lru_cache(maxsize=2**16)
def _latency(latency: BlockLatency, architecture: Architecture) -> SubnetLatency:
    seconds = 0.0
    for shape in subnet_layers(latency.supernet, architecture):
        if (times := latency.table.layers.get(layer_name(shape))) is None:
            raise ConfigError(
                f"the latency table lacks the layer {layer_name(shape)!r} of {architecture}: {MAKE_AGAIN} for the "
                f"space {latency.supernet.space.name!r} and {latency.supernet.arguments}"
            )
        seconds += times.seconds[0][0]
    return SubnetLatency(1000 * seconds)


@lru_cache(maxsize=64)
def _cheapest(latency: BlockLatency, space: Space) -> Architecture:
    found = (_cheapest_at(latency, space, resolution) for resolution in space.resolutions or (None,))
    return min(found, key=lambda architecture: latency(architecture).latency_ms)


def _cheapest_at(latency: BlockLatency, space: Space, resolution: int | None) -> Architecture:
    chosen = replace(space.smallest(), resolution=resolution)
    for place, stage in enumerate(space.stages):

        def seconds(choice: StageChoice, place: int = place, others: Architecture = chosen) -> float:
            return latency(_with_stage(others, place, choice)).latency_ms

        choices = []
        for depth, allowed in stage.blocks.items():
            choice = StageChoice(stage.widths[0], allowed[:1] * depth)
            for block in range(depth):
                before, after = choice.blocks[:block], choice.blocks[block + 1 :]
                choice = min((replace(choice, blocks=(*before, each, *after)) for each in allowed), key=seconds)
            choices.append(choice)
        chosen = _with_stage(chosen, place, min(choices, key=seconds))
    return chosen


def _with_stage(architecture: Architecture, place: int, choice: StageChoice) -> Architecture:
    return replace(architecture, stages=(*architecture.stages[:place], choice, *architecture.stages[place + 1 :]))


def measure_blocks(supernet: Elastic, *, threads: int = 1) -> LatencyTable:
    """Return the times of every layer that a network of the space can have. Raises ConfigError, ExportError.

    Each stage must have one width: with several, a layer's inputs would depend on two stages.
    """
    if any(len(stage.widths) > 1 for stage in supernet.space.stages):
        raise ConfigError(
            f"latency by blocks needs stages of one width, got the space {supernet.space.name!r}: give a budget of "
            "macs or parameters"
        )
    shapes = {
        layer_name(shape): shape
        for architecture in every_block(supernet.space)
        for shape in subnet_layers(supernet, architecture)
    }
    seconds, runtime = in_own_process(list(shapes.values()), threads)
    layers = {
        name: LayerTimes(max(1, shape.rows), [shape.outputs], [shape.inputs], [[taken]])
        for (name, shape), taken in zip(shapes.items(), seconds, strict=True)
    }
    return LatencyTable(processor(), threads, runtime, layers)


def every_block(space: Space) -> Iterator[Architecture]:
    """Yield architectures that together have every block of every stage, at every resolution."""
    largest = space.largest()
    for resolution in space.resolutions or (None,):
        for place, stage in enumerate(space.stages):
            for depth, kernel, expand in itertools.product(stage.depths, stage.kernels, stage.expands):
                choice = StageChoice(stage.widths[-1], (BlockChoice(kernel, expand),) * depth)
                if stage.holds(choice):
                    yield replace(_with_stage(largest, place, choice), resolution=resolution)


def subnet_layers(supernet: Elastic, architecture: Architecture) -> Iterator[LayerShape]:
    """Yield the geometry of each convolution and linear layer of an architecture's network, in order."""
    size = supernet.arguments.size_at(architecture.resolution)
    for part in supernet.parts(architecture).values():
        yield from _layers(part, size)
        size = part_macs(part, size)[1]


@lru_cache(maxsize=2**13)
def _layers(part: Part, size: Size) -> tuple[LayerShape, ...]:
    module, options = skeleton(part), dict(part.options)
    x = torch.empty(1, options.get("inputs") or options["channels"], *size, device="meta")
    return tuple(layer_shapes(module, lambda: module(x)).values())


def layer_name(shape: LayerShape) -> str:
    """Return what tells a layer from others: `16>32 3x3 of 8x8, stride 2, 1 groups`."""
    if not shape.kernel:
        return f"{shape.inputs}>{shape.outputs} linear"
    kernel, size = ("x".join(map(str, sizes)) for sizes in (shape.kernel, shape.size))
    return f"{shape.inputs}>{shape.outputs} {kernel} of {size}, stride {shape.stride[0]}, {shape.groups} groups"
