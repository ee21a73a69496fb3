"""Folding: the same function, only where it may."""

import pytest
import torch
from export import networks
from export.networks import settled
from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export import fold_batch_norm
from orchestrator.models.build import build_model


def test_closed_form():
    """One weight: W' = W gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta."""
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0))
    with torch.no_grad():
        for tensor, value in zip(
            (module[0].weight, module[0].bias, module[1].weight, module[1].bias, module[1].running_mean,
             module[1].running_var), (3.0, 0.5, 2.0, -1.0, 0.25, 16.0), strict=True,
        ):  # fmt: skip
            tensor.fill_(value)
    assert fold_batch_norm(module) == ["1"]
    assert module[0].weight.item() == 3.0 * 2.0 / 4.0
    assert module[0].bias.item() == (0.5 - 0.25) * 2.0 / 4.0 - 1.0


def test_only_where_it_may():
    module = settled(networks.flow(4))
    images = torch.randn(5, *networks.SHAPE)
    with torch.no_grad():
        expected = module(images)
        assert fold_batch_norm(module) == ["bn1", "bn2"]
        torch.testing.assert_close(module(images), expected, rtol=1e-5, atol=1e-5)
    assert fold_batch_norm(module) == []


@pytest.mark.parametrize(
    ("spec", "norms"),
    [("torchvision:resnet18", 20), ("torchvision:mobilenet_v2", 52), ("resnet20", 21)],
)
def test_every_norm_of_a_network(spec, norms):
    module = settled(build_model(spec, {}, {"num_classes": 10, "input_shape": (3, 64, 64)}, seed=0))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first = next(p for p in module.parameters() if p.ndim == 4)
        first[0].zero_()
        expected = module(images)
        assert len(fold_batch_norm(module)) == norms
        assert (next(p for p in module.parameters() if p.ndim == 4)[0] == 0).all()
        torch.testing.assert_close(module(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("hidden", ["hook", "parametrized", "functional"])
def test_not_where_something_else_sees_the_weight_or_the_output(hidden):
    class Functional(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + nn.functional.conv2d(x, self[0].weight)

    module = settled((Functional if hidden == "functional" else nn.Sequential)(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    if hidden == "hook":
        module[0].register_forward_hook(lambda part, inputs, output: output.relu())
    elif hidden == "parametrized":
        nn.utils.parametrizations.weight_norm(module[0])
    expected = module(torch.ones(1, *networks.SHAPE))
    assert fold_batch_norm(module) == []
    assert torch.equal(module(torch.ones(1, *networks.SHAPE)), expected)


def test_a_flow_that_depends_on_the_data():
    with pytest.raises(ExportError, match="the flow of DataFlow cannot be traced"):
        fold_batch_norm(networks.data_flow(4))
