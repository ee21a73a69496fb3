"""Batch norm statistics are those of all calibration data together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.amc.recalibrate import Moments, recalibrated
from orchestrator.errors import ConfigError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 3 + 5


@pytest.mark.parametrize("sizes", [[12], [6, 6], [1, 2, 9], [1] * 12])
def test_statistics_of_the_first_norm_do_not_depend_on_the_batches(images, sizes):
    module = network()
    norm = recalibrated(module, images.split(sizes))[1]
    values = module[0](images).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(norm.running_mean.double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), values.var(1), rtol=1e-6, atol=1e-6)


def test_later_norms_see_what_training_would_give_them(images):
    """In one batch: the first norm normalises by it, and dropout is off."""
    module = network()
    made = recalibrated(module, [images])
    first = nn.functional.batch_norm(module[0](images), None, None, module[1].weight, module[1].bias, training=True)
    values = module[4](first.relu()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(made[5].running_mean, values.mean(1))
    torch.testing.assert_close(made[5].running_var, values.var(1))
    assert not any(part.training for part in made.modules())


def test_the_variance_of_batches_with_different_means_is_not_the_mean_of_their_variances():
    moments = Moments()
    moments.add(torch.tensor([[0.0], [2.0]]))
    moments.add(torch.tensor([[4.0], [6.0], [8.0]]))
    assert moments.mean.tolist() == [4.0]
    assert moments.variance.tolist() == pytest.approx([10.0])  # (16 + 4 + 0 + 4 + 16) / 4, but 2 and 4 by batch


def test_a_large_mean_does_not_hide_a_small_variance():
    moments = Moments()
    for values in torch.tensor([1e8 - 1, 1e8 + 1, 1e8 - 1, 1e8 + 1], dtype=torch.float64).reshape(2, 2, 1):
        moments.add(values)
    assert moments.variance.item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_module_itself_stays_as_it_was_also_after_an_error(images, training):
    module = network().train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def fail(module: nn.Module, batch: torch.Tensor) -> None:
        module(batch)
        raise RuntimeError("no more data")

    made = recalibrated(module, [images])
    with pytest.raises(RuntimeError, match="no more data"):
        recalibrated(module, [images], fail)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(part.training is training for part in module.modules())
    assert not any(part._forward_pre_hooks for part in (*module.modules(), *made.modules()))
    parameters = zip(made.parameters(), module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in parameters)
    assert made[1].num_batches_tracked == module[1].num_batches_tracked


def test_calibration_without_data_is_refused():
    with pytest.raises(ConfigError, match="calibration needs at least one batch of data"):
        recalibrated(network(), [])


def test_a_network_without_batch_norm_needs_no_data():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert torch.equal(recalibrated(module, [])[0].weight, module[0].weight)
