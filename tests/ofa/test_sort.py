"""Channels are sorted so that no network that is trained already changes."""

from __future__ import annotations

import copy

import pytest
import torch
from supernets import SMALL, TINY_RESNET, digits, random_supernet

from orchestrator.ofa.extract import extract
from orchestrator.ofa.sort import channel_orders, reorder, sort_channels
from orchestrator.ofa.spaces import find_space
from orchestrator.ofa.stage import Largest

WIDEST = SMALL.narrowed(Largest(expands=1))


def importance(weight):
    return weight.abs().sum((0, 2, 3))


@torch.no_grad()
def outputs(supernet, space, images):
    return [supernet(images, architecture) for architecture in space.uniform()]


@pytest.mark.parametrize(
    ("space", "kept"),
    [(SMALL, 1), (SMALL, 2), (SMALL, 3), (find_space("compofa"), 2), (TINY_RESNET, 1), (TINY_RESNET, 2)],
    ids=lambda value: getattr(value, "name", value),
)
def test_networks_of_trained_widths_stay_the_same_functions(space, kept):
    trained = space.narrowed(Largest(expands=kept, depths=kept))
    channels, size = (1, 8) if space is SMALL else (3, 32)
    supernet, images = random_supernet(space, channels), digits(2, size, channels)
    before = outputs(supernet.double(), trained, images.double())
    sort_channels(supernet, trained)
    for old, new in zip(before, outputs(supernet, trained, images.double()), strict=True):
        assert torch.allclose(old, new, rtol=1e-6, atol=1e-6 * float(old.abs().max()))


def test_the_first_sort_puts_the_channels_that_matter_most_first():
    supernet = random_supernet()
    block = supernet.network.stages[1][0]
    before = importance(block.project.conv.weight.detach())
    sort_channels(supernet, WIDEST)
    after = importance(block.project.conv.weight.detach())
    assert torch.allclose(after, before.sort(descending=True).values)
    narrow = extract(supernet, SMALL.smallest()).stages[1][0].project.conv.weight.detach()
    assert torch.allclose(importance(narrow), before.topk(narrow.shape[1]).values)
    hidden = importance(block.squeeze.restore.weight.detach())
    assert torch.equal(hidden, hidden.sort(descending=True).values)


def test_the_next_sort_stays_within_the_widths_that_are_trained():
    supernet = random_supernet()
    weight = supernet.network.stages[1][1].project.conv.weight
    before = importance(weight.detach())
    sort_channels(supernet, SMALL.narrowed(Largest(expands=2)))
    after = importance(weight.detach())
    middle = 3 * 32  # expand 3 of the 32 channels of the stage
    assert torch.allclose(after[:middle], before[:middle].sort(descending=True).values)
    assert torch.allclose(after[middle:], before[middle:].sort(descending=True).values)


def test_sorting_twice_changes_nothing():
    supernet = random_supernet()
    sort_channels(supernet, WIDEST)
    before = copy.deepcopy(supernet.state_dict())
    sort_channels(supernet, WIDEST)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_equal_channels_keep_their_order():
    supernet = random_supernet()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.fill_(1.0)
    orders = channel_orders(supernet, WIDEST)
    assert orders
    assert all(torch.equal(order, torch.arange(len(order))) for sides in orders.values() for _, order in sides)


def test_an_optimizers_momentum_can_be_put_into_the_same_order():
    supernet = random_supernet()
    momentum = {name: tensor.clone() for name, tensor in supernet.network.named_parameters()}
    statistics = {name: tensor.clone() for name, tensor in supernet.network.named_buffers()}
    orders = sort_channels(supernet, WIDEST)
    reorder({**momentum, **statistics}, orders)
    assert all(torch.equal(momentum[name], tensor) for name, tensor in supernet.network.named_parameters())
