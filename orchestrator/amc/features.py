"""Compute what an agent sees before each action: the 11 features of He et al., "AMC", ECCV 2018, section 3.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.amc.bounds import Budget

FEATURES = 11


class Features:
    """The states of a budget's decisions, each feature in [0, 1].

    In order: index of the layer, output channels, input channels, height, width, stride, kernel, cost of the layer,
    cost that the decisions before it removed, cost of the layers after it, fraction that the decision before it keeps
    (1 for the first). Costs are in the budget's unit, as fractions of what there is before any decision. The other
    features are fractions of their maximum over the layers. A group of layers that share channels has one state, that
    of the first layer that gives them; its cost is that of all layers that do.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._maxima = [decision.maximum for decision in budget.decisions]
        self._whole = budget.cost(self._maxima)
        traits = [decision.traits for decision in budget.decisions]
        shares = np.array([trait.share for trait in traits])
        fixed = [[t.outputs, t.inputs, t.height, t.width, t.stride, t.kernel] for t in traits]
        columns = np.array([[place, *values] for place, values in enumerate(fixed)], float)
        after = shares.sum() - shares.cumsum()
        self._fixed = columns / columns.max(0).clip(min=1)
        self._costs = np.stack([shares, after], 1).clip(0, 1)

    def after(self, chosen: Sequence[int]) -> NDArray[np.float32]:
        """Return the state (11,) of the next decision, given the sizes of all before it."""
        place = len(chosen)
        left = self._budget.cost([*chosen, *self._maxima[place:]])
        last = chosen[-1] / self._maxima[place - 1] if place else 1.0
        share, rest = self._costs[place]
        return np.array([*self._fixed[place], share, 1 - left / self._whole, rest, last], np.float32)

    def of(self, sizes: Sequence[int]) -> NDArray[np.float32]:
        """Return the states (decisions, 11) that lead to `sizes`."""
        return np.stack([self.after(sizes[:place]) for place in range(len(sizes))])
