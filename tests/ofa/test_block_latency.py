"""Latency by blocks: with times that are multiply-accumulates, it is the multiply-accumulates of the network."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from random import Random

import pytest
from supernets import SMALL, TINY_RESNET

from orchestrator.amc.latency import LatencyTable, LayerTimes
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.errors import ConfigError
from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa import block_latency
from orchestrator.ofa.block_latency import BlockLatency, every_block, measure_blocks
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import Elastic

SUPERNET = Elastic(SMALL, ImageArguments(10, (1, 8, 8)))


def macs_of(shape: LayerShape) -> float:
    """Padding keeps the size of an image, which a stride divides."""
    places = math.prod((size - 1) // stride + 1 for size, stride in zip(shape.size, shape.stride, strict=True))
    return float(shape.rows * shape.outputs * shape.inputs // shape.groups * math.prod(shape.kernel) * places)


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch):
    """Return a function that measures a supernet on a machine where each multiply-accumulate takes a second."""
    monkeypatch.setattr(block_latency, "in_own_process", lambda shapes, threads: ([*map(macs_of, shapes)], "counted"))
    return measure_blocks


def test_every_network_of_the_space_takes_what_its_layers_take(by_macs):
    latency = BlockLatency.of(SUPERNET, by_macs(SUPERNET))
    for architecture in list(SMALL.enumerate())[::7]:
        assert latency(architecture).latency_ms == pytest.approx(1000 * SUPERNET.costs(architecture).macs)


def test_so_does_a_network_of_a_large_space_at_its_resolution(by_macs):
    space = replace(find_space("mobilenetv3"), resolutions=(128, 144))
    supernet, rng = Elastic(space, ImageArguments(1000, (3, 160, 160))), Random(0)
    latency = BlockLatency.of(supernet, by_macs(supernet))
    for _ in range(5):
        architecture = space.sample(rng)
        assert latency(architecture).latency_ms == pytest.approx(1000 * supernet.costs(architecture).macs)


def test_each_distinct_layer_is_measured_once(by_macs):
    table = by_macs(SUPERNET)
    assert len(table.layers) == 47
    assert len({architecture.digest for architecture in every_block(SMALL)}) <= 24


@pytest.fixture
def slow_small_kernels(monkeypatch: pytest.MonkeyPatch):
    """Return a latency by a table whose 3x3 depthwise layers of one stride take longer than its 5x5 ones.

    The cheapest network is then not the smallest one.
    """

    def taken(shape: LayerShape) -> float:
        slow = shape.groups > 1 and shape.kernel == (3, 3) and shape.stride == (2, 2)
        return macs_of(shape) * (40 if slow else 1)

    monkeypatch.setattr(block_latency, "in_own_process", lambda shapes, threads: ([*map(taken, shapes)], "counted"))
    return BlockLatency.of(SUPERNET, measure_blocks(SUPERNET))


def test_the_cheapest_network_is_that_of_all(slow_small_kernels):
    times = {each: slow_small_kernels(each).latency_ms for each in SMALL.enumerate()}
    cheapest = slow_small_kernels.cheapest(SMALL)
    assert times[cheapest] == min(times.values()) < times[SMALL.smallest()]
    assert {block.kernel for stage in cheapest.stages for block in stage.blocks} == {3, 5}


def test_a_budget_that_only_one_network_meets_finds_it_even_if_it_is_not_the_smallest(slow_small_kernels):
    cheapest = slow_small_kernels.cheapest(SMALL)
    minimum = slow_small_kernels(cheapest).latency_ms
    quick, scores = SubnetEvolution(population=6, generations=2), lambda drawn: [1.0] * len(drawn)
    budget = Limit("latency_ms", minimum, slow_small_kernels)
    assert quick.run(SMALL, budget, scores, Random(0)) == [cheapest]
    with pytest.raises(ConfigError, match=re.escape(f"the minimum is {minimum:,.10g}, of {cheapest}")):
        Limit("latency_ms", 0.99 * minimum, slow_small_kernels).check(SMALL)


def test_where_the_smallest_network_is_the_cheapest_it_is_found_in_a_large_space(by_macs):
    space = replace(find_space("mobilenetv3"), resolutions=(128, 144))
    supernet = Elastic(space, ImageArguments(1000, (3, 160, 160)))
    assert BlockLatency.of(supernet, by_macs(supernet)).cheapest(space) == space.smallest()


def test_equal_tables_are_equal_costs_and_others_are_not(by_macs):
    table = by_macs(SUPERNET)
    assert hash(BlockLatency.of(SUPERNET, table)) == hash(BlockLatency.of(SUPERNET, by_macs(SUPERNET)))
    assert BlockLatency.of(SUPERNET, table) != BlockLatency.of(SUPERNET, replace(table, threads=2))


def test_a_table_of_other_images_and_a_space_of_several_widths_are_refused(by_macs):
    with pytest.raises(ConfigError, match=r"lacks the layer '1>16 3x3 of 9x9.*orchestrator latency for the space"):
        BlockLatency.of(replace(SUPERNET, arguments=ImageArguments(10, (1, 9, 9))), by_macs(SUPERNET))
    with pytest.raises(ConfigError, match="needs stages of one width, got the space 'tiny resnet'"):
        by_macs(Elastic(TINY_RESNET, ImageArguments(10, (3, 32, 32))))
    with pytest.raises(ConfigError, match="lacks the layer"):
        BlockLatency.of(SUPERNET, LatencyTable("any", 1, "made", {"other": LayerTimes(1, [1], [1], [[1.0]])}))
