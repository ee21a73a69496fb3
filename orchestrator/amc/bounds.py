"""Keep every choice of a search within its budget, and use the budget up.

The paper (algorithm 1) bounds each action from above, so that the budget can still be reached with the layers that
follow at their minimum. Here it is bounded from below too, so that the budget can still be used up, to within a block,
with the layers that follow at their maximum. Bounds count whole blocks; what rounding leaves is filled up in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import TypeAlias

from orchestrator.amc.cost import Cost
from orchestrator.errors import ConfigError
from orchestrator.validate import fraction

Sizes: TypeAlias = tuple[int, ...]
HALVINGS = 40  # of the interval [0, 1]: its width is then below one block of any layer


@dataclass(frozen=True)
class Traits:
    """Describe a decision's layer to an agent: the paper's features that do not change during a search.

    `outputs`, `inputs`: channels. `height`, `width`: of the input, in pixels. `share`: cost of the layers that the
    decision's channels or weights belong to, as a fraction of the network's that the search starts from.
    """

    outputs: int = 0
    inputs: int = 0
    height: int = 1
    width: int = 1
    stride: int = 1
    kernel: int = 1
    share: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Define one action: how many channels of a group, or weights of a layer, stay.

    The sizes are multiples of `step`, and `maximum`, which is all that the network has now.
    """

    name: str
    maximum: int
    step: int = 1
    traits: Traits = Traits()

    @property
    def minimum(self) -> int:
        return self.size(1)

    @property
    def blocks(self) -> int:
        """Return the largest number of blocks; the last may be smaller than `step`."""
        return -(-self.maximum // self.step)

    def size(self, blocks: int) -> int:
        return min(blocks * self.step, self.maximum)

    def nearest(self, wanted: float) -> int:
        """Return the number of blocks that is nearest to the fraction `wanted` of the maximum."""
        return min(max(1, round(wanted * self.maximum / self.step)), self.blocks)

    def below(self, wanted: float) -> int:
        """Return the largest number of blocks that is at most the fraction `wanted`; the minimum is 1."""
        return self.blocks if wanted >= 1 else max(1, int(wanted * self.maximum / self.step))


@dataclass(frozen=True, eq=False)
class Budget:
    """Define what a search chooses from: `decisions` in the network's order, of a `cost` up to `density` * `dense`.

    Raises ConfigError for a density that even the minimum of each decision exceeds.
    """

    decisions: tuple[Decision, ...]
    cost: Cost
    density: float
    dense: float
    unit: str = "macs"

    def __post_init__(self) -> None:
        fraction("density", self.density, one=True)
        if not self.decisions:
            raise ConfigError("a search needs a layer whose channels may go, got a network without one")
        minimum = self.cost([decision.minimum for decision in self.decisions]) / self.dense
        if self.density < minimum:
            lowest = Context(prec=4, rounding=ROUND_CEILING).create_decimal(Decimal(repr(minimum)))
            raise ConfigError(
                f"density {self.density:g} of the {self.unit} cannot be reached, because every layer keeps at least "
                f"one block: the smallest density is {lowest}"
            )

    def allows(self, sizes: Sequence[int]) -> bool:
        """Return whether the cost of `sizes` is within the budget."""
        return self.cost(sizes) / self.dense <= self.density

    def bounds(self, chosen: Sequence[int]) -> tuple[int, int]:
        """Return the smallest and the largest number of blocks of the next decision, given the sizes before it."""
        decision, *rest = self.decisions[len(chosen) :]
        largest = [other.maximum for other in rest]
        smallest = [other.minimum for other in rest]
        high = _largest(decision.blocks, lambda b: self.allows([*chosen, decision.size(b), *smallest]))
        low = _largest(decision.blocks, lambda b: self.allows([*chosen, decision.size(b), *largest]))
        return min(low, high), high

    def fit(self, wanted: Sequence[float]) -> Sizes:
        """Return the sizes nearest to the fractions `wanted`, decision after decision within its bounds; then fill up.

        The result is within the budget, and no decision can take one block more.
        """
        chosen: list[int] = []
        for decision, fraction_kept in zip(self.decisions, wanted, strict=True):
            low, high = self.bounds(chosen)
            chosen.append(decision.size(min(max(decision.nearest(fraction_kept), low), high)))
        return self.fill(chosen, wanted)

    def place(self, positions: Sequence[float]) -> Sizes:
        """Return the sizes at `positions` between the bounds, 0 the lowest and 1 the highest; then fill up.

        Equal positions are equally likely whatever came before. Fractions are not: most of them end at a bound.
        """
        chosen: list[int] = []
        for decision, position in zip(self.decisions, positions, strict=True):
            low, high = self.bounds(chosen)
            chosen.append(decision.size(low + round(position * (high - low))))
        return self.fill(chosen, [1.0] * len(chosen))

    def positions(self, sizes: Sequence[int]) -> list[float]:
        """Return where between its bounds each size is, in [0, 1]; 1/2 where the bounds leave no choice."""
        found = []
        for place, decision in enumerate(self.decisions):
            low, high = self.bounds(sizes[:place])
            blocks = -(-sizes[place] // decision.step)
            found.append(min(max((blocks - low) / (high - low), 0.0), 1.0) if low < high else 0.5)
        return found

    def fill(self, sizes: Sequence[int], wanted: Sequence[float]) -> Sizes:
        """Return `sizes` grown until no decision can take one block more, all by about as many blocks.

        The decisions furthest below their fractions `wanted` come first. One that could not grow cannot grow
        after the others did, because costs never decrease.
        """
        blocks = [-(-size // decision.step) for size, decision in zip(sizes, self.decisions, strict=True)]
        lacking = [w - size / d.maximum for w, size, d in zip(wanted, sizes, self.decisions, strict=True)]

        growing = sorted(range(len(blocks)), key=lambda place: -lacking[place])
        while growing:
            blocks = self._grown_together(blocks, growing)
            growing = [place for place in growing if self._grow(blocks, place)]
        return self._sizes(blocks)

    def _grown_together(self, blocks: Sequence[int], growing: Sequence[int]) -> list[int]:
        """Return `blocks` with as many more as the budget allows, the same number for each place in `growing`."""

        def grown(by: int) -> list[int]:
            return [count + by * (place in growing) for place, count in enumerate(blocks)]

        maximum = max(self.decisions[place].blocks - blocks[place] for place in growing)
        return grown(_largest(maximum, lambda by: self.allows(self._sizes(grown(by))), minimum=0))

    def _grow(self, blocks: list[int], place: int) -> bool:
        """Add a block at `place`, in the list itself, if the budget allows it. Return whether it was added."""
        blocks[place] += 1
        if blocks[place] <= self.decisions[place].blocks and self.allows(self._sizes(blocks)):
            return True
        blocks[place] -= 1
        return False

    def _sizes(self, blocks: Sequence[int]) -> Sizes:
        return tuple(decision.size(b) for decision, b in zip(self.decisions, blocks, strict=True))

    def widest(self, family: Callable[[float], Sequence[float]]) -> Sizes:
        """Return the largest member of a family of fractions that fits the budget; then fill up.

        `family` maps a number in [0, 1] to fractions that do not decrease with it; at 0 all are at their minimum.
        """
        low, high = 0.0, 1.0
        if self.allows(self._floor(family(high))):
            low = high
        for _ in range(HALVINGS if low < high else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if self.allows(self._floor(family(middle))) else (low, middle)
        return self.fill(self._floor(family(low)), family(high))

    def fractions(self, sizes: Sequence[int]) -> list[float]:
        """Return which fraction of its maximum each decision keeps: the actions that were carried out."""
        return [size / decision.maximum for size, decision in zip(sizes, self.decisions, strict=True)]

    def _floor(self, wanted: Sequence[float]) -> Sizes:
        return self._sizes([decision.below(w) for decision, w in zip(self.decisions, wanted, strict=True)])


def _largest(maximum: int, holds: Callable[[int], bool], minimum: int = 1) -> int:
    """Return the largest number up to `maximum` for which `holds`, which is true up to some number; else `minimum`."""
    low, high = minimum, maximum
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
