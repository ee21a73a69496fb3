"""SubnetEvolution stays within the budget, counts every generation, and ends."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from supernets import SMALL
from truth import COSTS, LARGEST, best_of_all, everything, macs_budget, score

from orchestrator.errors import ConfigError
from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.costs import CostModel
from orchestrator.ofa.evolution import Limit, SubnetEvolution
from orchestrator.ofa.spaces import find_space

QUICK = SubnetEvolution(population=24, generations=15)
MOBILE = find_space("mobilenetv3")


def score_all(architectures):
    return [score(architecture) for architecture in architectures]


@pytest.mark.parametrize(("fraction", "allowed"), [(0.4, 32), (0.6, 561), (0.8, 1572)])
def test_the_best_of_all_is_found_in_four_of_five_runs_that_score_a_part_of_them(fraction, allowed):
    budget, longer = macs_budget(fraction), replace(QUICK, generations=60)
    runs = [longer.run(SMALL, budget, score_all, Random(seed)) for seed in range(5)]
    assert sum(map(budget.allows, everything())) == allowed
    assert all(len(found) <= max(32, allowed / 3) for found in runs)
    assert sum(score(found[0]) == best_of_all(budget) for found in runs) >= 4


def test_every_architecture_is_within_the_budget_scored_once_and_ranked():
    asked = []

    def scores(architectures):
        asked.extend(architectures)
        return score_all(architectures)

    found = QUICK.run(SMALL, macs_budget(0.6), scores, Random(0))
    assert len(asked) == len(set(asked)) == len(found)
    assert set(asked) == set(found)
    assert all(macs_budget(0.6).allows(SMALL.check(architecture)) for architecture in found)
    assert score_all(found) == sorted(score_all(found), reverse=True)


def test_the_last_generation_counts():
    generations = []

    def scores(architectures):
        generations.append(architectures)
        return [float(len(generations))] * len(architectures)  # each generation is better than the one before

    found = SubnetEvolution(population=8, generations=3).run(
        MOBILE, Limit("macs", 1e12, CostModel(ImageArguments(10, (3, 224, 224)))), scores, Random(0)
    )
    assert len(generations) == 4
    assert set(found[: len(generations[-1])]) == set(generations[-1])


def test_the_start_is_among_the_first_population():
    start = [SMALL.largest(), SMALL.smallest()]
    found = SubnetEvolution(population=4, generations=0).run(SMALL, macs_budget(1), score_all, Random(0), start)
    assert set(start) <= set(found)
    assert len(found) == 4


def test_the_same_seed_finds_the_same_architectures():
    runs = [QUICK.run(SMALL, macs_budget(0.5), score_all, Random(seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_only_network_that_a_budget_allows_is_found():
    budget = Limit("macs", COSTS(SMALL.smallest()).macs, COSTS)
    assert QUICK.run(SMALL, budget, score_all, Random(0)) == [SMALL.smallest()]


@pytest.mark.parametrize("unit", ["macs", "parameters"])
def test_a_budget_that_nothing_meets_is_refused_before_anything_is_scored(unit):
    minimum = getattr(COSTS(SMALL.smallest()), unit)
    limit = minimum - 1
    sentence = (
        f"no network of the space 'small' has {limit:,} {unit} or less: the minimum is {minimum:,}, of small: 3x2 . 3x2"
    )
    with pytest.raises(ConfigError, match=sentence):
        QUICK.run(SMALL, Limit(unit, limit, COSTS), pytest.fail, Random(0))


def test_a_budget_that_is_a_part_of_the_largest_network_is_refused_with_a_part_that_is_not():
    smallest = COSTS(SMALL.smallest()).macs
    sentence = rf"has .* macs \(0.01 of the largest network's\) or less: the minimum is {smallest:,} \(([0-9.]+)\), of"
    with pytest.raises(ConfigError, match=sentence) as refused:
        Limit("macs", 0.01 * LARGEST, COSTS, LARGEST).check(SMALL)
    part = float(re.search(sentence, str(refused.value)).group(1))
    Limit("macs", part * LARGEST, COSTS, LARGEST).check(SMALL)


def test_what_exceeds_the_budget_is_shrunk_and_what_does_not_stays():
    budget = macs_budget(0.5)
    allowed = SMALL.smallest()
    assert budget.repaired(allowed, SMALL, Random(0)) is allowed
    repaired = {budget.repaired(SMALL.largest(), SMALL, Random(seed)) for seed in range(40)}
    assert len(repaired) > 10
    assert all(budget.allows(architecture) for architecture in repaired)


def test_a_repaired_network_uses_most_of_its_budget():
    model = CostModel(ImageArguments(1000, (3, 224, 224)))
    budget, rng = Limit("macs", 230e6, model), Random(0)
    space = replace(MOBILE, resolutions=(224,))
    used = [budget.cost(budget.repaired(space.sample(rng), space, rng)) / 230e6 for _ in range(100)]
    assert max(used) <= 1
    assert sorted(used)[50] > 0.9


def test_costs_are_of_the_unit_that_the_budget_names():
    cost = COSTS(SMALL.largest())
    assert [Limit(unit, 1, COSTS).cost(SMALL.largest()) for unit in ("macs", "parameters")] == list(cost)
    assert cost.macs == LARGEST


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: SubnetEvolution(population=1), "SubnetEvolution.population"),
        (lambda: SubnetEvolution(parents=1.0), "SubnetEvolution.parents"),
        (lambda: SubnetEvolution(mutations=1.5), "SubnetEvolution.mutations"),
        (lambda: SubnetEvolution(rate=0.0), "SubnetEvolution.rate"),
        (lambda: SubnetEvolution(generations=-1), "SubnetEvolution.generations"),
        (lambda: Limit("macs", 0, COSTS), "Limit.limit"),
        (lambda: Limit("", 1, COSTS), "Limit.unit"),
    ],
)
def test_settings_that_cannot_be_are_refused(build, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build()
