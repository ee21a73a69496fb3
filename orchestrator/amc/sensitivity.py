"""Cut one layer at a time, and then all of them by the same loss of score: an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.amc.agents import Agent, FixedAgent
from orchestrator.amc.bounds import Budget, Sizes
from orchestrator.validate import whole


@dataclass(frozen=True)
class Sensitivity:
    """Cut one layer at a time, then allow every layer the same loss of score: the largest that the budget needs.

    As FastNAS of NVIDIA's Model-Optimizer does. Probes of one layer exceed the budget; they are scored, never chosen.
    The losses between two probes are interpolated, and taken not to shrink when more goes.
    """

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        """Raise ConfigError for fewer `evaluations` than layers and two."""
        layers = len(budget.decisions)
        way_out = f"Sensitivity cuts each of {layers} layers alone"
        whole("evaluations", evaluations, minimum=layers + 2, way_out=way_out)
        return SensitivityAgent(budget, (evaluations - 2) // layers)


class SensitivityAgent:
    def __init__(self, budget: Budget, levels: int) -> None:
        self._budget = budget
        self._whole = tuple(decision.maximum for decision in budget.decisions)
        probes = [self._whole]
        for place, decision in enumerate(budget.decisions):
            for level in range(levels):
                size = decision.size(decision.nearest(level / levels))
                probes.append((*self._whole[:place], size, *self._whole[place + 1 :]))
        self._probes = FixedAgent(probes)
        self._scores: dict[Sizes, float] = {}
        self._finished = False

    def ask(self, count: int) -> list[Sizes]:
        if self._finished:
            return []
        if probes := self._probes.ask(count):
            return probes
        self._finished = True
        return [self._within_budget()]

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        self._scores.update(zip(candidates, scores, strict=True))

    def _within_budget(self) -> Sizes:
        curves = [self._losses(place) for place in range(len(self._whole))]
        worst = max(losses[0] for _, losses in curves)

        def tolerating(share: float) -> list[float]:
            """At share 0 every loss is tolerated, at 1 none: the smallest fraction that loses no more."""
            return [float(np.interp((share - 1) * worst, -losses, fractions)) for fractions, losses in curves]

        return self._budget.widest(lambda share: tolerating(share) if share > 0 else [0.0] * len(curves))

    def _losses(self, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return fractions kept (n,), ascending to 1, and the loss of score (n,) at each, descending to 0."""
        dense = self._scores[self._whole]
        others = (*self._whole[:place], 0, *self._whole[place + 1 :])
        alone = {
            sizes[place]: dense - score
            for sizes, score in self._scores.items()
            if (*sizes[:place], 0, *sizes[place + 1 :]) == others
        }
        sizes = sorted(alone)
        losses = np.maximum.accumulate([max(alone[size], 0.0) for size in reversed(sizes)])[::-1]
        return np.array(sizes) / self._whole[place], losses
