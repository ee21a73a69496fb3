"""Select what a density leaves of a network. Whole filters are in filters.py, channels in channels/removal.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from orchestrator.errors import ConfigError
from orchestrator.field_json import NOT_IN_KEY_IF_NONE
from orchestrator.lazy import lazy
from orchestrator.pruning.counts import kept_count
from orchestrator.pruning.patterns import (
    Pattern,
    best_of_each_group,
    check_count,
    check_is_pattern,
    check_pattern,
    without_pattern,
)
from orchestrator.validate import dataclass_with, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from orchestrator.pruning import global_magnitude, masks, structure
    from orchestrator.pruning.candidate import StructureSearch
    from orchestrator.pruning.structure import Structure
    from orchestrator.pruning.view import View
else:
    torch = lazy("torch")
    global_magnitude, masks, structure = (
        lazy(f"orchestrator.pruning.{name}") for name in ("global_magnitude", "masks", "structure")
    )


@runtime_checkable
class Selection(Protocol):
    """Decide what a density leaves of a network. Derive from it: a frozen dataclass, whose fields are part of each key.

        @dataclass(frozen=True)
        class Largest(Selection):
            def check(self, view: View, density: float) -> None:
                fraction("density", density)

            def select(self, view: View, density: float) -> Structure:
                return Masks(prune_globally(view.weights, density, masks=view.masks))

    `needs_channels`: whether the view must have the graph of the network's channels; `needs_geometry`: whether it must
    have the layers' shapes. `any_density`: whether there are other densities between two that it can give.
    """

    any_density: ClassVar[bool] = True

    @property
    def needs_channels(self) -> bool:
        return False

    @property
    def needs_geometry(self) -> bool:
        return False

    def check(self, view: View, density: float) -> None:
        """Raise ConfigError, before anything is trained, if the network cannot be given this density.

        The weights of `view` have shapes and may have no values.
        """

    def select(self, view: View, density: float) -> Structure:
        """Return what is left of the dense network, within what `view` has left; of equal scores the first stay.

        `density` counts against the dense network. Raises ConfigError as `prune_globally` and `check` do. Nothing
        passed in is changed.
        """
        ...

    def search(self, view: View, density: float, seed: int) -> StructureSearch | None:
        """Return, at its beginning, the search that decides in the place of `select`; None: `select` decides."""
        return None

    def unstructured(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names of the prunable weights of these shapes that do not follow the selection's pattern."""
        return []

    def shortened(self) -> Selection:
        """Return this selection as a run of a few minutes needs it, for --smoke."""
        return self


def check_selection(value: Selection) -> Selection:
    """Return `value` if it is a dataclass that derives from `Selection`. Raise ConfigError otherwise."""
    dataclass_with("selection", value, ["select", "check"])
    if not isinstance(value, Selection):
        raise ConfigError(f"selection must derive from orchestrator.pruning.Selection, got {value!r}")
    return value


@dataclass(frozen=True)
class Global(Selection):
    """The lowest scores of the whole network go, wherever they are (see `prune_globally`).

    `pattern`: what the zeros of each layer follow, such as `Blocks(4)` or `AtMost(2, of=4)`; None: nothing.
    """

    pattern: Pattern | None = field(default=None, metadata=NOT_IN_KEY_IF_NONE)

    def __post_init__(self) -> None:
        check_is_pattern("Global.pattern", self.pattern)

    def unstructured(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        return without_pattern(self.pattern, shapes)

    def check(self, view: View, density: float) -> None:
        if self.pattern:
            check_pattern(self.pattern, view.shapes, view.min_kept_per_layer)
        check_count(self.pattern, view.shapes, density, view.min_kept_per_layer)

    def select(self, view: View, density: float) -> Structure:
        kept = global_magnitude.prune_globally(
            view.weights,
            density,
            masks=view.masks,
            criterion=view.criterion,
            gradients=view.gradients,
            min_kept_per_layer=view.min_kept_per_layer,
            pattern=self.pattern,
        )
        return structure.Masks(kept)


@dataclass(frozen=True)
class Layerwise(Selection):
    """Every layer keeps round(density * n) of its own n weights, its best; at least 1, and `min_kept_per_layer`.

    What the minimum adds is not taken from other layers. Uniform sparsity: the baseline of Gale, Elsen, Hooker, "The
    State of Sparsity in Deep Neural Networks", 2019.
    """

    def check(self, view: View, density: float) -> None:
        whole("min_kept_per_layer", view.min_kept_per_layer, minimum=0)
        kept_count(density, 1)

    def select(self, view: View, density: float) -> Structure:
        masks.check_tensors(view.weights, view.masks, view.gradients)
        self.check(view, density)
        return structure.Masks({name: self._best(view, name, density) for name in view.weights})

    def _best(self, view: View, name: str, density: float) -> Tensor:
        """Return the mask of one layer."""
        weight, mask = view.weights[name], (view.masks or {}).get(name)
        size = weight.numel()
        available = size if mask is None else masks.count_true(mask)
        keep = max(kept_count(density, size), 1, min(available, view.min_kept_per_layer))
        if keep > available:
            raise ConfigError(
                f"density {density:g} keeps {keep} of {size} weights in {name}, but the masks given leave only "
                f"{available} there: lower the density, or give masks of the same selection"
            )
        kept = global_magnitude.prune_globally(
            {name: weight},
            keep / size,
            masks=None if mask is None else {name: mask},
            criterion=view.criterion,
            gradients={name: view.gradients[name]} if view.gradients else None,
        )
        return kept[name]


@dataclass(frozen=True)
class NofM(Selection):
    """N:M sparsity: n = density * m of every m consecutive inputs stay, for each output and each place of the kernel.

    Density 0.5 with m = 4 is the 2:4 of Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021. Inputs are
    dimension 1 of (C_out, C_in, kh, kw) and of (C_out, C_in); a transposed convolution has its outputs there. A layer
    whose inputs m does not divide stays dense, so that the whole network keeps a little more than `density`.
    """

    any_density: ClassVar[bool] = False

    m: int = 4

    def __post_init__(self) -> None:
        whole("NofM.m", self.m, minimum=2)

    def check(self, view: View, density: float) -> None:
        whole("min_kept_per_layer", view.min_kept_per_layer, minimum=0)
        n = self._kept(density)
        if n < self.m and not any(map(self._divides, view.shapes.values())):
            inputs = sorted({shape[1] for shape in view.shapes.values() if len(shape) > 1})
            raise ConfigError(f"NofM(m={self.m}) needs a layer whose inputs {self.m} divides, but they are {inputs}")
        for name, shape in view.shapes.items():
            size = math.prod(shape)
            if self._divides(shape) and size * n // self.m < min(size, view.min_kept_per_layer):
                raise ConfigError(
                    f"density {density:g} keeps {size * n // self.m} of {size} weights in {name}, but "
                    f"min_kept_per_layer={view.min_kept_per_layer} wants more: raise the density or lower the minimum"
                )

    def select(self, view: View, density: float) -> Structure:
        self.check(view, density)
        with torch.no_grad():
            kept = {name: view.candidates(name) for name in view.weights}
            for name, scores in view.scores.items():
                if self._divides(scores.shape):
                    kept[name] = self._best(name, scores, kept[name], self._kept(density))
        return structure.Masks(kept)

    def _best(self, name: str, scores: Tensor, candidates: Tensor, n: int) -> Tensor:
        if (candidates.unflatten(1, (-1, self.m)).sum(2) < n).any():
            raise ConfigError(f"{n} of every {self.m} inputs must stay, but the masks given leave fewer in {name}")
        return best_of_each_group(scores, candidates, n, self.m)

    def _kept(self, density: float) -> int:
        """Return n of n:m. Raises ConfigError unless it is a whole number of 1 or more."""
        n = kept_count(density, self.m)
        if n < 1 or not math.isclose(density * self.m, n, rel_tol=1e-9):
            raise ConfigError(
                f"density * m must be a whole number, got {density:g} * {self.m} = {density * self.m:g}: "
                f"with NofM(m={self.m}) densities are 1/{self.m}, 2/{self.m}, ... (a path of them is Explicit([...]))"
            )
        return n

    def _divides(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and shape[1] % self.m == 0
