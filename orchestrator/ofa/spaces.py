"""The spaces of Once-for-All networks (Cai, Gan, Wang, Zhang, Han, ICLR 2020, section 3.2), and the smaller ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.stage import ElasticStage, Largest, of_largest, pick
from orchestrator.validate import one_of


@dataclass(frozen=True)
class Space:
    """All networks of `family` whose stages and resolution (pixels; none given: of any size) are among these.

    `sample`, `mutate` and `cross` draw from a `random.Random`: from one of the same seed, the same networks.
    """

    name: str
    family: str
    stages: tuple[ElasticStage, ...]
    resolutions: tuple[int, ...] = ()

    @property
    def _resolutions(self) -> tuple[int | None, ...]:
        return self.resolutions or (None,)

    def networks(self) -> int:
        """Return how many networks there are, each counted once for all resolutions."""
        return math.prod(stage.count() for stage in self.stages)

    def count(self) -> int:
        """Return how many architectures there are, each network counted at each resolution."""
        return self.networks() * len(self._resolutions)

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once."""
        for stages in itertools.product(*(stage.enumerate() for stage in self.stages)):
            yield from (Architecture(self.family, stages, resolution) for resolution in self._resolutions)

    def smallest(self) -> Architecture:
        return Architecture(self.family, tuple(stage.at(0) for stage in self.stages), self._resolutions[0])

    def largest(self) -> Architecture:
        return Architecture(self.family, tuple(stage.at(-1) for stage in self.stages), self._resolutions[-1])

    def sample(self, rng: Random) -> Architecture:
        """Return an architecture with every choice drawn uniformly, one after another, as the paper's training does."""
        stages = tuple(stage.sample(rng) for stage in self.stages)
        return Architecture(self.family, stages, pick(self._resolutions, rng))

    def mutate(self, architecture: Architecture, rate: float, rng: Random) -> Architecture:
        """Return `architecture` with each choice drawn anew with the probability `rate`."""
        stages = tuple(
            elastic.mutate(stage, rate, rng) for elastic, stage in zip(self.stages, architecture.stages, strict=True)
        )
        resolution = pick(self._resolutions, rng) if rng.random() < rate else architecture.resolution
        return Architecture(self.family, stages, resolution)

    def cross(self, first: Architecture, second: Architecture, rng: Random) -> Architecture:
        """Return a child of two architectures: each choice is that of one of them."""
        stages = tuple(
            elastic.cross(one, other, rng)
            for elastic, one, other in zip(self.stages, first.stages, second.stages, strict=True)
        )
        return Architecture(self.family, stages, pick((first, second), rng).resolution)

    def shrink(self, architecture: Architecture, rng: Random) -> Architecture | None:
        """Return `architecture` one step smaller in one choice, drawn from `rng`; None for the smallest."""
        places = [place for place, elastic in enumerate(self.stages) if architecture.stages[place] != elastic.at(0)]
        lower = self._resolutions.index(architecture.resolution) - 1
        place = pick([*places, *[-1] * (lower >= 0)] or [None], rng)
        if place is None:
            return None
        if place == -1:
            return replace(architecture, resolution=self._resolutions[lower])
        stage = pick(self.stages[place].smaller(architecture.stages[place]), rng)
        stages = (*architecture.stages[:place], stage, *architecture.stages[place + 1 :])
        return replace(architecture, stages=stages)

    def uniform(self) -> Iterator[Architecture]:
        """Yield architectures of equal blocks that together show every width and expand of every block."""
        stages = [tuple(stage.uniform()) for stage in self.stages]
        for place in range(max(map(len, stages))):
            chosen = tuple(each[min(place, len(each) - 1)] for each in stages)
            yield Architecture(self.family, chosen, self._resolutions[-1])

    def check(self, architecture: Architecture) -> Architecture:
        """Return `architecture`. Raise ConfigError, which names the stage, if it is not one of this space."""
        what = f"the architecture must be one of the space {self.name!r}"
        if architecture.family != self.family or len(architecture.stages) != len(self.stages):
            raise ConfigError(f"{what}, got {len(architecture.stages)} stages of the family {architecture.family!r}")
        for place, (elastic, stage) in enumerate(zip(self.stages, architecture.stages, strict=True)):
            if not elastic.holds(stage):
                raise ConfigError(f"{what}, got {stage} for stage {place}, which has {elastic}")
        if architecture.resolution not in self._resolutions:
            raise ConfigError(f"{what}, got resolution {architecture.resolution}: it has {self._resolutions}")
        return architecture

    def has_more_widths(self, other: Space) -> bool:
        """Return whether blocks or stages of these networks have widths that those of `other` do not have."""
        pairs = zip(self.stages, other.stages, strict=True)
        return any((mine.expands, mine.widths) != (theirs.expands, theirs.widths) for mine, theirs in pairs)

    def narrowed(self, largest: Largest) -> Space:
        """Return the space with only the largest choices, as many of each as `largest` says."""
        stages = tuple(stage.narrowed(largest) for stage in self.stages)
        return replace(self, stages=stages, resolutions=of_largest(self.resolutions, largest.resolutions))


def _compound(kernel: int) -> ElasticStage:
    return ElasticStage((2, 3, 4), (kernel,), (3, 4, 6), coupled=True)


def _bottlenecks(*depths: int) -> ElasticStage:
    return ElasticStage(depths, expands=(0.2, 0.25, 0.35), widths=(0.65, 0.8, 1.0))


_RESOLUTIONS = tuple(range(128, 225, 4))

SPACES: Mapping[str, Space] = {
    space.name: space
    for space in (
        # 7371^5 networks at 25 resolutions (section 3.2).
        Space("mobilenetv3", "mobilenetv3", (ElasticStage((2, 3, 4), (3, 5, 7), (3, 4, 6)),) * 5, _RESOLUTIONS),
        # 3^5 networks, with the fixed kernels of CompOFA.
        Space("compofa", "mobilenetv3", tuple(map(_compound, (3, 5, 3, 3, 5))), _RESOLUTIONS),
        # The stem has a residual block that may be skipped, and two widths: before and after its last convolution.
        Space(
            "resnet50d",
            "resnet50d",
            (
                ElasticStage((0, 1), widths=(0.8, 1.0)),  # 0.65 of 32 channels, rounded, is 0.8 of them
                ElasticStage((0,), widths=(0.65, 0.8, 1.0)),
                _bottlenecks(2, 3, 4),
                _bottlenecks(2, 3, 4),
                _bottlenecks(4, 5, 6),
                _bottlenecks(2, 3, 4),
            ),
            _RESOLUTIONS,
        ),
        # Our own for inputs of 8 to 32 pixels: 42^2 = 1,764 networks, few enough to measure all of them.
        Space("small", "small", (ElasticStage((1, 2), (3, 5), (2, 3, 4)),) * 2),
    )
}


def find_space(name: str) -> Space:
    """Return the space of this name. Raise ConfigError, which lists the names, if there is none."""
    return SPACES[one_of("space", name, SPACES)]
