"""The search is a function of the scores that are known: it asks, it is told, it answers with a measured network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from supernets import SMALL
from truth import COSTS, best_of_all, everything, macs_budget, score

from orchestrator.errors import ConfigError
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.subnet_search import Front, Measure, SubnetSearch

QUICK = SubnetEvolution(population=24, generations=10)
BUDGETS = tuple(macs_budget(fraction) for fraction in (0.45, 0.6, 0.8))
SEARCH = SubnetSearch(SMALL, BUDGETS, evaluations=80, first=32, batch=16, evolution=QUICK)


def run(search):
    """Return the generations that the search asked for, and its answer."""
    scores, asked = {}, []
    while isinstance(step := search.next(scores), Measure):
        asked.append(step)
        scores |= {each.digest: score(each) for each in step.architectures}
    return asked, step


@cache
def finished():
    return run(SEARCH)


def test_it_measures_the_first_batch_then_batches_until_all_is_spent():
    asked, front = finished()
    assert [step.number for step in asked] == [0, 1, 2, 3]
    assert [len(step.architectures) for step in asked] == [32, 16, 16, 16]
    assert len({each for step in asked for each in step.architectures}) == front.evaluations == 80


def test_the_last_batch_is_what_is_left():
    asked, front = run(replace(SEARCH, evaluations=53))
    assert [len(step.architectures) for step in asked] == [32, 16, 5]
    assert front.evaluations == 53


def test_every_architecture_that_is_measured_is_within_the_largest_budget():
    asked, _ = finished()
    assert all(BUDGETS[-1].allows(each) for step in asked for each in step.architectures)
    for budget in BUDGETS[:2]:
        assert sum(budget.allows(each) for each in asked[1].architectures) >= 5  # its share of the batch


def test_the_answer_is_the_best_measured_network_of_each_budget():
    asked, front = finished()
    measured = [each for step in asked for each in step.architectures]
    assert [finalist.budget for finalist in front.finalists] == list(BUDGETS)
    for finalist in front.finalists:
        assert finalist.architecture in measured
        assert finalist.budget.allows(finalist.architecture)
        best = max(score(each) for each in measured if finalist.budget.allows(each))
        assert finalist.score == score(finalist.architecture) == best


def test_it_goes_on_from_any_set_of_scores_where_it_was():
    asked, front = finished()
    known = {}
    for step in asked:
        for each in step.architectures:
            assert replace(SEARCH).next(dict(known)) == step  # also in the middle of a generation
            known[each.digest] = score(each)
    assert SEARCH.next(known) == front


def test_scores_that_it_did_not_ask_for_and_their_order_change_nothing():
    asked, front = finished()
    everybody = {each.digest: score(each) for each in reversed(everything())}
    assert SEARCH.next(everybody) == front
    wanted = {each.digest for step in asked for each in step.architectures}
    stranger = dict.fromkeys(everybody.keys() - wanted, 99.0)
    assert SEARCH.next(stranger) == asked[0]
    assert SEARCH.next(everybody | stranger) == front


def test_another_seed_searches_elsewhere():
    other = run(replace(SEARCH, seed=1))[0]
    assert other[0] != finished()[0][0]


def test_a_tenth_of_the_space_leads_near_the_best_of_all_and_beats_random():
    budget, distances, rivals = BUDGETS[1], [], []
    for seed in range(5):
        search = SubnetSearch(SMALL, (budget,), 176, seed, first=64, batch=56, evolution=QUICK)
        rival = replace(search, first=176)
        distances.append(best_of_all(budget) - run(search)[1].finalists[0].score)
        rivals.append(best_of_all(budget) - run(rival)[1].finalists[0].score)
    assert sorted(distances)[3] < 0.002
    assert sum(distances) < sum(rivals)


def test_the_paper_s_predictor_can_take_the_place_of_ridge():
    asked, front = run(replace(SEARCH, predictor="mlp", evaluations=40))
    assert [len(step.architectures) for step in asked] == [32, 8]
    assert len(front.finalists) == 3


def test_a_budget_that_allows_one_network_measures_it_and_ends():
    budget = Limit("macs", COSTS(SMALL.smallest()).macs, COSTS)
    asked, front = run(replace(SEARCH, budgets=(budget,)))
    assert [step.architectures for step in asked] == [(SMALL.smallest(),)]
    assert front.evaluations == 1
    assert front.finalists[0].architecture == SMALL.smallest()
    assert isinstance(front, Front)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budgets": ()}, "at least one budget"),
        ({"budgets": (macs_budget(0.1),)}, "the minimum is"),
        ({"evaluations": 31}, "evaluations must be a whole number of 32 or more"),
        ({"first": 2}, "first must be a whole number of 3 or more"),
        ({"batch": 2}, "batch must be a whole number of 3 or more"),
        ({"predictor": "forest"}, "predictor must be one of ridge, mlp"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_measured(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        replace(SEARCH, **change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_score_that_is_not_a_number_is_refused(value):
    first = SEARCH.next({})
    with pytest.raises(ConfigError, match="a score must be a finite number"):
        SEARCH.next({each.digest: value for each in first.architectures})
