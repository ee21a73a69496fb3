"""What an agent sees of each layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from channel_networks import NETWORKS, SHAPE, traced
from torch import nn

from orchestrator.amc.cost import free_groups
from orchestrator.amc.decisions import channel_budget
from orchestrator.amc.features import Features
from orchestrator.amc.forward_shapes import layer_shapes
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.pruning.channels.trace import trace_channels


def features_of(network: str, **options: object) -> tuple[Features, list[int]]:
    module, graph, prunable = traced(network)
    shapes = layer_shapes(module, lambda: module(torch.zeros(1, *SHAPE)))
    budget = channel_budget(graph, prunable, 0.5, round_to=1, shapes=shapes, **options)
    return Features(budget), [decision.maximum for decision in budget.decisions]


def test_states_of_a_chain_are_those_made_by_hand():
    features, _ = features_of("chain")
    # MACs of the layers: 64 pixels * 9 * 8, 16 * 9 * 8 * 16, 16 * 16 * 24, and 24 * 10 of the classifier
    one, two, three = 64 * 9 * 8, 16 * 9 * 8 * 16, 16 * 16 * 24
    total = one + two + three + 240
    # After 4 of 8 channels: half of the first layer and half of the second are gone.
    gone = (one + two) / 2 / total
    # After 4 of 16 more: a quarter of the second layer's half is left, and a quarter of the third.
    left = one / 2 + two / 8 + three / 4 + 240
    expected = [
        [0, 8 / 24, 1 / 16, 1, 1, 1 / 2, 1, one / total, 0, (two + three) / total, 1],
        [1 / 2, 16 / 24, 8 / 16, 1, 1, 1, 1, two / total, gone, three / total, 1 / 2],
        [1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 3, three / total, 1 - left / total, 0, 1 / 4],
    ]
    np.testing.assert_allclose(features.of((4, 4, 1)), expected, rtol=1e-6)


def test_height_and_width_are_told_apart():
    module = NETWORKS["chain"]().eval()
    images = torch.zeros(1, 1, 6, 8)
    _, _, prunable = traced("chain")
    shapes = layer_shapes(module, lambda: module(images))
    budget = channel_budget(trace_channels(module, images), prunable, 0.5, round_to=1, shapes=shapes)
    found = [(decision.traits.height, decision.traits.width) for decision in budget.decisions]
    assert found == [(6, 8), (6, 8), (3, 4)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("unit", ["macs", "parameters", "weights"])
def test_every_feature_is_in_0_to_1_and_every_group_has_one_state(network, unit):
    features, maxima = features_of(network, unit=unit)
    _, graph, prunable = traced(network)
    for sizes in (maxima, [1] * len(maxima), [max(1, size // 2) for size in maxima]):
        states = features.of(sizes)
        assert states.shape == (len(free_groups(graph, prunable)), 11)
        assert ((states >= 0) & (states <= 1)).all()


def test_shapes_are_those_of_the_layers_and_the_module_is_left_as_it_was():
    module = nn.Sequential(
        nn.Conv2d(2, 6, (3, 5), stride=2, padding="valid", groups=2),
        nn.ConvTranspose2d(6, 4, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2),
        nn.Flatten(2),
        nn.Linear(9, 7),
    ).train()
    module[1].eval()
    shapes = layer_shapes(module, lambda: module(torch.zeros(1, 2, 9, 11)))
    ones = (1, 1)
    assert shapes == {
        "0": LayerShape(2, 6, (9, 11), (3, 5), (2, 2), ones, ((0, 0), (0, 0)), groups=2),
        "1": LayerShape(6, 4, (4, 4), (2, 2), ones, ones, ((1, 1), (1, 1)), transposed=True),
        "2": LayerShape(4, 4, (3, 3), (3, 3), ones, (2, 2), ((2, 2), (2, 2))),
        "4": LayerShape(9, 7, rows=4),
    }
    assert [part.training for part in module] == [True, False, True, True, True]
    assert not any(part._forward_hooks for part in module)
