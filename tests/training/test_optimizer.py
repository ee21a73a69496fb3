"""Which parameters an optimizer decays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.training.optimizer import SGD, AdamW, Optimizer


class ScaleNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inside = nn.Parameter(torch.ones(4)), nn.Linear(4, 4, bias=False)


class Scale(ScaleNorm):
    """Derived from a normalisation, whatever its own name."""


class NormLinear(nn.Linear):
    """A linear layer, though its name begins with Norm."""


class ConvNorm(nn.Conv2d):
    """A convolution, though its name ends in Norm."""


class EvoNorm2dB0(ScaleNorm):
    pass


class RMSNormGated(ScaleNorm):
    pass


class Gain(nn.Module):
    """A layer that says what it is."""

    is_normalisation = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class NormedProjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.ones(4, 4))


LAYERS = {
    "linear": nn.Linear(4, 4),
    "named": NormLinear(4, 4),
    "convolution": ConvNorm(1, 4, 1),
    "projection": NormedProjection(),
    "evo": EvoNorm2dB0(),
    "gated": RMSNormGated(),
    "gain": Gain(),
    "batch": nn.BatchNorm2d(4),
    "sync": nn.SyncBatchNorm(4),
    "instance": nn.InstanceNorm1d(4, affine=True),
    "group": nn.GroupNorm(2, 4),
    "layer": nn.LayerNorm((4, 2, 2)),
    "rms": nn.RMSNorm(4),
    "local": nn.LocalResponseNorm(4),
    "own": ScaleNorm(),
    "derived": Scale(),
    "weight_norm": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "embedding": nn.Embedding(4, 4),
}
SPARED = (
    "batch",
    "sync",
    "instance",
    "group",
    "layer",
    "rms",
    "own.scale",
    "derived.scale",
    "evo.scale",
    "gated.scale",
    "gain",
)


def decayed(optimizer: Optimizer) -> set[str]:
    network = nn.ModuleDict(LAYERS)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = optimizer.build(network).param_groups
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize("optimizer", [AdamW(weight_decay=0.1), SGD(weight_decay=0.1, decay_normalisation=False)])
def test_no_normalisation_decays_and_everything_else_does(optimizer: Optimizer) -> None:
    names = {name for name, _ in nn.ModuleDict(LAYERS).named_parameters()}
    assert decayed(optimizer) == {name for name in names if not name.startswith(SPARED)}


@pytest.mark.parametrize("optimizer", [AdamW(weight_decay=0.1, decay_normalisation=True), SGD(weight_decay=0.1)])
def test_normalisation_decays_where_it_is_asked_for(optimizer: Optimizer) -> None:
    assert decayed(optimizer) == {name for name, _ in nn.ModuleDict(LAYERS).named_parameters()}
