"""Select whole convolution filters, which can then be taken out to make a smaller dense network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.pruning.counts import kept_count
from orchestrator.pruning.selection import Selection
from orchestrator.validate import whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from orchestrator.pruning import masks, structure
    from orchestrator.pruning.structure import Structure
    from orchestrator.pruning.view import View
else:
    torch = lazy("torch")
    masks, structure = lazy("orchestrator.pruning.masks"), lazy("orchestrator.pruning.structure")


@dataclass(frozen=True)
class Filters(Selection):
    """Remove the filters of lowest mean score in the whole network, one after another, until the budget is met.

    With `magnitude` the mean score is the filter's L1 norm over its size (Li et al., "Pruning Filters for Efficient
    ConvNets", ICLR 2017, section 3.1; the division makes layers comparable). A filter is a slice (C_in, kh, kw) along
    dimension 0 of a convolution's (C_out, C_in, kh, kw); in a transposed one's (C_in, C_out, kh, kw) it reads one
    input. A filter is kept or removed as a whole.

    The budget is round(density * N) of the N prunable weights. The highest filters are kept while they fit, which is
    less than one filter below the budget; of equal filters the first is kept. Every convolution keeps its best filter,
    or as many of its best as hold `min_kept_per_layer` weights. Linear layers stay whole, because their rows may be
    classes, and so do recurrent ones. A weight that earlier masks removed scores 0 and does not count; a score of +inf
    always keeps its filter.
    """

    def check(self, view: View, density: float) -> None:
        whole("min_kept_per_layer", view.min_kept_per_layer, minimum=0)
        total = sum(math.prod(shape) for shape in view.shapes.values())
        minimum = sum(_minimum(shape, view.min_kept_per_layer) for shape in view.shapes.values())
        _check_budget(kept_count(density, total), minimum, total, density)

    def select(self, view: View, density: float) -> Structure:
        self.check(view, density)
        with torch.no_grad():
            return structure.Masks(self._kept(view, density))

    def _kept(self, view: View, density: float) -> dict[str, Tensor]:
        kept = {name: view.candidates(name) for name in view.weights}
        minimum = max(1, view.min_kept_per_layer)
        layers = {
            name: _ranked(scores, kept[name], minimum) for name, scores in view.scores.items() if scores.dim() > 2
        }
        total = sum(weight.numel() for weight in view.weights.values())
        budget = kept_count(density, total)
        excess = masks.count_kept(kept) - budget
        if excess > 0:
            removed, freed = _weakest(list(layers.values()), excess)
            _check_budget(budget, budget + excess - freed, total, density)
            for name, flags in zip(layers, removed, strict=True):
                kept[name][flags] = False
        return kept


@dataclass(frozen=True, eq=False)
class _Ranked:
    """For each filter of a layer (C_out,): its mean score, weights left, and whether the layer must keep it."""

    means: Tensor
    sizes: Tensor
    needed: Tensor


def _ranked(scores: Tensor, candidates: Tensor, minimum: int) -> _Ranked:
    sizes = candidates.flatten(1).sum(1)
    means = scores.masked_fill(~candidates, 0).flatten(1).mean(1, dtype=torch.float64)
    means = means.masked_fill(means.isnan(), math.inf)  # NaN: the filter has both +inf and -inf
    best_first = means.argsort(descending=True, stable=True)
    before = sizes[best_first].cumsum(0) - sizes[best_first]
    needed = torch.empty_like(sizes, dtype=torch.bool)
    needed[best_first] = before < minimum
    return _Ranked(means, sizes, needed)


def _weakest(layers: list[_Ranked], excess: int) -> tuple[list[Tensor], int]:
    """Choose the fewest weakest filters that free `excess` weights.

    Return flags (C_out,) for each layer, and how many weights they free.
    """
    means = torch.cat([layer.means for layer in layers])
    sizes = torch.cat([layer.sizes for layer in layers])
    needed = torch.cat([layer.needed for layer in layers])
    weakest_first = means.argsort(descending=True, stable=True).flip(0)  # of equal filters the last is removed first
    weakest_first = weakest_first[~needed[weakest_first]]
    freed = sizes[weakest_first].cumsum(0)
    chosen = weakest_first[: int((freed < excess).sum()) + 1]
    removed = torch.zeros_like(needed)
    removed[chosen] = True
    return list(removed.split([layer.means.numel() for layer in layers])), int(sizes[chosen].sum())


def _minimum(shape: tuple[int, ...], min_kept: int) -> int:
    """Return how many weights a layer keeps at any density."""
    if len(shape) <= 2:
        return math.prod(shape)
    size = math.prod(shape[1:])
    return size * min(shape[0], max(1, math.ceil(min_kept / size)))


def _check_budget(budget: int, minimum: int, total: int, density: float) -> None:
    if budget < minimum:
        lowest = Context(prec=4, rounding=ROUND_CEILING).create_decimal(Decimal(repr(minimum / total)))
        raise ConfigError(
            f"density {density:g} keeps {budget} of {total} weights, but linear and recurrent layers stay whole and "
            f"every convolution keeps a filter, or its minimum, {minimum} weights together: the smallest density is "
            f"{lowest}"
        )
