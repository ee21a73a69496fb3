"""A network that was taken out of a supernet is a model like any other: it is pruned, cut and exported."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from supernets import SMALL, TINY_RESNET, digits, random_supernet

from orchestrator.ofa.extract import extract
from orchestrator.pruning import prunable_weights
from orchestrator.pruning.channels.budget import keep_by_budget
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.macs import count_macs


@pytest.mark.parametrize("space", [SMALL, TINY_RESNET], ids=["small", "resnet"])
def test_its_channels_can_be_removed(space):
    network = extract(random_supernet(space, channels=3), space.largest())
    graph = trace_channels(network, torch.zeros(1, 3, 32, 32))
    kept = keep_by_budget(graph, dict(prunable_weights(network)), 0.6, round_to=4)
    smaller = shrink(copy.deepcopy(network), kept)
    assert smaller(digits(2, 32, 3)).shape == (2, 10)
    assert (
        count_macs(smaller, torch.zeros(1, 3, 32, 32)).dense == graph.counts(kept).macs <= 0.6 * graph.counts({}).macs
    )


def test_its_prunable_weights_are_those_of_the_largest_without_the_matrices():
    supernet = random_supernet()
    weights = prunable_weights(extract(supernet, SMALL.largest()))
    assert list(prunable_weights(supernet)) == [f"network.{name}" for name in weights]
    assert len(prunable_weights(extract(supernet, SMALL.smallest()))) < len(weights)


def test_it_is_exported_and_gives_the_same_bits():
    network, images = extract(random_supernet(), SMALL.sample(Random(1))), digits()
    program = torch.export.export(network, (images,))
    with torch.no_grad():
        assert torch.equal(program.module()(images), network(images))
