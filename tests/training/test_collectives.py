"""What workers do with gradients, where it can be seen in one process."""

import pytest
import torch
from torch import nn

from orchestrator.training.collectives import average_gradients, divisor


def test_a_branch_that_was_not_taken_has_a_gradient_of_zero_with_one_worker_too() -> None:
    """So that weight decay and momentum act on it as they do with several workers; frozen parameters have none."""
    module = nn.ModuleDict({"taken": nn.Linear(2, 2), "not taken": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    module["frozen"].requires_grad_(False)
    module["taken"](torch.ones(1, 2)).sum().backward()
    average_gradients(module)
    assert module["taken"].weight.grad.tolist() == [[1, 1], [1, 1]]
    assert module["not taken"].weight.grad.tolist() == [[0, 0], [0, 0]]
    assert module["frozen"].weight.grad is None


def test_a_sum_is_divided_by_any_count_but_zero() -> None:
    assert divisor(torch.tensor([0.0, 0.08, 1.0, 64.0])).tolist() == pytest.approx([1.0, 0.08, 1.0, 64.0])
