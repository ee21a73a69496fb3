"""Criteria: the built-in one, the user's own by name, and ones that need gradients or give unusual scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning import magnitude, prune_globally, resolve_criterion


def test_magnitude_is_the_absolute_value() -> None:
    assert resolve_criterion("magnitude") is magnitude
    assert magnitude(torch.tensor([-2.0, 0.0, 1.0])).tolist() == [2.0, 0.0, 1.0]


def test_a_criterion_by_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scores.py").write_text("def smallest(weight, grad):\n    return -weight.abs()\n")
    monkeypatch.syspath_prepend(tmp_path)
    masks = prune_globally(
        {"w": torch.tensor([3.0, -1.0, 2.0])}, 1 / 3, criterion=resolve_criterion("own_scores:smallest")
    )
    assert masks["w"].tolist() == [False, True, False]


def test_an_unknown_criterion_lists_the_names() -> None:
    names = "gradient_magnitude, magnitude, random"
    with pytest.raises(ConfigError, match=rf"criterion must be one of {names}, or .*, got 'magnitud'"):
        resolve_criterion("magnitud")


def test_gradients_reach_the_criterion_by_layer() -> None:
    def taylor(weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return (weight * grad).abs()

    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    gradients = {"b": torch.tensor([0.0, 1.0]), "a": torch.tensor([9.0, 0.0])}
    masks = prune_globally(weights, 0.5, criterion=taylor, gradients=gradients)
    assert masks["a"].tolist() == [True, False]
    assert masks["b"].tolist() == [False, True]


def test_infinite_scores_order_like_any_other() -> None:
    scores = torch.tensor([float("inf"), 1.0, -float("inf"), -5.0])
    masks = [
        prune_globally({"w": torch.ones(4)}, k / 4, criterion=lambda w, g: scores)["w"].tolist() for k in (1, 2, 3)
    ]
    assert masks == [[True, False, False, False], [True, True, False, False], [True, True, False, True]]


def test_double_scores_of_float_weights_are_not_rounded() -> None:
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert prune_globally({"w": torch.ones(2)}, 0.5, criterion=lambda w, g: scores)["w"].tolist() == [False, True]
