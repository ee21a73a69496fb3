"""In which order the networks of a space are trained, as values: what each phase trains, for how long, at what rate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.spaces import Space
from orchestrator.ofa.stage import Largest
from orchestrator.schedules import Cosine, OfLength
from orchestrator.validate import finite, flag, one_of, tuple_of, whole

Teacher = Literal["none", "dense round", "largest of the step"]


@dataclass(frozen=True)
class Phase:
    """Train the networks that `largest` leaves of a space: each step, `subnets` of them on the same batch.

    `rate`: the highest learning rate, for the batches of `Phases.batch_size`. It rises from 0 in `warmup_epochs` of the
    `epochs`, then falls to 0 as half a cosine. With `sandwich`, the first two networks of a step are the largest and
    the smallest. `teacher`: whose outputs are soft targets; "dense round" is the largest network as round 0 left it,
    "largest of the step" the first network of a sandwich in the same step.
    """

    epochs: int
    rate: float
    warmup_epochs: float = 0.0
    subnets: int = 1
    largest: Largest = field(default_factory=Largest)
    sandwich: bool = False
    teacher: Teacher = "dense round"

    def __post_init__(self) -> None:
        whole("Phase.epochs", self.epochs, minimum=1)
        finite("Phase.rate", self.rate, above=0)
        if finite("Phase.warmup_epochs", self.warmup_epochs, minimum=0) >= self.epochs:
            raise ConfigError(f"Phase.warmup_epochs must be below epochs, {self.epochs}, got {self.warmup_epochs}")
        fewest = 3 if flag("Phase.sandwich", self.sandwich) else 1
        whole("Phase.subnets", self.subnets, minimum=fewest, way_out="a sandwich has two networks and others between")
        one_of("Phase.teacher", self.teacher, ["none", "dense round", "largest of the step"])
        if self.teacher == "largest of the step" and not self.sandwich:
            raise ConfigError("Phase.teacher 'largest of the step' needs sandwich=True: else no step has the largest")

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
    """A path that makes a supernet of the dense network: one round for each phase, each for all networks of the last.

    Round 0 trains the largest network of the space like any other model. Each phase after it starts from the weights of
    the round before, with a new optimizer state. The rates are for batches of `batch_size` samples, and shrink in
    proportion with smaller ones (Goyal et al. 2017, section 2.1). With `search`, a round follows for each of its
    budgets: the best network found, as it is in the supernet, measured and not trained.
    """

    phases: tuple[Phase, ...]
    batch_size: int = 2048
    search: FrontSearch | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple_of("phases", self.phases, _phase))
        whole("Phases.batch_size", self.batch_size, minimum=1)
        if not isinstance(self.search, FrontSearch | None):
            raise ConfigError(f"Phases.search must be None or a FrontSearch, got {self.search!r:.200}")
        if not self.phases:
            raise ConfigError("phases must hold at least one phase, got none")
        for number, (before, phase) in enumerate(itertools.pairwise(self.phases), start=1):
            if not phase.largest.holds(before.largest):
                raise ConfigError(
                    f"phases must nest, but phase {number} leaves {phase.largest}, which drops networks that phase "
                    f"{number - 1} trains: {before.largest}"
                )

    def densities(self) -> tuple[float, ...]:
        """Return 1 for each round: no weight of the supernet is removed."""
        return (1.0,) * (len(self.phases) + (len(self.search.limits) if self.search else 0))

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def schedule(self, number: int, batch_size: int) -> OfLength:
        """Return the schedule of the phase `number`, counted from 0, for batches of this size."""
        phase = self.phases[number]
        return OfLength(Cosine(phase.rate * batch_size / self.batch_size, phase.warmup_epochs), phase.epochs)

    def trained_before(self, number: int, space: Space) -> Space:
        """Return the networks that are trained when the phase `number` begins."""
        return space.narrowed(self.phases[number - 1].largest if number else ONE)

    def check(self, space: Space, dense_epochs: int) -> None:
        """Raise ConfigError unless the phases train all networks of `space`, after `dense_epochs` of its largest."""
        if (left := space.narrowed(self.phases[-1].largest)) != space:
            raise ConfigError(
                f"the last phase must train all {space.count():,} networks of the space {space.name!r}, got "
                f"{left.count():,}: its `largest` must be Largest()"
            )
        if not dense_epochs and any(phase.teacher == "dense round" for phase in self.phases):
            raise ConfigError(
                "a phase whose teacher is 'dense round' needs a dense round of 1 epoch or more, got dense_epochs 0: "
                "train the largest network first, or choose another teacher"
            )

    def shortened(self) -> Phases:
        """Return phases of one epoch each and a search of few evaluations, for --smoke."""
        phases = tuple(
            replace(phase, epochs=1, warmup_epochs=phase.warmup_epochs / phase.epochs) for phase in self.phases
        )
        return replace(self, phases=phases, search=self.search.shortened() if self.search else None)


def _phase(name: str, value: object) -> Phase:
    if not isinstance(value, Phase):
        raise ConfigError(f"{name} must be a Phase, got {value!r:.200}")
    return value


# The largest network alone.
ONE = Largest(kernels=1, depths=1, expands=1, widths=1, resolutions=1)

# Progressive shrinking (Cai et al. 2020, section 3.3 and appendix B; momentum 0.9 of Nesterov, weight decay 3e-5),
# after 180 epochs of the largest network at a rate of 2.6.
PROGRESSIVE: tuple[Phase, ...] = (
    Phase(125, 0.96, 5, 1, Largest(depths=1, expands=1, widths=1)),
    Phase(25, 0.08, 0, 2, Largest(depths=2, expands=1, widths=1)),
    Phase(125, 0.24, 5, 2, Largest(expands=1, widths=1)),
    Phase(25, 0.08, 0, 4, Largest(expands=2, widths=2)),
    Phase(125, 0.24, 5, 4),
)

# CompOFA (Sahni et al. 2021): depth and expand shrink together, after the largest network as above.
COMPOUND: tuple[Phase, ...] = (
    Phase(25, 0.08, 0, 4, Largest(depths=2, expands=2, widths=2)),
    Phase(125, 0.24, 5, 4),
)

# The sandwich rule with soft targets in place of BigNAS (Yu et al. 2020, sections 3.1 and 3.2), for `dense_epochs=0`.
# Epochs and rate are those of the largest network above: the authors train with RMSProp and an exponential decay.
SINGLE_STAGE: tuple[Phase, ...] = (Phase(180, 2.6, 5, 4, sandwich=True, teacher="largest of the step"),)
