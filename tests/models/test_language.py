"""Language models: sizes as sums, no look at what comes later, and a beginning from which they learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.models.build import build_model
from orchestrator.pruning import prunable_weights

ARGUMENTS = {"vocabulary": 11, "length": 6}
IDS = torch.arange(12).view(2, 6) % 11
MODELS = [
    ("char_gru", {"width": 8}),
    ("char_gru", {"width": 8, "layers": 2, "dropout": 0.2}),
    ("char_gru", {"width": 8, "tied": True}),
    ("char_transformer", {"width": 8, "heads": 2}),
]


def build(spec: str, **options: object) -> nn.Module:
    return build_model(spec, options, ARGUMENTS, seed=0).eval()


@pytest.mark.parametrize(("spec", "options"), MODELS)
def test_there_are_logits_for_each_place(spec: str, options: dict) -> None:
    model = build(spec, **options)
    assert model(IDS).shape == (2, 6, 11)
    torch.testing.assert_close(model(IDS[1:]), model(IDS)[1:])


@pytest.mark.parametrize(("spec", "options"), MODELS)
def test_a_later_character_changes_nothing_before_it(spec: str, options: dict) -> None:
    model, changed = build(spec, **options), IDS.clone()
    changed[:, 4] = 9
    before, after = model(IDS), model(changed)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert ((after[:, 4:] - before[:, 4:]).abs().amax(2) > 1e-4).all()


@pytest.mark.parametrize(
    ("spec", "options", "count"),
    [
        ("char_gru", {"width": 8}, 6 * 8 * 8 + 8 * 11),
        ("char_gru", {"width": 8, "layers": 3}, 3 * 6 * 8 * 8 + 8 * 11),
        ("char_gru", {"width": 8, "tied": True}, 6 * 8 * 8 + 8 * 11),
        ("char_transformer", {"width": 8, "heads": 2, "depth": 3}, 3 * 12 * 8 * 8 + 8 * 11),
    ],
)
def test_recurrent_attention_and_linear_weights_are_prunable(spec: str, options: dict, count: int) -> None:
    assert sum(weight.numel() for weight in prunable_weights(build(spec, **options)).values()) == count


def test_a_tied_output_layer_has_the_weights_of_the_embedding() -> None:
    model = build("char_gru", width=8, tied=True)
    assert model.head.weight is model.embedding.weight
    assert list(prunable_weights(model)) == ["embedding.weight", "gru.weight_ih_l0", "gru.weight_hh_l0"]


@pytest.mark.parametrize(("spec", "options"), [(spec, {**options, "width": 64}) for spec, options in MODELS])
def test_it_begins_without_a_preference(spec: str, options: dict) -> None:
    """The loss of the first step is about that of a uniform guess, so no step is spent on getting there."""
    logits = build(spec, **options)(IDS)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), IDS.roll(1, 1).flatten()).item()
    assert loss == pytest.approx(math.log(11), rel=0.35)


def test_recurrent_weights_begin_orthogonal() -> None:
    for gate in build("char_gru", width=16).gru.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("char_gru", {"width": 0}, "width must be a whole number of 1 or more, got 0"),
        ("char_gru", {"layers": 0}, "layers must be a whole number of 1 or more, got 0"),
        ("char_gru", {"dropout": 1}, r"dropout must be a number in \[0, 1\), got 1"),
        ("char_gru", {"tied": 1}, "tied must be True or False, got 1"),
        ("char_gru", {"depth": 1}, "does not fit the options .*depth"),
        ("char_transformer", {"width": 10, "heads": 4}, "width must be a multiple of heads, got 10 and 4"),
        ("char_transformer", {"heads": 0}, "heads must be a whole number of 1 or more, got 0"),
        ("char_transformer", {"depth": 0}, "depth must be a whole number of 1 or more, got 0"),
        ("char_transformer", {"length": 6}, "must not hold length: it is given already"),
    ],
)
def test_each_mistake_has_its_sentence(spec: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, **options)
