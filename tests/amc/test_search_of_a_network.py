"""A search from a network to a smaller one, in one process: the loop that the driver does on a cluster."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from channel_networks import NETWORKS, SHAPE, traced

from orchestrator.amc.agents import Cem, Evolution
from orchestrator.amc.bounds import Budget
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.decisions import channel_budget, group_sizes, kept_weights, weight_budget
from orchestrator.amc.forward_shapes import layer_shapes
from orchestrator.amc.least_squares import input_products, reconstructed
from orchestrator.amc.ratio_search import Allocation, RatioSearch, SearchOutcome, SearchSettings
from orchestrator.amc.recalibrate import recalibrated
from orchestrator.decode import decode
from orchestrator.modules import copy_module
from orchestrator.pruning.channels.budget import keep_sizes
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.macs import count_macs

IMAGES = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(0))


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in module.named_parameters() if weight.dim() > 1}


def search(settings: SearchSettings, budget: Budget, score) -> SearchOutcome:
    running, scores = RatioSearch(settings, budget, 0), {}
    while not isinstance(step := running.step(scores), SearchOutcome):
        scores |= {candidate.digest: score(candidate) for candidate in step}
    return step


def loss(module: torch.nn.Module, dense: torch.nn.Module) -> float:
    with torch.no_grad():
        return float((module(IMAGES) - dense(IMAGES)).square().mean())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("agent", [Cem(), Ddpg(hidden=8, batch=8, warm_up=8)], ids=["cem", "ddpg"])
def test_what_is_found_is_within_the_budget_and_no_worse_than_its_rivals(network, agent):
    """Scored by how far the smaller network's outputs are from the dense one's, with kept channels reconstructed."""
    dense, graph, prunable = traced(network)
    shapes = layer_shapes(dense, lambda: dense(IMAGES[:1]))
    budget = channel_budget(graph, prunable, 0.5, round_to=2, shapes=shapes)
    products = input_products(dense, [IMAGES])

    def built(candidate: Allocation) -> torch.nn.Module:
        weights = weights_of(dense)
        kept = keep_sizes(graph, weights, group_sizes(graph, weights, candidate.sizes))
        smaller = shrink(copy_module(dense), kept)
        smaller.load_state_dict(reconstructed(weights_of(dense), products, kept), strict=False)
        return recalibrated(smaller, [IMAGES])

    settings = SearchSettings(agent, evaluations=16, generation=8, finalists=2)
    outcome = search(settings, budget, lambda candidate: -loss(built(candidate), dense))
    assert count_macs(built(outcome.chosen), torch.zeros(1, *SHAPE)).dense <= 0.5 * graph.macs
    assert outcome.score == -loss(built(outcome.chosen), dense)
    assert all(outcome.score >= result.final_score for result in outcome.results)


def test_a_search_for_densities_keeps_exactly_the_density():
    dense, graph, sizes = traced("residual")
    uses = {layer.weight: layer.positions for layer in graph.layers.values() if layer.weight}
    budget = weight_budget(sizes, 0.2, sizes=sizes, uses=uses)

    def masked(candidate: Allocation) -> torch.nn.Module:
        module = copy_module(dense)
        with torch.no_grad():
            for name, mask in kept_weights(weights_of(dense), candidate.sizes).items():
                module.get_parameter(name).mul_(mask)
        return module

    settings = SearchSettings(Evolution(), evaluations=16, generation=8, finalists=2, mode="weights")
    outcome = search(settings, budget, lambda candidate: -loss(masked(candidate), dense))
    left = sum(int(weight.count_nonzero()) for weight in weights_of(masked(outcome.chosen)).values())
    assert left == int(0.2 * sum(sizes.values()))
    assert outcome.chosen.mode == "weights"


def test_an_outcome_is_plain_json():
    _, graph, prunable = traced("chain")
    budget = channel_budget(graph, prunable, 0.5, round_to=2)
    outcome = search(
        SearchSettings(evaluations=8, generation=4, finalists=2), budget, lambda candidate: candidate.sizes[0] / 8
    )
    assert decode(SearchOutcome, json.loads(json.dumps(asdict(outcome)))) == outcome
