"""The cost of what a search keeps is that of the network that is built."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from channel_networks import NETWORKS, SHAPE, Chain, traced

from orchestrator.amc.cost import ChannelCost, free_groups, weight_cost
from orchestrator.amc.decisions import channel_budget, group_sizes, kept_weights, weight_budget
from orchestrator.errors import ConfigError
from orchestrator.modules import copy_module
from orchestrator.pruning.channels.budget import keep_sizes
from orchestrator.pruning.channels.graph import ChannelGraph, Cut, Group, Layer, Member
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.macs import count_macs

UNITS = ("macs", "parameters", "weights")


def counted(module: torch.nn.Module) -> dict[str, int]:
    return {
        "macs": count_macs(module, torch.zeros(1, *SHAPE)).dense,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "weights": sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1),
    }


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in module.named_parameters() if weight.dim() > 1}


@pytest.mark.parametrize("network", NETWORKS)
def test_cost_is_that_of_the_network_that_is_built(network):
    module, graph, prunable = traced(network)
    draw = np.random.default_rng(0)
    groups = [graph.groups[place] for place in free_groups(graph, prunable)]
    for _ in range(5):
        sizes = [int(draw.integers(1, group.size + 1)) for group in groups]
        weights = weights_of(module)
        kept = keep_sizes(graph, weights, group_sizes(graph, weights, sizes))
        built = counted(shrink(copy_module(module), kept))
        costs = {unit: ChannelCost(graph, prunable, unit, {})(sizes) for unit in UNITS}
        assert costs == built
        assert (costs["macs"], costs["parameters"]) == (graph.counts(kept).macs, graph.counts(kept).parameters)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_later_round_counts_from_what_its_parent_left(network):
    module, graph, prunable = traced(network)
    first = keep_sizes(graph, weights_of(module), [max(2, g.size // 2) for g in graph.groups])
    parent = shrink(copy_module(module), first)
    for unit in UNITS:
        budget = channel_budget(graph, prunable, 1.0, unit=unit, round_to=1, kept=first)
        assert budget.cost([d.maximum for d in budget.decisions]) == counted(parent)[unit]
        assert budget.dense == counted(module)[unit]
        sizes = [max(1, d.maximum - 1) for d in budget.decisions]
        weights = weights_of(parent)
        kept = keep_sizes(graph, weights, group_sizes(graph, weights, sizes), kept=first)
        assert budget.cost(sizes) == counted(shrink(copy_module(module), kept))[unit]


@pytest.mark.parametrize("unit", UNITS)
def test_parts_and_what_no_decision_changes_are_the_whole(unit):
    _, graph, prunable = traced("chain")
    cost = ChannelCost(graph, prunable, unit, {})
    assert cost.widths.maxima == (8, 16, 24)
    assert sum(cost.parts((3, 5, 7)).values()) == cost((3, 5, 7))


def test_the_cost_of_a_chain_is_that_made_by_hand():
    _, graph, prunable = traced("chain")
    a, b, c = 3, 5, 7
    assert ChannelCost(graph, prunable, "macs", {})((a, b, c)) == 64 * 9 * a + 16 * 9 * a * b + 16 * b * c + 10 * c
    assert ChannelCost(graph, prunable, "weights", {})((a, b, c)) == 9 * a + 9 * a * b + b * c + 10 * c


def test_a_frozen_layer_keeps_its_channels():
    _, graph, prunable = traced("chain")
    trained = {name: size for name, size in prunable.items() if name != "2.weight"}
    assert len(free_groups(graph, trained)) == 2
    budget = channel_budget(graph, trained, 0.9, round_to=1)
    assert [decision.name for decision in budget.decisions] == ["0", "5"]
    assert budget.dense == graph.macs


def test_channels_that_a_layer_holds_unequally_often_are_no_decision():
    """What they cost would depend on which of them stay."""
    layers = {
        "a": Layer({"a.weight": Cut((2, 1), ("out", "in"), True)}, "a.weight", 1),
        "b": Layer({"b.weight": Cut((1, 3), ("out", "in"), True)}, "b.weight", 1),
    }
    group = Group(2, (Member("a", "out", (0, 1), (0, 1)), Member("b", "in", (0, 1, 2), (0, 1, 1))))
    assert free_groups(ChannelGraph(layers, (group,), 5, 5), {"a.weight": 2, "b.weight": 3}) == []


@pytest.mark.parametrize("unit", UNITS)
def test_the_cost_of_densities_is_that_of_the_masked_network(unit):
    module, graph, sizes = traced("chain")
    uses = {layer.weight: layer.positions for layer in graph.layers.values() if layer.weight}
    parameters = sum(parameter.numel() for parameter in module.parameters())
    cost = weight_cost(unit, uses, macs=graph.macs, parameters=parameters, sizes=sizes)
    kept = [1 + size // 3 for size in sizes.values()]
    masks = kept_weights(weights_of(module), kept)
    assert [int(mask.sum()) for mask in masks.values()] == kept
    masked = copy_module(module)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    biases = parameters - sum(sizes.values())
    expected = {
        "macs": count_macs(masked, torch.zeros(1, *SHAPE)).effective,
        "parameters": sum(kept) + biases,
        "weights": sum(kept),
    }
    assert cost(kept) == expected[unit]
    assert cost(list(sizes.values())) == counted(module)[unit]


def test_masks_stay_within_those_of_the_parent_round():
    module = Chain()
    first = kept_weights(weights_of(module), [w.numel() // 2 for w in weights_of(module).values()])
    second = kept_weights(weights_of(module), [w.numel() // 4 for w in weights_of(module).values()], masks=first)
    assert all(not (mask & ~first[name]).any() for name, mask in second.items())


def test_latency_is_refused_for_densities_and_without_a_table():
    _, graph, prunable = traced("chain")
    with pytest.raises(ConfigError, match="zeros in dense tensors save no time"):
        weight_budget(prunable, 0.5, unit="latency", sizes=prunable, uses={})
    with pytest.raises(ConfigError, match="unit 'latency' needs a table"):
        channel_budget(graph, prunable, 0.5, unit="latency")
