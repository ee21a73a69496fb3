"""Define what may differ within one stage of a Once-for-All space: depth, kernel, expand and width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, TypeVar

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import BlockChoice, StageChoice
from orchestrator.validate import whole

T = TypeVar("T")


@dataclass(frozen=True)
class Largest:
    """Limit a stage to its largest choices, so many of each kind; None: all of them."""

    kernels: int | None = None
    depths: int | None = None
    expands: int | None = None
    widths: int | None = None
    resolutions: int | None = None

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count is not None:
                whole(name, count, minimum=1, way_out="None stands for all choices")

    def holds(self, other: Largest) -> bool:
        """Return whether every choice that `other` leaves is left here too."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(mine is None or (theirs is not None and theirs <= mine) for mine, theirs in pairs)


@dataclass(frozen=True)
class ElasticStage:
    """Define the choices of a stage, each in rising order.

    Each block has its own kernel and expand. With `coupled`, all blocks of a stage of the n-th depth have the n-th
    expand (Sahni, Varshini, Khare, Tumanov, "CompOFA", ICLR 2021, section 3).
    """

    depths: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    expands: tuple[float, ...] = (1.0,)
    widths: tuple[float, ...] = (1.0,)
    coupled: bool = False

    def __post_init__(self) -> None:
        for name in ("depths", "kernels", "expands", "widths"):
            choices = getattr(self, name)
            if not choices or list(choices) != sorted(set(choices)):
                raise ConfigError(f"{name} must hold at least one choice and rise, got {choices}")
        if self.coupled and len(self.depths) != len(self.expands):
            raise ConfigError(f"coupled depths and expands must be as many, got {self.depths} and {self.expands}")

    def __str__(self) -> str:
        """Return all choices in one line: `depths 1, 2; kernels 3, 5; expands 2, 3, 4; widths 1`."""
        names = ("depths", "kernels", "expands", "widths")
        return "; ".join(f"{name} {', '.join(f'{choice:g}' for choice in getattr(self, name))}" for name in names)

    @cached_property
    def blocks(self) -> dict[int, tuple[BlockChoice, ...]]:
        """Return what each block of a stage may be, by the depth of the stage, smallest first."""
        return {
            depth: tuple(itertools.starmap(BlockChoice, itertools.product(self.kernels, self._expands(place))))
            for place, depth in enumerate(self.depths)
        }

    def _expands(self, place: int) -> tuple[float, ...]:
        return (self.expands[place],) if self.coupled else self.expands

    def count(self) -> int:
        """Return how many stages there are to choose from."""
        return len(self.widths) * sum(math.prod([len(blocks)] * depth) for depth, blocks in self.blocks.items())

    def enumerate(self) -> Iterator[StageChoice]:
        """Yield every stage once."""
        for width, (depth, blocks) in itertools.product(self.widths, self.blocks.items()):
            yield from (StageChoice(width, chosen) for chosen in itertools.product(blocks, repeat=depth))

    def holds(self, stage: StageChoice) -> bool:
        """Return whether `stage` is one of these."""
        allowed = self.blocks.get(len(stage.blocks))
        return allowed is not None and stage.width in self.widths and all(block in allowed for block in stage.blocks)

    def at(self, place: int) -> StageChoice:
        """Return the stage with the choice at `place`, 0 or -1, of everything: the smallest or the largest."""
        depth = self.depths[place]
        return StageChoice(self.widths[place], (self.blocks[depth][place],) * depth)

    def uniform(self) -> Iterator[StageChoice]:
        """Yield stages of equal blocks, with the largest kernel, that show every width and expand of every block."""
        for width, depth in itertools.product(self.widths, self.depths if self.coupled else self.depths[-1:]):
            for expand in dict.fromkeys(block.expand for block in self.blocks[depth]):
                yield StageChoice(width, (BlockChoice(self.kernels[-1], expand),) * depth)

    def sample(self, rng: Random) -> StageChoice:
        """Return a stage with every choice drawn uniformly, one after another."""
        width, depth = pick(self.widths, rng), pick(self.depths, rng)
        return StageChoice(width, tuple(pick(self.blocks[depth], rng) for _ in range(depth)))

    def mutate(self, stage: StageChoice, rate: float, rng: Random) -> StageChoice:
        """Return `stage` with its width, its depth and each block drawn anew, each with the probability `rate`."""
        width = pick(self.widths, rng) if rng.random() < rate else stage.width
        depth = pick(self.depths, rng) if rng.random() < rate else len(stage.blocks)
        kept = [None if rng.random() < rate else block for block in stage.blocks[:depth]]
        return StageChoice(width, self._filled(kept, depth, rng))

    def cross(self, first: StageChoice, second: StageChoice, rng: Random) -> StageChoice:
        """Return a child of two stages: its width, its depth and each block are those of one of them."""
        width, long = pick((first, second), rng).width, pick((first, second), rng)
        other = second if long is first else first
        depth = len(long.blocks)
        allowed = self.blocks[depth]
        blocks = [
            theirs if theirs in allowed and rng.random() < 0.5 else own
            for own, theirs in itertools.zip_longest(long.blocks, other.blocks[:depth])
        ]
        return StageChoice(width, tuple(blocks))

    def _filled(self, kept: Sequence[BlockChoice | None], depth: int, rng: Random) -> tuple[BlockChoice, ...]:
        """Return `kept` with a random block in the place of each that is missing or not allowed at this depth."""
        allowed = self.blocks[depth]
        padded = [*kept, *[None] * (depth - len(kept))]
        return tuple(block if block in allowed else pick(allowed, rng) for block in padded)

    def smaller(self, stage: StageChoice) -> list[StageChoice]:
        """Return the stages that are one step smaller, in one choice; an empty list for the smallest."""
        found = []
        if (width := _before(self.widths, stage.width)) is not None:
            found.append(replace(stage, width=width))
        if (depth := _before(self.depths, len(stage.blocks))) is not None:
            blocks = stage.blocks[:depth]
            if self.coupled:
                expand = self.expands[self.depths.index(depth)]
                blocks = tuple(replace(block, expand=expand) for block in blocks)
            found.append(replace(stage, blocks=blocks))
        for place, block in enumerate(stage.blocks):
            changes: list[BlockChoice] = []
            if (kernel := _before(self.kernels, block.kernel)) is not None:
                changes.append(replace(block, kernel=kernel))
            if not self.coupled and (expand := _before(self.expands, block.expand)) is not None:
                changes.append(replace(block, expand=expand))
            found += [
                replace(stage, blocks=(*stage.blocks[:place], change, *stage.blocks[place + 1 :])) for change in changes
            ]
        return found

    def narrowed(self, largest: Largest) -> ElasticStage:
        """Return the stage with only the largest choices, as many of each as `largest` says."""
        depths, expands = largest.depths, largest.expands
        if self.coupled:
            depths = expands = min((count for count in (depths, expands) if count is not None), default=None)
        return ElasticStage(
            of_largest(self.depths, depths),
            of_largest(self.kernels, largest.kernels),
            of_largest(self.expands, expands),
            of_largest(self.widths, largest.widths),
            self.coupled,
        )


def pick(choices: Sequence[T], rng: Random) -> T:
    """Return one of `choices`, drawn uniformly; from the same `rng` the same one, on every version of Python."""
    return choices[int(rng.random() * len(choices))]


def _before(choices: Sequence[Any], value: Any) -> Any:
    place = choices.index(value)
    return choices[place - 1] if place else None


def of_largest(choices: tuple[T, ...], count: int | None) -> tuple[T, ...]:
    """Return the last `count` of `choices`; None: all of them."""
    return choices if count is None else choices[-count:]
