"""A search is judged by the scores of all networks."""

from __future__ import annotations

from dataclasses import replace

from supernets import SMALL
from truth import everything, score

from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.subnet import Elastic
from orchestrator.ofa.truth import judged, predictors_judged

SUPERNET = Elastic(SMALL, 10, (1, 8, 8))
SEARCH = FrontSearch(macs=(0.4, 0.6), evaluations=80, first=48, batch=16, evolution=SubnetEvolution(24, generations=10))
SCORES = {architecture: score(architecture) for architecture in everything()}


def test_each_budget_says_how_far_the_search_and_its_rival_are_from_the_best_of_all():
    lines = list(judged(SEARCH, SUPERNET, SCORES, seed=0))
    assert [(line["budget"], line["allowed"]) for line in lines] == [(0.4, 32), (0.6, 561)]
    for line in lines:
        for name in ("predictor and evolution", "random"):
            assert line[name]["score"] <= line["best"]
            assert (line[name]["rank"] == 1) == (line[name]["score"] == line["best"])


def test_a_search_that_measures_all_networks_within_a_budget_finds_the_best():
    whole = replace(SEARCH, macs=(0.4,), evaluations=400, first=400)
    (line,) = judged(whole, SUPERNET, SCORES, seed=0)
    assert line["random"] == {"score": line["best"], "rank": 1}


def test_predictors_are_judged_on_the_networks_that_they_have_not_seen():
    found = predictors_judged(SEARCH, SUPERNET, SCORES, seed=0)
    assert found["ridge"].kendall > max(found["macs"].kendall, found["depth"].kendall)
    assert found["ridge"].rmse < found["ridge"].rmse_of_mean
