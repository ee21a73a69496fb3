"""Find the best network for each of several budgets with few measurements: measure, fit, search on the fit, repeat.

The search is a pure function of the scores that are known. Started again with them, it continues where it was. The
loop is that of LINAS (Cummings et al. 2022), with the predictor and the evolution of the Once-for-All paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.predictor import Kind, OneHot, fit
from orchestrator.ofa.spaces import Space
from orchestrator.randomness import derive
from orchestrator.validate import finite, one_of, whole

_TRIES = 50  # to draw an architecture that is not yet in the first generation

Measured = tuple[tuple[Architecture, float], ...]


@dataclass(frozen=True)
class Measure:
    """Ask for the scores of these architectures; `number` counts the generations from 0."""

    number: int
    architectures: tuple[Architecture, ...]


@dataclass(frozen=True)
class Finalist:
    """The measured architecture of the highest score that a budget allows."""

    budget: Limit
    architecture: Architecture
    score: float


@dataclass(frozen=True)
class Front:
    """The answer: a finalist for each budget, found with this many measurements."""

    finalists: tuple[Finalist, ...]
    evaluations: int


@dataclass(frozen=True)
class SubnetSearch:
    """Search `space` for each of `budgets` with `evaluations` measurements in all; a higher score is better.

    `first` random architectures within the budgets are measured; then, until the measurements are spent, a predictor
    is fitted to all scores, evolution maximises it, and the best `batch` that were not yet measured are. With `first`
    equal to `evaluations` this is random search, the rival at equal cost.
    """

    space: Space
    budgets: tuple[Limit, ...]
    evaluations: int = 200
    seed: int = 0
    first: int = 64
    batch: int = 16
    predictor: Kind = "ridge"
    evolution: SubnetEvolution = field(default_factory=SubnetEvolution)

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ConfigError("budgets must hold at least one budget, got none")
        for budget in self.budgets:
            budget.check(self.space)
        whole("first", self.first, minimum=max(2, len(self.budgets)), way_out="each budget has a network in it")
        whole("batch", self.batch, minimum=len(self.budgets), way_out="each budget has a network in each batch")
        whole("evaluations", self.evaluations, minimum=self.first, way_out="the first generation is measured whole")
        one_of("predictor", self.predictor, ["ridge", "mlp"])

    def next(self, scores: Mapping[str, float]) -> Measure | Front:
        """Return the generation to measure next, or the answer, given `scores` by the digests of architectures.

        Scores of architectures that this search did not ask for change nothing. Raises ConfigError for a score that is
        not a finite number.
        """
        measured: Measured = ()
        for number in itertools.count():
            generation = _generation(self, measured)
            if not generation:
                break
            if any(each.digest not in scores for each in generation):
                return Measure(number, generation)
            measured += tuple((each, finite("a score", scores[each.digest])) for each in generation)
        return Front(tuple(_finalist(budget, measured) for budget in self.budgets), len(measured))


def _finalist(budget: Limit, measured: Measured) -> Finalist:
    allowed = [(each, score) for each, score in measured if budget.allows(each)]
    return Finalist(budget, *max(allowed, key=lambda pair: pair[1]))


@lru_cache(maxsize=256)
def _generation(search: SubnetSearch, measured: Measured) -> tuple[Architecture, ...]:
    """Return what to measure after `measured`: nothing if all is spent, or no network is left within the budgets."""
    left = search.evaluations - len(measured)
    if not measured:
        return _first_generation(search)
    if left <= 0:
        return ()
    number = len(measured)
    known, scores = [each for each, _ in measured], [score for _, score in measured]
    predict = fit(search.predictor, OneHot(search.space), known, scores, derive(search.seed, "fit", number))
    rankings = []
    for place, budget in enumerate(search.budgets):
        best = [each for each, _ in sorted(measured, key=lambda pair: -pair[1]) if budget.allows(each)]
        start = best[: search.evolution.population // 4]
        rng = Random(derive(search.seed, "evolution", number, place))
        rankings.append(search.evolution.run(search.space, budget, predict, rng, start))
    return tuple(itertools.islice(_in_turn(rankings, set(known)), min(search.batch, left)))


def _first_generation(search: SubnetSearch) -> tuple[Architecture, ...]:
    """Draw distinct architectures, shrunk to the budgets in turn. A tight budget may allow fewer than are wanted."""
    rng, drawn = Random(derive(search.seed, "first")), dict[Architecture, None]()
    for number in range(search.first):
        budget = search.budgets[number % len(search.budgets)]
        for _ in range(_TRIES):
            architecture = budget.repaired(search.space.sample(rng), search.space, rng)
            if architecture not in drawn:
                break
        drawn[architecture] = None
    return tuple(drawn)


def _in_turn(rankings: list[list[Architecture]], known: set[Architecture]) -> Iterator[Architecture]:
    """Yield the best of each ranking in turn, without those that are `known` or were yielded."""
    seen, unused = set(known), [iter(ranking) for ranking in rankings]
    while unused:
        for ranking in list(unused):
            found = next((each for each in ranking if each not in seen), None)
            if found is None:
                unused.remove(ranking)
            else:
                seen.add(found)
                yield found
