"""Latency by blocks: with times that are multiply-accumulates, it is the multiply-accumulates of the network."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from supernets import SMALL, TINY_RESNET

from orchestrator.amc.latency import LatencyTable, LayerTimes
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.errors import ConfigError
from orchestrator.ofa import block_latency
from orchestrator.ofa.block_latency import BlockLatency, every_block, measure_blocks
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.subnet import Elastic

SUPERNET = Elastic(SMALL, 10, (1, 8, 8))


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
    supernet, rng = Elastic(space, 1000, (3, 160, 160)), Random(0)
    latency = BlockLatency.of(supernet, by_macs(supernet))
    for _ in range(5):
        architecture = space.sample(rng)
        assert latency(architecture).latency_ms == pytest.approx(1000 * supernet.costs(architecture).macs)


def test_each_distinct_layer_is_measured_once(by_macs):
    table = by_macs(SUPERNET)
    assert len(table.layers) == 47
    assert len({architecture.digest for architecture in every_block(SMALL)}) <= 24


def test_equal_tables_are_equal_costs_and_others_are_not(by_macs):
    table = by_macs(SUPERNET)
    assert hash(BlockLatency.of(SUPERNET, table)) == hash(BlockLatency.of(SUPERNET, by_macs(SUPERNET)))
    assert BlockLatency.of(SUPERNET, table) != BlockLatency.of(SUPERNET, replace(table, threads=2))


def test_a_table_of_other_images_and_a_space_of_several_widths_are_refused(by_macs):
    with pytest.raises(ConfigError, match=r"lacks the layer '1>16 3x3 of 9x9.*orchestrator latency for the space"):
        BlockLatency.of(replace(SUPERNET, input_shape=(1, 9, 9)), by_macs(SUPERNET))
    with pytest.raises(ConfigError, match="needs stages of one width, got the space 'tiny resnet'"):
        by_macs(Elastic(TINY_RESNET, 10, (3, 32, 32)))
    with pytest.raises(ConfigError, match="lacks the layer"):
        BlockLatency.of(SUPERNET, LatencyTable("any", 1, "made", {"other": LayerTimes(1, [1], [1], [[1.0]])}))
