"""Define how much to keep, and when: a path gives the densities of rounds 1, 2, ... relative to the dense network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.validate import fraction, tuple_of, whole


class Path(Protocol):
    """A frozen dataclass whose densities follow from its fields alone."""

    def densities(self) -> tuple[float, ...]:
        """Return the density after each round's pruning: strictly decreasing, each in (0, 1)."""
        ...


@dataclass(frozen=True)
class Geometric:
    """Remove the fraction `remove` of the remaining weights, `rounds` times: densities (1 - remove)^r.

    The iterative pruning of Renda, Frankle, Carbin (ICLR 2020), section 3, where `remove` is 0.2.
    """

    remove: float = 0.2
    rounds: int = 8

    def __post_init__(self) -> None:
        fraction("Geometric.remove", self.remove)
        whole("Geometric.rounds", self.rounds, minimum=1)
        check_decreasing(self.densities())

    @classmethod
    def down_to(cls, density: float, remove: float = 0.2) -> Geometric:
        """Return the path with the fewest rounds that ends at or below `density` (0.05 takes 14 rounds)."""
        fraction("density", density)
        fraction("remove", remove)
        rounds = math.log(density) / math.log1p(-remove)
        return cls(remove, max(1, math.ceil(rounds - 1e-9)))  # 0.512 is 0.8^3 up to rounding: 3 rounds, not 4

    def densities(self) -> tuple[float, ...]:
        return tuple((1 - self.remove) ** r for r in range(1, self.rounds + 1))


@dataclass(frozen=True)
class Cubic:
    """Go down to `density` in `rounds` rounds of decreasing size: 1 - s_r, with s_r = s (1 - (1 - r/n)^3).

    The gradual schedule of Zhu and Gupta, "To prune, or not to prune", 2017, equation 1, from a dense network
    (s_i = 0) to the final sparsity s = 1 - density, one step per round.
    """

    density: float
    rounds: int = 8

    def __post_init__(self) -> None:
        fraction("Cubic.density", self.density)
        whole("Cubic.rounds", self.rounds, minimum=1)
        check_decreasing(self.densities())

    def densities(self) -> tuple[float, ...]:
        left = ((1 - r / self.rounds) ** 3 for r in range(1, self.rounds + 1))
        return tuple(self.density + (1 - self.density) * part for part in left)  # the last one is exactly `density`


@dataclass(frozen=True)
class OneShot:
    """Prune the dense network to `density` in one round."""

    density: float

    def __post_init__(self) -> None:
        fraction("OneShot.density", self.density)

    def densities(self) -> tuple[float, ...]:
        return (self.density,)


@dataclass(frozen=True)
class Explicit:
    """Give the densities themselves, one per round: `Explicit([0.5, 0.25, 0.1])`."""

    values: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple_of("Explicit.values", self.values, fraction))
        if not self.values:
            raise ConfigError("Explicit.values must hold at least one density, got none")
        check_decreasing(self.densities())

    def densities(self) -> tuple[float, ...]:
        return tuple(self.values)


@dataclass(frozen=True)
class OnlyDense:
    """Prune nothing: the dense round is the whole path, as of a network that another one is compared with."""

    def densities(self) -> tuple[float, ...]:
        return ()


def longer(path: Path) -> Path:
    """Return `path` with one more round. Raises ConfigError if a float cannot hold a smaller density.

    A `Geometric` keeps its own step. Any other path continues by its mean step in log density, or by the default step
    of `Geometric` if that removes more, because a path that hardly prunes would never end. Existing rounds keep their
    keys, and a longer `Geometric` has the same keys as one that was made with that length.
    """
    if isinstance(path, Geometric):
        return replace(path, rounds=path.rounds + 1)
    densities = path.densities()
    mean, default = densities[-1] ** (1 + 1 / len(densities)), densities[-1] * (1 - Geometric.remove)
    return Explicit((*densities, min(mean, default)))


def check_decreasing(densities: tuple[float, ...]) -> None:
    for earlier, later in itertools.pairwise(
        (1.0, *densities)
    ):  # 1.0 itself, or a density that rounds to it, is refused too
        if not 0 < later < earlier:
            raise ConfigError(
                f"densities must decrease from round to round and stay above 0, got {earlier} then {later}"
            )
