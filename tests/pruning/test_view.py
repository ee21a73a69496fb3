"""A view gives a selection scores and candidates, and computes scores only when they are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning.structure import Dense, Masks
from orchestrator.pruning.view import View

WEIGHTS = {"conv": torch.tensor([[1.0, -2.0]]), "fc": torch.tensor([[3.0], [-4.0]])}
MASK = {"conv": torch.tensor([[True, False]]), "fc": torch.tensor([[False], [True]])}


def test_scores_are_computed_once_and_when_asked_for() -> None:
    seen: list[Tensor] = []

    def criterion(weight: Tensor, gradient: Tensor | None) -> Tensor:
        seen.append(weight)
        return weight * (2 if gradient is None else gradient)

    view = View(WEIGHTS, criterion=criterion, gradients={"conv": torch.ones(1, 2), "fc": torch.zeros(2, 1)})
    assert view.shapes == {"conv": (1, 2), "fc": (2, 1)}
    assert not seen
    assert view.scores["conv"].tolist() == [[1, -2]]
    assert view.scores["fc"].tolist() == [[0], [0]]
    assert len(seen) == 2


def test_candidates_are_a_copy_of_what_is_left() -> None:
    view = View(WEIGHTS, Masks(MASK))
    candidates = view.candidates("conv")
    assert candidates.tolist() == [[True, False]]
    candidates.fill_(False)
    assert MASK["conv"].any()
    assert View(WEIGHTS).candidates("fc").all()
    assert View(WEIGHTS, Dense()).masks is None


def test_scores_of_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights must be finite, but fc holds NaN or infinity"):
        _ = View({**WEIGHTS, "fc": torch.tensor([torch.nan])}).scores
