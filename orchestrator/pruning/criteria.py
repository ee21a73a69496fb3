"""Which weights matter: a criterion gives every weight a score, and the highest are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.lookup import lookup

Criterion: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""`(weight, gradient or None) -> score`: floating point, of the weight's shape, any sign; higher is kept."""


def magnitude(weight: Tensor, grad: Tensor | None = None) -> Tensor:
    """|w|: remove what contributes least (Han et al., "Learning both Weights and Connections", NeurIPS 2015)."""
    return weight.abs()


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude}


def resolve_criterion(name: str) -> Criterion:
    """The criterion of a short name ("magnitude") or of "package.module:function"; ConfigError if there is none."""
    return lookup(name, CRITERIA, "criterion")


def score(criterion: Criterion, name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """Scores of the weight tensor `name`; ConfigError if it is not finite, or its scores are unfit to be compared."""
    if not weight.isfinite().all():
        raise ConfigError(f"weights must be finite, but {name} holds NaN or infinity")
    scores = criterion(weight, gradient)
    if scores.shape != weight.shape or not scores.is_floating_point():
        raise ConfigError(
            f"a criterion must give floating-point scores of the weight's shape {tuple(weight.shape)}, "
            f"got {scores.dtype} {tuple(scores.shape)} for {name}"
        )
    if scores.isnan().any():
        raise ConfigError(f"scores must be numbers, but the criterion gave NaN for {name}")
    return scores


def needs_gradients(criterion: Criterion) -> bool:
    """Whether `criterion` reads dL/dw: it says so by an attribute of this name."""
    return bool(getattr(criterion, "needs_gradients", False))
