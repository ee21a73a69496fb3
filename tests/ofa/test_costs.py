"""The cost of an architecture is what is counted in its network."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from supernets import each_stage_once, random_supernet

from orchestrator.models.ofa_networks import ImageArguments, build_network
from orchestrator.ofa.costs import CostModel, SubnetCost
from orchestrator.ofa.extract import extract
from orchestrator.ofa.spaces import SPACES, find_space
from orchestrator.pruning.macs import count_macs


def counted(network, shape):
    return SubnetCost(
        count_macs(network, torch.zeros(1, *shape)).dense, sum(parameter.numel() for parameter in network.parameters())
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 15)])
def test_every_choice_of_every_stage_costs_what_its_network_does(shape):
    supernet = random_supernet(channels=shape[0])
    model = CostModel(ImageArguments(10, shape))
    for architecture in list(each_stage_once())[::5]:
        assert model(architecture) == counted(extract(supernet, architecture), shape)


@pytest.mark.parametrize("name", ["mobilenetv3", "resnet50d"])
def test_an_architecture_of_a_large_space_costs_what_its_network_does_at_its_resolution(name):
    architecture = replace(find_space(name).sample(Random(1)), resolution=132)  # 66, 33, 17, 9 and 5 pixels inside
    arguments = ImageArguments(1000, (3, 500, 500))
    network = build_network(architecture, arguments)
    assert CostModel(arguments)(architecture) == counted(network, (3, 132, 132))


@pytest.mark.parametrize("name", SPACES)
def test_a_smaller_choice_never_costs_more(name):
    space, model, rng = SPACES[name], CostModel(ImageArguments(10, (3, 224, 224))), Random(2)
    current = space.largest()
    while (smaller := space.shrink(current, rng)) is not None:
        before, after = model(current), model(smaller)
        assert after.macs < before.macs
        assert after.parameters <= before.parameters
        current = smaller


def test_the_closed_form_of_the_smallest_network_for_one_pixel():
    """Stem 1 x 16 x 9 and 16 x 9 + 16 x 16; expand 2, 3 x 3, project, twice; squeeze-excitation with 8; head."""
    stem = 16 * 9 + 16 * 9 + 16 * 16
    stages = (16 * 32 + 32 * 9 + 32 * 16) + (16 * 32 + 32 * 9 + 2 * 32 * 8 + 32 * 32)
    head = 32 * 96 + 96 * 128 + 128 * 10
    assert CostModel(ImageArguments(10, (1, 1, 1)))(find_space("small").smallest()).macs == stem + stages + head
