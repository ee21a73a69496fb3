"""Judge a search by the truth: the scores of all networks of its space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.front_state import searches
from orchestrator.ofa.predictor_quality import Quality, compare_predictors, shuffled_quality
from orchestrator.ofa.subnet import Elastic
from orchestrator.ofa.subnet_search import Front, Measure


@dataclass(frozen=True)
class Verdict:
    """How far a search and its rival are from the best of all networks within one budget.

    `best`: the highest score of the `allowed` networks. By the name of each search, with one value for each seed:
    `regrets`, by how much the score of its answer is below `best`, and `ranks`, the answer's rank among all, from 1.
    """

    unit: str
    budget: float
    allowed: int
    best: float
    regrets: Mapping[str, tuple[float, ...]]
    ranks: Mapping[str, tuple[int, ...]]


def judged(
    search: FrontSearch, supernet: Elastic, scores: Mapping[Architecture, float], seeds: Sequence[int]
) -> Iterator[Verdict]:
    """Yield the verdict for each budget, over `seeds`. Both searches measure equally many networks."""
    known = {architecture.digest: score for architecture, score in scores.items()}
    fronts: dict[str, list[Front]] = {}
    for seed in seeds:
        for name, each in searches(search, supernet, seed).items():
            step = each.next(known)
            assert not isinstance(step, Measure)  # all scores are known
            fronts.setdefault(name, []).append(step)
    for place, (unit, part) in enumerate(search.limits):
        budget = next(iter(fronts.values()))[0].finalists[place].budget
        allowed = sorted((score for each, score in scores.items() if budget.allows(each)), reverse=True)
        found = {name: [front.finalists[place].score for front in of] for name, of in fronts.items()}
        yield Verdict(
            unit,
            part,
            len(allowed),
            allowed[0],
            {name: tuple(allowed[0] - score for score in of) for name, of in found.items()},
            {name: tuple(1 + allowed.index(score) for score in of) for name, of in found.items()},
        )


def predictors_judged(
    search: FrontSearch, supernet: Elastic, scores: Mapping[Architecture, float], seed: int
) -> dict[str, Quality]:
    """Return how predictors of the networks that a random search measures do on all others of the space.

    "shuffled" is one of the same networks whose scores are exchanged at random (see `shuffled_quality`).
    """
    step = searches(search, supernet, seed)["random"].next({})
    assert isinstance(step, Measure)
    first = {each: scores[each] for each in step.architectures}
    ordered = first | dict(scores)  # the known ones first
    space, architectures, values = supernet.space, list(ordered), list(ordered.values())
    found = compare_predictors(space, supernet.costs, architectures, values, known=len(first))
    return {**found, "shuffled": shuffled_quality(space, architectures, values, known=len(first), seed=seed)}
