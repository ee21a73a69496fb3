"""Selections: how a density becomes masks. Whole filters are in filters.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning.counts import count_to_keep, kept_count
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.pruning.global_magnitude import prune_globally
from orchestrator.pruning.masks import check_tensors, count_true
from orchestrator.validate import whole


class Selection(Protocol):
    """A frozen dataclass whose fields, all of them, decide its masks."""

    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float, *, min_kept_per_layer: int = 0) -> None:
        """Raise ConfigError, before anything is trained, if weights of `shapes` cannot be given this density."""

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
        """Masks (bool, True = kept) of the shapes of `weights`, nested within `masks`; of equal scores the first stay.

        `density` counts against all `weights`, whatever `masks` removed. `gradients`: dL/dw, of other tensors too, for
        a criterion that reads it. Raises ConfigError as `prune_globally` and `check` do. Nothing passed in is changed.
        """
        ...


@dataclass(frozen=True)
class Global:
    """The lowest scores of the whole network go, wherever they are (see `prune_globally`)."""

    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float, *, min_kept_per_layer: int = 0) -> None:
        sizes = [math.prod(shape) for shape in shapes.values()]
        count_to_keep(density, sum(sizes), sizes, min_kept_per_layer)

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
            weights,
            density,
            masks=masks,
            criterion=criterion,
            gradients=gradients,
            min_kept_per_layer=min_kept_per_layer,
        )


@dataclass(frozen=True)
class Layerwise:
    """Every layer keeps round(density * n) of its own n weights, its best; at least 1, and `min_kept_per_layer`.

    What the minimum adds is not taken from other layers. Uniform sparsity: the baseline of Gale, Elsen, Hooker, "The
    State of Sparsity in Deep Neural Networks", 2019.
    """

    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float, *, min_kept_per_layer: int = 0) -> None:
        whole("min_kept_per_layer", min_kept_per_layer, minimum=0)
        kept_count(density, 1)

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
        check_tensors(weights, masks, gradients)
        whole("min_kept_per_layer", min_kept_per_layer, minimum=0)
        kept: dict[str, Tensor] = {}
        for name, weight in weights.items():
            size = weight.numel()
            available = count_true(masks[name]) if masks else size
            keep = max(kept_count(density, size), 1, min(available, min_kept_per_layer))
            if keep > available:
                raise ConfigError(
                    f"density {density:g} keeps {keep} of {size} weights in {name}, but the masks given leave only "
                    f"{available} there: lower the density, or give masks of the same selection"
                )
            kept |= prune_globally(
                {name: weight},
                keep / size,
                masks={name: masks[name]} if masks else None,
                criterion=criterion,
                gradients={name: gradients[name]} if gradients else None,
            )
        return kept


@dataclass(frozen=True)
class NofM:
    """N:M sparsity: n = density * m of every m consecutive inputs stay, for each output and each place of the kernel.

    Density 0.5 with m = 4 is the 2:4 of Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021. Inputs are
    dimension 1 of (C_out, C_in, kh, kw) and of (C_out, C_in); a transposed convolution has its outputs there. A layer
    whose inputs m does not divide stays dense, so that the whole network keeps a little more than `density`.
    """

    m: int = 4

    def __post_init__(self) -> None:
        whole("NofM.m", self.m, minimum=2)

    def check(self, shapes: Mapping[str, tuple[int, ...]], density: float, *, min_kept_per_layer: int = 0) -> None:
        whole("min_kept_per_layer", min_kept_per_layer, minimum=0)
        n = self._kept(density)
        if n < self.m and not any(map(self._divides, shapes.values())):
            inputs = sorted({shape[1] for shape in shapes.values() if len(shape) > 1})
            raise ConfigError(f"NofM(m={self.m}) needs a layer whose inputs {self.m} divides, but they are {inputs}")
        for name, shape in shapes.items():
            size = math.prod(shape)
            if self._divides(shape) and size * n // self.m < min(size, min_kept_per_layer):
                raise ConfigError(
                    f"density {density:g} keeps {size * n // self.m} of {size} weights in {name}, but "
                    f"min_kept_per_layer={min_kept_per_layer} wants more: raise the density or lower the minimum"
                )

    @torch.no_grad()
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
        self.check({n: tuple(w.shape) for n, w in weights.items()}, density, min_kept_per_layer=min_kept_per_layer)
        kept: dict[str, Tensor] = {}
        for name, scores, candidates in scored(weights, masks, criterion, gradients):
            if self._divides(scores.shape):
                kept[name] = self._best(name, scores, candidates, self._kept(density))
            else:
                kept[name] = candidates
        return kept

    def _best(self, name: str, scores: Tensor, candidates: Tensor, n: int) -> Tensor:
        groups = (scores.shape[0], scores.shape[1] // self.m, self.m, -1)
        if (candidates.reshape(groups).sum(2) < n).any():
            raise ConfigError(f"{n} of every {self.m} inputs must stay, but the masks given leave fewer in {name}")
        scores = scores.clamp(min=torch.finfo(scores.dtype).min)  # -inf is below every candidate's
        ranked = scores.masked_fill(~candidates, -math.inf).reshape(groups).transpose(2, 3)
        best = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :n]
        kept = torch.zeros(ranked.shape, dtype=torch.bool, device=scores.device).scatter_(-1, best, True)
        return kept.transpose(2, 3).reshape(scores.shape)

    def _kept(self, density: float) -> int:
        """n of n:m. Raises ConfigError unless it is a whole number of 1 or more."""
        n = kept_count(density, self.m)
        if n < 1 or not math.isclose(density * self.m, n, rel_tol=1e-9):
            raise ConfigError(
                f"density * m must be a whole number, got {density:g} * {self.m} = {density * self.m:g}: "
                f"with NofM(m={self.m}) densities are 1/{self.m}, 2/{self.m}, ... (a path of them is Explicit([...]))"
            )
        return n

    def _divides(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and shape[1] % self.m == 0


def scored(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None,
    criterion: Criterion,
    gradients: Mapping[str, Tensor] | None,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, scores and candidates of each layer: of its shape, on its device, the candidates (bool) a contiguous copy.

    Raises ConfigError as `check_tensors` and `score` do.
    """
    check_tensors(weights, masks, gradients)
    for name, weight in weights.items():
        scores = score(criterion, name, weight, gradients[name] if gradients else None)
        candidates = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
        yield name, scores, candidates.copy_(masks[name]) if masks else candidates
