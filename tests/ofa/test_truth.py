"""A search is judged by the scores of all networks."""

from __future__ import annotations

from dataclasses import replace

from supernets import SMALL
from truth import everything, macs_budget, score

from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.evolution import SubnetEvolution
from orchestrator.ofa.front_search import FrontSearch
from orchestrator.ofa.subnet import Elastic
from orchestrator.ofa.truth import judged, predictors_judged

SUPERNET = Elastic(SMALL, ImageArguments(10, (1, 8, 8)))
SEARCH = FrontSearch(macs=(0.4, 0.6), evaluations=80, first=48, batch=16, evolution=SubnetEvolution(24, generations=10))
SCORES = {architecture: score(architecture) for architecture in everything()}


def test_each_budget_says_how_far_the_search_and_its_rival_are_from_the_best_of_all():
    verdicts = list(judged(SEARCH, SUPERNET, SCORES, seeds=(0, 1)))
    assert [(verdict.budget, verdict.allowed) for verdict in verdicts] == [(0.4, 32), (0.6, 561)]
    for verdict in verdicts:
        assert list(verdict.regrets) == list(verdict.ranks) == ["predictor and evolution", "random"]
        for name, regrets in verdict.regrets.items():
            assert len(regrets) == 2
            assert all(regret >= 0 for regret in regrets)
            assert [rank == 1 for rank in verdict.ranks[name]] == [regret == 0 for regret in regrets]


def test_each_seed_has_the_verdict_that_it_has_alone():
    together = list(judged(SEARCH, SUPERNET, SCORES, seeds=(3, 7)))
    for place, seed in enumerate((3, 7)):
        for verdict, alone in zip(together, judged(SEARCH, SUPERNET, SCORES, seeds=(seed,)), strict=True):
            assert {name: of[place] for name, of in verdict.regrets.items()} == {
                n: r[0] for n, r in alone.regrets.items()
            }


def test_a_search_that_measures_all_networks_within_a_budget_finds_the_best():
    whole = replace(SEARCH, macs=(0.4,), evaluations=400, first=400)
    (verdict,) = judged(whole, SUPERNET, SCORES, seeds=(0,))
    assert verdict.best == max(score(each) for each in everything() if macs_budget(0.4).allows(each))
    assert verdict.regrets["random"] == (0,)
    assert verdict.ranks["random"] == (1,)


def test_predictors_are_judged_on_the_networks_that_they_have_not_seen():
    found = predictors_judged(SEARCH, SUPERNET, SCORES, seed=0)
    assert found["ridge"].kendall > max(found[name].kendall for name in ("macs", "depth", "shuffled"))
    assert found["ridge"].rmse < found["ridge"].rmse_of_mean
    assert found["shuffled"].rmse_of_mean == found["ridge"].rmse_of_mean
    assert found["shuffled"].rmse > 0.95 * found["shuffled"].rmse_of_mean
    assert abs(found["shuffled"].kendall) < 0.1
