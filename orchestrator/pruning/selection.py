"""Selections: how a density becomes masks, each a small dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from orchestrator.pruning.criteria import Criterion, magnitude
from orchestrator.pruning.select import prune_globally


class Selection(Protocol):
    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float) -> None:
        """Raise ConfigError if weights of these shapes cannot be given this density."""

    def select(
        self,
        weights: Mapping[str, Tensor],
        density: float,
        *,
        masks: Mapping[str, Tensor] | None = None,
        criterion: Criterion = magnitude,
        gradients: Mapping[str, Tensor] | None = None,
        min_kept_per_layer: int = 0,
    ) -> dict[str, Tensor]:
        """Boolean masks of the kept weights, within `masks`; `gradients` is dL/dw for a criterion that reads it."""
        ...


@dataclass(frozen=True)
class Global:
    """The weights of lowest score in the whole network go (see `prune_globally`)."""

    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float) -> None:
        """Every density that keeps a weight can be had."""

    def select(
        self,
        weights: Mapping[str, Tensor],
        density: float,
        *,
        masks: Mapping[str, Tensor] | None = None,
        criterion: Criterion = magnitude,
        gradients: Mapping[str, Tensor] | None = None,
        min_kept_per_layer: int = 0,
    ) -> dict[str, Tensor]:
        return prune_globally(
            dict(weights),
            density,
            masks=dict(masks) if masks else None,
            criterion=criterion,
            min_kept_per_layer=min_kept_per_layer,
        )
