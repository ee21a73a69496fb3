"""Score weights: a criterion gives every weight a score, and the highest are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.lookup import lookup
from orchestrator.user_code import called

Criterion: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""`(weight, gradient or None) -> score`: floating point (not NaN), of the weight's shape, any sign; higher is kept."""


_C = TypeVar("_C", bound=Criterion)


def reads_gradients(criterion: _C) -> _C:
    """Mark a criterion that reads dL/dw, so that its callers compute gradients for it. A decorator."""
    criterion.needs_gradients = True  # type: ignore[attr-defined]
    return criterion


def needs_gradients(criterion: Criterion) -> bool:
    """Return whether `criterion` reads dL/dw (see `reads_gradients`)."""
    return bool(getattr(criterion, "needs_gradients", False))


def magnitude(weight: Tensor, grad: Tensor | None = None) -> Tensor:
    """Return |w|, so that small weights are removed (Han et al., "Learning both Weights and Connections", 2015)."""
    return weight.abs()


def random(weight: Tensor, grad: Tensor | None = None) -> Tensor:
    """Return uniform scores in [0, 1) from torch's global generator: the baseline that any criterion should beat."""
    # Single precision makes ties rare for every dtype; the contiguous format makes the order of draws always the same.
    return torch.rand_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)


@reads_gradients
def gradient_magnitude(weight: Tensor, grad: Tensor | None) -> Tensor:
    """Return |w * dL/dw|: how much the loss changes, to first order, if the weight is removed.

    Lee et al., "SNIP", ICLR 2019, equation 5; "gradient magnitude" in Blalock et al., "What is the State of Neural
    Network Pruning?", MLSys 2020, section 7.2.
    """
    assert grad is not None  # `score` checks it
    return (weight * grad).abs()


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": magnitude,
    "random": random,
    "gradient_magnitude": gradient_magnitude,
}


def resolve_criterion(name: str) -> Criterion:
    """Return the criterion of a short name ("magnitude") or "package.module:function". Raises ConfigError."""
    return lookup(name, CRITERIA, "criterion")


def score(criterion: Criterion, name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the scores of the weight tensor `name`, with its shape, on its device.

    Raises ConfigError if weight or gradient is not finite, or the criterion fails, breaks its rule or lacks gradients.
    """
    criterion_name = getattr(criterion, "__name__", repr(criterion))
    if gradient is None and needs_gradients(criterion):
        raise ConfigError(
            f"criterion {criterion_name} reads gradients, but none were given: pass gradients=, dL/dw by name"
        )
    _check_finite("weights", name, weight)
    if gradient is not None:
        _check_finite("gradients", name, gradient)
        gradient = gradient.to(weight.device)
    with called(f"criterion {criterion_name!r}, called with (weight, gradient),", criterion):
        scores = criterion(weight, gradient).to(weight.device)
    if scores.shape != weight.shape or not scores.is_floating_point():
        raise ConfigError(
            f"a criterion must give floating-point scores of the weight's shape {tuple(weight.shape)}, "
            f"got {scores.dtype} {tuple(scores.shape)} for {name}"
        )
    if scores.isnan().any():
        raise ConfigError(f"scores must be numbers, but the criterion gave NaN for {name}")
    return scores


def _check_finite(what: str, name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ConfigError(f"{what} must be finite, but {name} holds NaN or infinity")
