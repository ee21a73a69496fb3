"""Criteria: the built-in one, the user's own by name, and ones that need gradients or give unusual scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from orchestrator import prune
from orchestrator.errors import ConfigError
from orchestrator.pruning import (
    Criterion,
    gradient_magnitude,
    magnitude,
    needs_gradients,
    prune_globally,
    random,
    reads_gradients,
    resolve_criterion,
)
from orchestrator.randomness import own_randomness, seed_all


def test_magnitude_is_the_absolute_value() -> None:
    assert resolve_criterion("magnitude") is magnitude
    assert magnitude(torch.tensor([-2.0, 0.0, 1.0])).tolist() == [2.0, 0.0, 1.0]


def test_gradient_magnitude_is_the_change_of_the_loss_to_first_order() -> None:
    assert resolve_criterion("gradient_magnitude") is gradient_magnitude
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight - target).square().sum(), weight)
    scores = gradient_magnitude(weight.detach(), gradient)
    torch.testing.assert_close(scores, (weight * 2 * (weight - target)).abs().detach())
    assert needs_gradients(gradient_magnitude)


def test_only_who_reads_gradients_is_given_them() -> None:
    @reads_gradients
    def own(weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return grad

    assert needs_gradients(own)
    assert not needs_gradients(magnitude)
    assert not needs_gradients(random)
    with pytest.raises(ConfigError, match="criterion own reads gradients, but none were given: pass gradients="):
        prune_globally({"w": torch.ones(4)}, 0.5, criterion=own)


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (
            lambda w: w,
            r"'<lambda>', called with \(weight, gradient\), failed: TypeError: .* \(.*test_prune_criteria.py:\d+",
        ),
        (lambda w, g: w.no_such_method(), "failed: AttributeError: .* object has no attribute 'no_such_method'"),
        (lambda w, g: 3, "failed: AttributeError: 'int' object has no attribute 'to'"),
        (3, "criterion '3', called with .* failed: TypeError: 'int' object is not callable"),
    ],
)
def test_a_criterion_that_fails_is_one_sentence(criterion: Criterion, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prune_globally({"w": torch.ones(4)}, 0.5, criterion=criterion)
    with pytest.raises(ConfigError, match=words):
        prune(nn.Linear(2, 2), 0.5, criterion=criterion)


def scores_of(weight: Tensor, seed: int) -> Tensor:
    with own_randomness():
        seed_all(seed)
        return resolve_criterion("random")(weight, None)


def test_random_scores_follow_from_the_seed_whatever_the_weights() -> None:
    weight = torch.randn(8, 6, 5, 5)
    scores = scores_of(weight, 1)
    for same in (weight * 0, weight.to(memory_format=torch.channels_last), weight.bfloat16(), weight.double()):
        assert torch.equal(scores_of(same, 1), scores)
    assert not torch.equal(scores_of(weight, 2), scores)
    assert scores.dtype is torch.float32
    assert scores.unique().numel() > 0.999 * scores.numel(), "of equal ones the first would stay"
    assert ((scores >= 0) & (scores < 1)).all()
    assert abs(float(scores.mean()) - 0.5) < 5 / (12 * scores.numel()) ** 0.5


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
