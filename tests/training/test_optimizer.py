"""Which parameters an optimizer decays, and that it gives the bits of torch's own without torch's compiler."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from orchestrator.training.optimizer import SGD, AdamW, Optimizer, eager


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


KINDS = [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.AdamW, {"weight_decay": 0.1})]


def trained(kind: type[torch.optim.Optimizer], settings: dict[str, object]) -> tuple[torch.Tensor, dict[str, object]]:
    """Return a weight, and the state of its optimizer, after three steps and a reload in between."""
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = kind([weight], lr=0.1, fused=True, **settings)
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        (weight.sin() * weight).sum().backward()
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return weight.detach(), optimizer.state_dict()


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_an_eager_optimizer_gives_the_bits_of_torchs_own(
    kind: type[torch.optim.Optimizer], settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, state = trained(kind, settings)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of the compiler fails from here on
    with pytest.raises(ImportError):
        trained(kind, settings)
    mine, my_state = trained(eager(kind), settings)
    assert torch.equal(mine, weight)
    torch.testing.assert_close(my_state, state, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_hooks_of_an_eager_optimizers_step_are_called(
    kind: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer, seen = eager(kind)([weight], lr=0.1, **settings), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.grad = torch.ones(2)
    optimizer.step()
    assert seen == ["before", "after"]
    assert isinstance(optimizer, kind)
