"""Define agents: each decides what a search asks for next, by the scores of what it asked for before.

Settings are frozen dataclasses, whose fields are part of a search's key; `start` makes the agent that runs. It draws
only from its seed and has no checkpoint: one that is given the same scores in the same order asks for the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.amc.bounds import Budget, Sizes
from orchestrator.randomness import derive
from orchestrator.validate import dataclass_with, finite, fraction, whole

Draw: TypeAlias = Callable[[], Sizes]
REDRAWS = 20  # of a candidate that was asked for before


class Agent(Protocol):
    """An agent that runs: `ask`, then `tell`, generation after generation."""

    def ask(self, count: int) -> list[Sizes]:
        """Return up to `count` candidates of the next generation. An empty list means that it has no more to ask."""
        ...

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        """Learn from the scores of all candidates that `ask` returned last, in their order; higher is better."""
        ...


class AgentSettings(Protocol):
    """A frozen dataclass that makes an agent."""

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        """Return the agent at its beginning. `evaluations`: how many candidates it may ask for in all.

        Raises ConfigError for fewer evaluations than the agent can use.
        """
        ...


def check_agent(value: AgentSettings) -> AgentSettings:
    """Return `value` if it is a dataclass with a `start` method. Raise ConfigError otherwise."""
    return dataclass_with("agent", value, ["start"])


def uniform_sizes(budget: Budget) -> Sizes:
    """Return the largest fraction that is the same for all decisions; then filled up."""
    return budget.widest(lambda share: [share] * len(budget.decisions))


def random_draw(budget: Budget, seed: int) -> Draw:
    """Return what draws the candidates of the random search with this seed, one after the other."""
    numbers = itertools.count()

    def draw() -> Sizes:
        generator = np.random.default_rng(derive(seed, "random", next(numbers)))
        return budget.place(generator.random(len(budget.decisions)).tolist())

    return draw


def without_repeats(draw: Draw, known: Iterable[Sizes] = (), otherwise: Draw | None = None) -> Iterator[Sizes]:
    """Yield what `draw` returns, without end. A candidate that is known or came before is drawn again.

    After REDRAWS of these, `otherwise` is asked as often, and then a repeat is taken. Without this, an agent that has
    settled in a small space spends most evaluations on candidates whose scores it has.
    """
    seen = set(known)
    while True:
        draws = itertools.chain.from_iterable(itertools.repeat(each, REDRAWS) for each in (draw, otherwise) if each)
        candidate = next((sizes for each in draws if (sizes := each()) not in seen), None) or draw()
        seen.add(candidate)
        yield candidate


def opening(budget: Budget, seed: int, count: int) -> list[Sizes]:
    """Return the first generation of agents that learn: uniform, then what `Random` begins with.

    Every search is compared with these two, so that their scores are known anyway.
    """
    return [uniform_sizes(budget), *itertools.islice(without_repeats(random_draw(budget, seed)), count - 1)]


@dataclass(frozen=True)
class Uniform:
    """The same fraction for every layer: one candidate."""

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        return FixedAgent([uniform_sizes(budget)])


@dataclass(frozen=True)
class Random:
    """Sizes at positions between their bounds, drawn evenly layer after layer.

    A position is rounded to the nearest size, so that the sizes at both bounds are drawn half as often as the others.
    """

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        return FixedAgent(itertools.islice(without_repeats(random_draw(budget, seed)), evaluations))


class FixedAgent:
    """An agent that does not learn."""

    def __init__(self, candidates: Iterable[Sizes]) -> None:
        self._left = iter(candidates)

    def ask(self, count: int) -> list[Sizes]:
        return list(itertools.islice(self._left, count))

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        return


@dataclass(frozen=True)
class Cem:
    """The cross-entropy method: draw from a normal distribution, fit it to the best, repeat (Rubinstein, 1999).

    The coordinates are positions between the bounds (see `Budget.place`). `elite`: which fraction of a generation, its
    best, is fitted; three candidates at least. `smoothing`: how much of the new fit replaces the old one. `deviation`:
    the smallest standard deviation; half a block at least, so that no layer stops moving.
    """

    elite: float = 0.25
    smoothing: float = 0.7
    deviation: float = 0.03

    def __post_init__(self) -> None:
        fraction("Cem.elite", self.elite, one=True)
        fraction("Cem.smoothing", self.smoothing, one=True)
        finite("Cem.deviation", self.deviation, above=0)

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        return CemAgent(self, budget, seed)


class CemAgent:
    def __init__(self, settings: Cem, budget: Budget, seed: int) -> None:
        self._settings, self._budget, self._seed = settings, budget, seed
        self._generator = np.random.default_rng(derive(seed, "cem"))
        self._random = random_draw(budget, seed)
        self._normal: tuple[NDArray[Any], NDArray[Any]] | None = None  # mean, standard deviation (decisions,)
        self._known: set[Sizes] = set()

    def ask(self, count: int) -> list[Sizes]:
        if self._normal is None:
            return opening(self._budget, self._seed, count)
        mean, deviation = self._normal

        def draw() -> Sizes:
            positions = mean + deviation * self._generator.standard_normal(len(mean))
            return self._budget.place(positions.clip(0, 1).tolist())

        return list(itertools.islice(without_repeats(draw, self._known, self._random), count))

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        self._known.update(candidates)
        elites = best_of(candidates, scores, max(3, round(self._settings.elite * len(candidates))))
        positions = np.array([self._budget.positions(sizes) for sizes in elites])
        mean, deviation = positions.mean(0), positions.std(0)
        if self._normal is not None:
            rate = self._settings.smoothing
            mean, deviation = (
                (1 - rate) * old + rate * new for old, new in zip(self._normal, (mean, deviation), strict=True)
            )
        half = [0.5 / decision.blocks for decision in self._budget.decisions]
        self._normal = mean, np.maximum(deviation, np.maximum(half, self._settings.deviation))


@dataclass(frozen=True)
class Evolution:
    """Children of the best so far: each layer from one of two parents, some of them changed a little.

    `parents`: how many of the best have children. `rate`: probability that a layer changes, `sigma`: by how much, as
    the standard deviation of the fraction that it keeps.
    """

    parents: int = 4
    rate: float = 0.15
    sigma: float = 0.1

    def __post_init__(self) -> None:
        whole("Evolution.parents", self.parents, minimum=1)
        fraction("Evolution.rate", self.rate, one=True)
        finite("Evolution.sigma", self.sigma, above=0)

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        return EvolutionAgent(self, budget, seed)


class EvolutionAgent:
    def __init__(self, settings: Evolution, budget: Budget, seed: int) -> None:
        self._settings, self._budget, self._seed = settings, budget, seed
        self._generator = np.random.default_rng(derive(seed, "evolution"))
        self._random = random_draw(budget, seed)
        self._scores: dict[Sizes, float] = {}

    def ask(self, count: int) -> list[Sizes]:
        if not self._scores:
            return opening(self._budget, self._seed, count)
        parents = best_of(list(self._scores), list(self._scores.values()), self._settings.parents)
        fractions = np.array([self._budget.fractions(sizes) for sizes in parents])
        children = without_repeats(lambda: self._child(fractions), self._scores, self._random)
        return list(itertools.islice(children, count))

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        self._scores.update(zip(candidates, scores, strict=True))

    def _child(self, parents: NDArray[Any]) -> Sizes:
        draw, layers = self._generator, np.arange(parents.shape[1])
        pair = draw.integers(len(parents), size=2)
        fractions = parents[pair[draw.integers(2, size=len(layers))], layers]
        changes = self._settings.sigma * draw.standard_normal(len(layers))
        mutated = fractions + np.where(draw.random(len(layers)) < self._settings.rate, changes, 0)
        return self._budget.fit(mutated.clip(0, 1).tolist())


def best_of(candidates: Sequence[Sizes], scores: Sequence[float], count: int) -> list[Sizes]:
    """Return the `count` distinct candidates of highest score, best first; of equal ones the first."""
    order = sorted(range(len(candidates)), key=lambda place: -scores[place])
    return list(dict.fromkeys(candidates[place] for place in order))[:count]
