"""Kept channels take over from those that go, as well as least squares can."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from channel_networks import NETWORKS, SHAPE, traced
from torch import nn

from orchestrator.amc.least_squares import input_products, reconstructed, sampled_rows
from orchestrator.modules import copy_module
from orchestrator.pruning.channels.budget import keep_sizes
from orchestrator.pruning.channels.shrink import shrink


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs).double()
    with torch.no_grad():
        layer.weight.copy_(drawn(outputs, inputs, seed=9))
    return layer


def test_residuals_are_orthogonal_to_the_inputs_that_stay():
    layer, inputs, kept = linear(6, 3), drawn(40, 6), [0, 2, 5]
    products = input_products(nn.Sequential(layer), inputs.split([15, 25]))
    torch.testing.assert_close(products["0"], inputs.T @ inputs)
    new = reconstructed({"0.weight": layer.weight}, products, {"0": {"in": kept}})["0.weight"]
    residual = inputs @ layer.weight.T - inputs[:, kept] @ new.T
    assert (inputs[:, kept].T @ residual).abs().max() < 1e-10
    naive = inputs @ layer.weight.T - inputs[:, kept] @ layer.weight[:, kept].T
    assert residual.square().sum() < 0.999 * naive.square().sum()
    expected = torch.linalg.lstsq(inputs[:, kept], inputs @ layer.weight.T).solution.T
    torch.testing.assert_close(new, expected)


def test_nothing_is_lost_where_removed_channels_are_combinations_of_kept_ones():
    layer, kept = linear(5, 3), [0, 1, 3]
    base = drawn(30, 3)
    mixing = drawn(3, 2, seed=3)
    inputs = torch.empty(30, 5, dtype=torch.float64)
    inputs[:, kept], inputs[:, [2, 4]] = base, base @ mixing
    products = input_products(nn.Sequential(layer), [inputs])
    new = reconstructed({"0.weight": layer.weight}, products, {"0": {"in": kept}})["0.weight"]
    torch.testing.assert_close(inputs[:, kept] @ new.T, inputs @ layer.weight.T)


def test_a_channel_that_says_nothing_keeps_its_weights():
    """Its products are zero, so that any weights are as good: those it had stay."""
    layer, inputs = linear(4, 2), drawn(20, 4)
    inputs[:, 1] = 0
    products = input_products(nn.Sequential(layer), [inputs])
    new = reconstructed({"0.weight": layer.weight}, products, {"0": {"in": [0, 1, 2]}})["0.weight"]
    assert torch.equal(new[:, 1], layer.weight[:, 1])
    assert new.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(0, 2)),
        nn.Conv2d(2, 3, 3, dilation=2, padding="same"),
        nn.Conv2d(2, 3, 1),
    ],
    ids=["padded", "strided", "dilated", "pointwise"],
)
def test_rows_are_what_each_output_position_reads(layer):
    images = torch.randn(4, 2, 7, 8)
    rows = sampled_rows(layer, images, 1000, torch.Generator())
    outputs = rows @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(outputs.reshape(4, -1, 3).transpose(1, 2), layer(images).flatten(2))
    few = sampled_rows(layer, images, 5, torch.Generator().manual_seed(0))
    assert few.shape == (20, rows.shape[1])
    assert all((row == rows).all(1).any() for row in few)


def test_a_linear_layer_over_tokens_takes_some_of_them():
    tokens = torch.randn(3, 7, 4)
    rows = sampled_rows(nn.Linear(4, 2), tokens, 2, torch.Generator().manual_seed(0))
    assert rows.shape == (6, 4)
    assert all((row == tokens.flatten(0, 1)).all(1).any() for row in rows)


def test_a_convolution_is_reconstructed_at_the_points_it_was_measured_at():
    torch.manual_seed(0)
    layer, images = nn.Conv2d(4, 3, 3, padding=1).double(), drawn(20, 4, 4, 4)
    images[:, 3] = images[:, 0] - 2 * images[:, 1]
    products = input_products(nn.Sequential(layer), [images], points=16)
    kept = {"0": {"in": [0, 1, 2], "out": [0, 2]}}
    new = reconstructed({"0.weight": layer.weight}, products, kept)["0.weight"]
    assert new.shape == (2, 3, 3, 3)
    made = F.conv2d(images[:, :3], new, layer.bias[[0, 2]], padding=1)
    torch.testing.assert_close(made, layer(images)[:, [0, 2]])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smaller_network_says_more_of_what_the_dense_one_said(network):
    module, graph, _ = traced(network)
    weights = {name: weight.detach() for name, weight in module.named_parameters() if weight.dim() > 1}
    kept = keep_sizes(graph, weights, [group.size * 3 // 4 for group in graph.groups])
    images = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    products = input_products(module, images.split(16), points=8)
    smaller = shrink(copy_module(module), kept)
    better = copy_module(smaller)
    changed = reconstructed(weights, products, kept)
    assert changed.keys() == {f"{name}.weight" for name, sides in kept.items() if "in" in sides}
    missing = better.load_state_dict(changed, strict=False)
    assert not missing.unexpected_keys
    with torch.no_grad():
        errors = [float((each(images) - module(images)).square().sum()) for each in (better, smaller)]
    assert errors[0] < errors[1]


def test_a_later_round_starts_from_what_its_parent_left():
    layer, inputs = linear(6, 3), drawn(40, 6)
    first, second = {"0": {"in": [0, 2, 3, 5]}}, {"0": {"in": [0, 3]}}
    parent = nn.Linear(4, 3).double()
    with torch.no_grad():
        parent.weight.copy_(layer.weight[:, [0, 2, 3, 5]])
    left = inputs[:, [0, 2, 3, 5]]
    products = input_products(nn.Sequential(parent), [left])
    new = reconstructed({"0.weight": parent.weight}, products, second, first)["0.weight"]
    expected = torch.linalg.lstsq(left[:, [0, 2]], left @ parent.weight.T).solution.T
    torch.testing.assert_close(new, expected)
    assert reconstructed({"0.weight": parent.weight}, products, first, first) == {}


def test_measuring_repeats_and_leaves_the_module_as_it_was():
    module, _, _ = traced("residual")
    module = copy_module(module).train()
    images = torch.randn(8, *SHAPE)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    one, two = (input_products(module, images.split(4), points=3, seed=5) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = input_products(module, images.split(4), points=3, seed=6)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())
    with pytest.raises(RuntimeError):
        input_products(module, [torch.zeros(1, 5, 8, 8)])
    assert not any(part._forward_pre_hooks for part in module.modules())
