"""Find the best architectures within a budget by evolution (Real et al. 2019; Cai et al. 2020, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.spaces import Space
from orchestrator.ofa.stage import pick
from orchestrator.validate import finite, fraction, text, whole

Scores = Callable[[Sequence[Architecture]], Sequence[float]]


@dataclass(frozen=True)
class Limit:
    """Allow only architectures whose cost in `unit` is at most `limit`.

    `costs` gives the costs of an architecture, with an attribute for each unit: a `CostModel`, or a table of
    latencies. It is hashable. A smaller choice never costs more, unless `costs` has a method `cheapest`, which returns
    the network of a space that costs the least. `largest`: the cost of the largest network, if the limit is a part of
    it; then a message has both.
    """

    unit: str
    limit: float
    costs: Callable[[Architecture], Any]
    largest: float | None = None

    def __post_init__(self) -> None:
        text("Limit.unit", self.unit)
        finite("Limit.limit", self.limit, above=0)

    def cost(self, architecture: Architecture) -> float:
        cost: float = getattr(self.costs(architecture), self.unit)
        return cost

    def allows(self, architecture: Architecture) -> bool:
        return self.cost(architecture) <= self.limit

    def check(self, space: Space) -> None:
        """Raise ConfigError, which names the minimum and its architecture, if it allows no network of `space`."""
        cheapest = self._cheapest(space)
        if not self.allows(cheapest):
            minimum, limit_share, minimum_share = self.cost(cheapest), "", ""
            if self.largest:
                limit_share = f" ({self.limit / self.largest:.4g} of the largest network's)"
                minimum_share = f" ({math.ceil(1e4 * minimum / self.largest) / 1e4:.4g})"
            raise ConfigError(
                f"no network of the space {space.name!r} has {self.limit:,.10g} {self.unit}{limit_share} or less: the "
                f"minimum is {minimum:,.10g}{minimum_share}, of {cheapest}"
            )

    def _cheapest(self, space: Space) -> Architecture:
        """Return the smallest network if it is allowed, else the cheapest one."""
        smallest = space.smallest()
        if self.allows(smallest) or not hasattr(self.costs, "cheapest"):
            return smallest
        cheapest: Architecture = self.costs.cheapest(space)
        return cheapest

    def repaired(self, architecture: Architecture, space: Space, rng: Random) -> Architecture:
        """Return `architecture`, shrunk step by step in random choices until the budget allows it.

        Return the cheapest network if not even the smallest is allowed.
        """
        while not self.allows(architecture):
            smaller = space.shrink(architecture, rng)
            if smaller is None:
                return self._cheapest(space)  # `check` has seen that it is allowed
            architecture = smaller
        return architecture


@dataclass(frozen=True)
class SubnetEvolution:
    """Keep the best `parents` of a population, and fill it up with their mutations and crossings, `generations` times.

    The defaults are the paper's: half of the children are mutations, each choice with probability `rate`.
    """

    population: int = 100
    parents: float = 0.25
    mutations: float = 0.5
    rate: float = 0.1
    generations: int = 500

    def __post_init__(self) -> None:
        whole("SubnetEvolution.population", self.population, minimum=2)
        fraction("SubnetEvolution.parents", self.parents)
        fraction("SubnetEvolution.mutations", self.mutations, zero=True, one=True)
        fraction("SubnetEvolution.rate", self.rate, one=True)
        whole("SubnetEvolution.generations", self.generations, minimum=0)

    def run(
        self, space: Space, budget: Limit, scores: Scores, rng: Random, start: Sequence[Architecture] = ()
    ) -> list[Architecture]:
        """Return every architecture that was scored, the highest score first; of equal scores the first found.

        `start` joins the first population, which is otherwise drawn from `rng`. What exceeds the budget is shrunk, not
        rejected. Raises ConfigError at once if the budget allows no network.
        """
        budget.check(space)
        known: dict[Architecture, float] = {}

        def ranked(found: Sequence[Architecture]) -> list[Architecture]:
            new = [each for each in dict.fromkeys(found) if each not in known]
            known.update(zip(new, scores(new) if new else (), strict=True))
            return sorted(dict.fromkeys(found), key=known.__getitem__, reverse=True)

        drawn = (space.sample(rng) for _ in range(self.population - len(start)))
        population = ranked([budget.repaired(each, space, rng) for each in (*start, *drawn)])
        for _ in range(self.generations):
            parents = population[: max(1, round(self.parents * self.population))]
            children = (self._child(space, parents, rng) for _ in range(self.population - len(parents)))
            population = ranked([*parents, *(budget.repaired(each, space, rng) for each in children)])
        return ranked(list(known))

    def _child(self, space: Space, parents: Sequence[Architecture], rng: Random) -> Architecture:
        if rng.random() < self.mutations:
            return space.mutate(pick(parents, rng), self.rate, rng)
        return space.cross(pick(parents, rng), pick(parents, rng), rng)
