"""In which order the networks of a space are trained, as values: what each phase trains, for how long, at what rate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.spaces import Space
from orchestrator.ofa.stage import Largest
from orchestrator.schedules import Cosine
from orchestrator.validate import finite, flag, one_of, tuple_of, whole

Teacher = Literal["none", "first phase", "largest of the step"]


@dataclass(frozen=True)
class Phase:
    """Train the networks that `largest` leaves of a space: each step, `subnets` of them on the same images.

    `rate`: the highest learning rate, for batches of 2,048 images. It rises from 0 in `warmup_epochs` of the `epochs`,
    then falls to 0 as half a cosine. With `sandwich`, the first two networks of a step are the largest and the
    smallest. `teacher`: whose outputs are soft labels; "first phase" is the network that the first phase trained,
    "largest of the step" the outputs, in the same step, of the first network of a sandwich.
    """

    epochs: int
    rate: float
    warmup_epochs: float = 0.0
    subnets: int = 1
    largest: Largest = field(default_factory=Largest)
    sandwich: bool = False
    teacher: Teacher = "first phase"

    def __post_init__(self) -> None:
        whole("Phase.epochs", self.epochs, minimum=1)
        finite("Phase.rate", self.rate, above=0)
        if finite("Phase.warmup_epochs", self.warmup_epochs, minimum=0) >= self.epochs:
            raise ConfigError(f"Phase.warmup_epochs must be below epochs, {self.epochs}, got {self.warmup_epochs}")
        fewest = 3 if flag("Phase.sandwich", self.sandwich) else 1
        whole("Phase.subnets", self.subnets, minimum=fewest, way_out="a sandwich has two networks and others between")
        one_of("Phase.teacher", self.teacher, ["none", "first phase", "largest of the step"])
        if self.teacher == "largest of the step" and not self.sandwich:
            raise ConfigError("Phase.teacher 'largest of the step' needs sandwich=True: else no step has the largest")

    @property
    def schedule(self) -> Cosine:
        return Cosine(self.rate, self.warmup_epochs)

    def draw(self, space: Space, seed: int) -> tuple[Architecture, ...]:
        """Return the architectures of the step that `seed` belongs to: the same on every worker.

        All have one resolution, but in a sandwich, where each has its own.
        """
        rng, trained = Random(seed), space.narrowed(self.largest)
        drawn = [trained.sample(rng) for _ in range(self.subnets)]
        if self.sandwich:
            return (trained.largest(), trained.smallest(), *drawn[2:])
        return tuple(replace(each, resolution=drawn[0].resolution) for each in drawn)


@dataclass(frozen=True)
class Phases:
    """Phases that follow each other, each of which trains all networks of the one before, and maybe more."""

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple_of("phases", self.phases, _phase))
        if not self.phases:
            raise ConfigError("phases must hold at least one phase, got none")
        for number, (before, phase) in enumerate(itertools.pairwise(self.phases), start=1):
            if not phase.largest.holds(before.largest):
                raise ConfigError(
                    f"phases must nest, but phase {number} leaves {phase.largest}, which drops networks that phase "
                    f"{number - 1} trains: {before.largest}"
                )
        first = self.phases[0]
        if any(phase.teacher == "first phase" for phase in self.phases) and (
            first.largest != ONE or first.teacher != "none"
        ):
            raise ConfigError(
                "a phase whose teacher is 'first phase' needs a first phase that trains the largest network alone: "
                "begin with Phase(..., largest=ONE, teacher='none')"
            )

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    @property
    def subnet_epochs(self) -> int:
        """Return the cost of all phases: epochs, each counted once for every sub-network of a step."""
        return sum(phase.epochs * phase.subnets for phase in self.phases)

    def check(self, space: Space) -> None:
        """Raise ConfigError unless the last phase trains all networks of `space`."""
        if (left := space.narrowed(self.phases[-1].largest)) != space:
            raise ConfigError(
                f"the last phase must train all {space.count():,} networks of the space {space.name!r}, got "
                f"{left.count():,}: its `largest` must be Largest()"
            )


def _phase(name: str, value: object) -> Phase:
    if not isinstance(value, Phase):
        raise ConfigError(f"{name} must be a Phase, got {value!r:.200}")
    return value


# The largest network alone.
ONE = Largest(kernels=1, depths=1, expands=1, widths=1, resolutions=1)

_LARGEST_NETWORK = Phase(180, 2.6, largest=ONE, teacher="none")

# Progressive shrinking (Cai et al. 2020, section 3.3 and appendix B; momentum 0.9 of Nesterov, weight decay 3e-5).
PROGRESSIVE: tuple[Phase, ...] = (
    _LARGEST_NETWORK,
    Phase(125, 0.96, 5, 1, Largest(depths=1, expands=1, widths=1)),
    Phase(25, 0.08, 0, 2, Largest(depths=2, expands=1, widths=1)),
    Phase(125, 0.24, 5, 2, Largest(expands=1, widths=1)),
    Phase(25, 0.08, 0, 4, Largest(expands=2, widths=2)),
    Phase(125, 0.24, 5, 4),
)

# CompOFA (Sahni et al. 2021): depth and expand shrink together.
COMPOUND: tuple[Phase, ...] = (
    _LARGEST_NETWORK,
    Phase(25, 0.08, 0, 4, Largest(depths=2, expands=2, widths=2)),
    Phase(125, 0.24, 5, 4),
)

# The sandwich rule with soft labels in place of BigNAS (Yu et al. 2020, sections 3.1 and 3.2). Epochs and rate are
# those of the largest network above: the authors train with RMSProp and an exponential decay.
SINGLE_STAGE: tuple[Phase, ...] = (Phase(180, 2.6, 5, 4, sandwich=True, teacher="largest of the step"),)
