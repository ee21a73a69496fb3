"""Define which weights of a layer go together, or how many of them may stay, so that a runtime gains from zeros."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.pruning.counts import count_to_keep, kept_count
from orchestrator.validate import whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

Shape: TypeAlias = tuple[int, ...]


class Arranged(NamedTuple):
    """Flat scores of a layer and its candidates (bool) in the order of a pattern."""

    values: Tensor
    mask: Tensor


@runtime_checkable
class Pattern(Protocol):
    """Constrain the zeros of a layer. Derive from it: a frozen dataclass, whose fields are part of each key.

    `size`: how many weights go together. A layer that the pattern does not divide is pruned without it. Shapes are
    (C_out, C_in, ...); a transposed convolution has its inputs first, and counts as if they were outputs.
    """

    @property
    def size(self) -> int:
        return 1

    def divides(self, shape: Shape) -> bool:
        """Return whether layers of this shape follow the pattern."""
        ...

    def capacity(self, shape: Shape) -> int:
        """Return how many weights of a layer that it divides may stay."""
        return math.prod(shape)

    def arrange(self, scores: Tensor, candidates: Tensor) -> Arranged:
        """Return flat scores and candidates (bool) in which weights that go together are neighbours of equal score."""
        ...

    def restore(self, kept: Tensor, shape: Shape) -> Tensor:
        """Return the mask of `shape` whose weights, as `arrange` orders them, are `kept`."""
        return kept.view(shape)


@dataclass(frozen=True)
class Blocks(Pattern):
    """Keep or remove `outputs` neighbouring outputs together, at one input and one place of the kernel.

    Sparse kernels for convolutions load an input once and multiply it with a block of outputs (MNN's SIMD_OC). A block
    has the mean score of its weights; one of which earlier masks left a part goes. Layers whose outputs the size does
    not divide, and convolutions with one input each output (depthwise), do not follow it.
    """

    outputs: int = 4

    def __post_init__(self) -> None:
        whole("Blocks.outputs", self.outputs, minimum=2)

    @property
    def size(self) -> int:
        return self.outputs

    def divides(self, shape: Shape) -> bool:
        shares_inputs = len(shape) == 2 or (len(shape) > 2 and shape[1] > 1)
        return shares_inputs and shape[0] % self.outputs == 0

    def arrange(self, scores: Tensor, candidates: Tensor) -> Arranged:
        wide = scores.dtype if scores.dtype is torch.float64 else torch.float32
        means = scores.reshape(-1, self.outputs, scores[0].numel()).mean(1, dtype=wide)
        means = means.masked_fill(means.isnan(), math.inf)  # NaN: the block has both +inf and -inf
        whole_blocks = candidates.reshape(-1, self.outputs, scores[0].numel()).all(1)
        return Arranged(*(each.reshape(-1).repeat_interleave(self.outputs) for each in (means, whole_blocks)))

    def restore(self, kept: Tensor, shape: Shape) -> Tensor:
        return kept.view(shape[0] // self.outputs, -1, self.outputs).transpose(1, 2).reshape(shape)


@dataclass(frozen=True)
class AtMost(Pattern):
    """Keep at most `n` of every `of` consecutive inputs, for each output and each place of the kernel.

    `AtMost(2, of=4)` is 2:4 sparsity (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021) at any density
    up to a half. Layers whose inputs `of` does not divide do not follow it.
    """

    n: int
    of: int = 4

    def __post_init__(self) -> None:
        whole("AtMost.of", self.of, minimum=2)
        whole("AtMost.n", self.n, minimum=1, maximum=self.of - 1)

    def divides(self, shape: Shape) -> bool:
        return len(shape) > 1 and shape[1] % self.of == 0

    def capacity(self, shape: Shape) -> int:
        return math.prod(shape) // self.of * self.n

    def arrange(self, scores: Tensor, candidates: Tensor) -> Arranged:
        allowed = best_of_each_group(scores, candidates, self.n, self.of) & candidates
        return Arranged(scores.reshape(-1), allowed.reshape(-1))


def check_is_pattern(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is None or a pattern."""
    if isinstance(value, type) or not isinstance(value, Pattern | None):
        got = f"the class {value.__name__}: write {value.__name__}(...)" if isinstance(value, type) else repr(value)
        raise ConfigError(f"{name} must be None or a pattern, such as Blocks(4) or AtMost(2, of=4), got {got}")


def best_of_each_group(scores: Tensor, candidates: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of the `n` best candidates of every `m` consecutive inputs, of equal ones the first.

    A group with fewer candidates is filled up with others.
    """
    groups = (scores.shape[0], scores.shape[1] // m, m, -1)
    scores = scores.clamp(min=torch.finfo(scores.dtype).min)  # -inf is below every candidate's
    ranked = scores.masked_fill(~candidates, -math.inf).reshape(groups).transpose(2, 3)
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :n]
    kept = torch.zeros(ranked.shape, dtype=torch.bool, device=scores.device).scatter_(-1, best, True)
    return kept.transpose(2, 3).reshape(scores.shape)


def without_pattern(pattern: Pattern | None, shapes: Mapping[str, Shape]) -> list[str]:
    """Return the names of the layers that the pattern does not divide."""
    return [name for name, shape in shapes.items() if not pattern.divides(shape)] if pattern else []


def capacities(pattern: Pattern | None, shapes: Iterable[Shape]) -> list[int]:
    """Return how many weights each layer may keep."""
    return [pattern.capacity(s) if pattern and pattern.divides(s) else math.prod(s) for s in shapes]


def check_pattern(pattern: Pattern, shapes: Mapping[str, Shape], min_kept_per_layer: int = 0) -> None:
    """Raise ConfigError if no layer follows the pattern, or if the minimum is not a number of whole blocks."""
    if len(without_pattern(pattern, shapes)) == len(shapes):
        raise ConfigError(
            f"pattern {pattern} must divide the outputs or inputs of a layer, but the weights have the shapes "
            f"{sorted(set(shapes.values()))[:6]}: choose another size, or None"
        )
    if min_kept_per_layer % pattern.size:
        raise ConfigError(
            f"min_kept_per_layer must be a multiple of {pattern.size} with pattern {pattern}, got {min_kept_per_layer}"
        )


def check_count(pattern: Pattern | None, shapes: Mapping[str, Shape], density: float, min_kept_per_layer: int) -> None:
    """Raise ConfigError, before anything is trained, if the network cannot keep `density` of its weights."""
    total, capacity = sum(map(math.prod, shapes.values())), capacities(pattern, shapes.values())
    keep = kept_count(density, total)
    if pattern and keep > sum(capacity):
        raise ConfigError(
            f"density {density:g} keeps {keep} of {total} weights, but {pattern} leaves at most {sum(capacity)}: it "
            f"must be at most {sum(capacity) / total:g}"
        )
    if pattern and keep < pattern.size and not without_pattern(pattern, shapes):
        raise ConfigError(f"density must keep at least one of the {pattern}, got {density:g}, which keeps {keep}")
    count_to_keep(density, total, capacity, min_kept_per_layer)
