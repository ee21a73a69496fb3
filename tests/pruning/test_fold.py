"""A masked channel and a removed one: equal outputs where they must be, and the answer says where not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from orchestrator.pruning.channel_trace import trace_channels
from orchestrator.pruning.fold import remove_silent

SHAPE = (3, 12, 12)


def network(*layers: nn.Module) -> nn.Module:
    """`layers` from 3 to 16 channels, with statistics of batch norm as if trained."""
    torch.manual_seed(0)
    module = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.bias, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                layer.running_mean.uniform_(-0.5, 0.0)  # zero filters then emit something above zero
    return module


def block(padding: int, bias: bool = False, mode: str = "zeros") -> list[nn.Module]:
    """Two convolutions: what the first one's silent channels emit, the second one reads."""
    return [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=padding, padding_mode=mode, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    ]


def head() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]


def silence(module: nn.Module, layer: str, channels: list[int]) -> None:
    with torch.no_grad():
        module.get_submodule(layer).weight[channels] = 0


def both(module: nn.Module) -> tuple[nn.Module, nn.Module, dict, object]:
    smaller = copy.deepcopy(module)
    kept, folding = remove_silent(smaller, trace_channels(module, SHAPE), SHAPE)
    return module, smaller, kept, folding


IMAGES = torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def outputs(*modules: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        return [module(IMAGES) for module in modules]


@pytest.mark.parametrize("layers", [block(0), block(0, bias=True), block(1, mode="reflect"), block(1, mode="circular")])
def test_without_zero_padding_the_outputs_are_equal(layers):
    module = network(*layers, *head())
    silence(module, "0", [1, 5])
    silence(module, "3", [0, 2, 7])  # read by the linear layer, behind the pooling
    masked, removed, kept, folding = both(module)
    assert kept["0"]["out"] == [0, 2, 3, 4, 6, 7]
    assert kept["8"]["in"] == [1, 3, 4, 5, 6]
    assert folding.exact
    assert folding.folded == {"3": 2, "8": 3}
    torch.testing.assert_close(*outputs(masked, removed), rtol=1e-12, atol=1e-12)


def test_without_folding_they_would_not_be_equal():
    module = network(*block(0), *head())
    silence(module, "0", [1, 5])
    masked, removed, _, _ = both(module)
    removed[4].running_mean.copy_(module[4].running_mean)
    first, second = outputs(masked, removed)
    assert (first - second).abs().max() > 1e-3


def test_behind_zero_padding_only_the_borders_differ_and_the_answer_says_so():
    module = network(*block(1), nn.Conv2d(8, 4, 1))
    silence(module, "0", [1, 5])
    masked, removed, _, folding = both(module)
    assert not folding.exact
    assert folding.folded == folding.borders == {"3": 2}
    assert folding.lost == {}
    first, second = outputs(masked, removed)
    torch.testing.assert_close(first[:, :, 1:-1, 1:-1], second[:, :, 1:-1, 1:-1], rtol=1e-12, atol=1e-12)
    border = torch.ones(first.shape[2:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (first - second)[:, :, border].abs().max() > 1e-3


def test_a_constant_of_zero_is_exact_whatever_the_padding():
    module = network(*block(1), *head())
    silence(module, "0", [1, 5])
    with torch.no_grad():  # below zero before the ReLU
        module[1].bias[[1, 5]] = -5.0
    masked, removed, _, folding = both(module)
    assert folding.exact
    assert folding.folded == {}
    torch.testing.assert_close(*outputs(masked, removed), rtol=1e-12, atol=1e-12)


def test_a_reader_without_bias_or_norm_loses_the_constant_and_the_answer_says_so():
    layers = block(0)
    layers[4] = nn.Identity()
    module = network(*layers, *head())
    silence(module, "0", [1, 5])
    masked, removed, _, folding = both(module)
    assert folding.lost == {"3": 2}
    first, second = outputs(masked, removed)
    assert (first - second).abs().max() > 1e-3


def test_a_norm_behind_an_activation_in_place_does_not_take_the_constant():
    module = network(*block(0)[:4], nn.ReLU(inplace=True), nn.BatchNorm2d(8), *head())
    silence(module, "0", [1, 5])
    statistics = module[5].running_mean.clone()
    _, removed, _, folding = both(module)
    assert folding.lost == {"3": 2}
    assert not folding.exact
    assert torch.equal(removed[5].running_mean, statistics)


class Gated(nn.Module):
    """Squeeze and excitation: what a silent channel emits is scaled, differently for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Sequential(*block(0)[:3]), nn.Linear(8, 8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        return self.last(features * torch.sigmoid(self.gate(features.mean(dim=(2, 3))))[:, :, None, None])


def test_a_channel_that_varies_is_not_folded():
    module = network(Gated())[0]
    with torch.no_grad():
        module.body[0].weight[[1, 5]] = 0
        module.gate.weight[[1, 5]] = 0
    _, _, kept, folding = both(module)
    # The gate's own filters are silent too: sigmoid(bias) is a constant, and so is the product.
    assert kept["last"]["in"] == [0, 2, 3, 4, 6, 7]
    assert folding.exact
    with torch.no_grad():
        module.gate.weight[[1, 5]] = 1
    assert both(module)[2] == {}  # written by filters that are not zero: not silent


def test_a_layer_that_is_silent_altogether_keeps_one_channel():
    module = network(*block(0), *head())
    silence(module, "0", list(range(8)))
    masked, removed, kept, folding = both(module)
    assert kept["0"]["out"] == [0]
    assert folding.exact
    torch.testing.assert_close(*outputs(masked, removed), rtol=1e-12, atol=1e-12)


class Tapped(nn.Module):
    """What the second convolution says is used before the batch norm as well as after it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.conv, self.norm = (
            nn.Sequential(*block(0)[:3]),
            nn.Conv2d(8, 8, 3, bias=False),
            nn.BatchNorm2d(8),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(self.body(images))
        return self.norm(features) + features


def test_a_constant_that_is_also_read_elsewhere_is_not_exact_by_claim():
    module = network(Tapped())[0]
    silence(module, "body.0", [1, 5])
    _, _, _, folding = both(module)
    assert folding.folded == {"conv": 2}
    assert folding.difference > 1e-3
    assert not folding.exact


def test_nothing_silent_changes_nothing():
    module = network(*block(1), *head())
    masked, removed, kept, folding = both(module)
    assert (kept, folding.exact) == ({}, True)
    assert torch.equal(*outputs(masked, removed))


def test_the_depthwise_filters_of_a_channel_go_with_it():
    layers = [
        *block(0)[:3],
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 1),
    ]
    module = network(*layers, *head())
    silence(module, "0", [1, 5])
    assert both(module)[2] == {}  # still written by the depthwise filters
    silence(module, "3", [1, 5])
    masked, removed, kept, folding = both(module)
    assert kept["3"] == {"out": [0, 2, 3, 4, 6, 7]}
    assert folding.exact
    torch.testing.assert_close(*outputs(masked, removed), rtol=1e-12, atol=1e-12)
