"""Judge a search by the truth: the scores of all networks of its space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.front_state import searches
from orchestrator.ofa.predictor_quality import compare_predictors
from orchestrator.ofa.subnet import Elastic
from orchestrator.ofa.subnet_search import Measure


def judged(
    search: FrontSearch, supernet: Elastic, scores: Mapping[Architecture, float], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield, for each budget, how far the search and its rival are from the best of all networks within it.

    `best`: the highest score; `allowed`: how many networks the budget allows; by the name of each search its `score`,
    and its `rank` among these, from 1.
    """
    known = {architecture.digest: score for architecture, score in scores.items()}
    fronts = {}
    for name, each in searches(search, supernet, seed).items():
        step = each.next(known)
        assert not isinstance(step, Measure)  # all scores are known
        fronts[name] = step
    for place, (unit, part) in enumerate(search.limits):
        budget = next(iter(fronts.values())).finalists[place].budget
        allowed = sorted((score for each, score in scores.items() if budget.allows(each)), reverse=True)
        found = {name: front.finalists[place].score for name, front in fronts.items()}
        yield {
            "unit": unit,
            "budget": part,
            "best": allowed[0],
            "allowed": len(allowed),
            **{name: {"score": score, "rank": 1 + allowed.index(score)} for name, score in found.items()},
        }


def predictors_judged(
    search: FrontSearch, supernet: Elastic, scores: Mapping[Architecture, float], seed: int
) -> dict[str, Any]:
    """Return how predictors of the networks that a random search measures do on all others of the space."""
    rival = searches(search, supernet, seed)["random"]
    step = rival.next({})
    assert isinstance(step, Measure)
    known = {each: scores[each] for each in step.architectures}
    ordered = known | dict(scores)  # the known ones first
    return dict(
        compare_predictors(supernet.space, supernet.costs, list(ordered), list(ordered.values()), known=len(known))
    )
