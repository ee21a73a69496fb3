"""The search as a function of its settings and the scores known so far."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from small_truth import BUDGET, OPTIMUM, score

from orchestrator.amc.agents import Cem, Evolution, Random, Uniform
from orchestrator.amc.bounds import Budget, Decision
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.ratio_search import Allocation, RatioSearch, SearchOutcome, SearchSettings, spearman
from orchestrator.amc.sensitivity import Sensitivity
from orchestrator.errors import ConfigError

SETTINGS = SearchSettings(agent=Cem(), evaluations=32, generation=8, finalists=3)


def searched(
    settings: SearchSettings, of=lambda candidate: score(candidate.sizes), scores: Mapping[str, float] | None = None
) -> tuple[SearchOutcome, list[Allocation]]:
    """Return the outcome, and all candidates that had to be scored beyond `scores`."""
    search, known, trained = RatioSearch(settings, BUDGET, 0), dict(scores or {}), []
    while not isinstance(step := search.step(known), SearchOutcome):
        trained += step
        known |= {candidate.digest: of(candidate) for candidate in step}
    return step, trained


AGENTS = {
    "cem": Cem(),
    "evolution": Evolution(),
    "sensitivity": Sensitivity(),
    "ddpg": Ddpg(hidden=8, batch=8, warm_up=16),
    "random": Random(),
    "uniform": Uniform(),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_a_search_finds_and_proves(agent):
    outcome, trained = searched(replace(SETTINGS, agent=AGENTS[agent]))
    own = type(AGENTS[agent]).__name__
    assert [result.agent for result in outcome.results] == list(dict.fromkeys((own, "Uniform", "Random")))
    assert all(result.evaluations == 32 for result in outcome.results if result.agent != "Uniform")
    assert OPTIMUM - outcome.score < 0.02
    assert outcome.score == score(outcome.chosen.sizes) == max(result.final_score for result in outcome.results)
    assert outcome.chosen == next(r.best for r in outcome.results if r.agent == outcome.found_by)
    assert BUDGET.allows(outcome.chosen.sizes)
    assert outcome.chosen.epochs == SETTINGS.finalist_epochs
    assert len({candidate.digest for candidate in trained}) == len(trained) == outcome.scored
    assert outcome.epochs == sum(candidate.epochs for candidate in trained)
    assert outcome.finalist_correlation == pytest.approx(1)
    assert len(outcome.history) == sum(result.evaluations for result in outcome.results)


def test_generations_have_the_size_of_the_settings():
    outcome, _ = searched(SETTINGS)
    sizes = [sum((e.agent, e.generation) == ("Cem", number) for e in outcome.history) for number in range(4)]
    assert sizes == [8, 8, 8, 8]
    first = RatioSearch(SETTINGS, BUDGET, 0).step({})
    assert {e.digest for e in outcome.history[:8]} == {candidate.digest for candidate in first}


@pytest.mark.parametrize("agent", ["cem", "evolution", "ddpg", "sensitivity"])
def test_a_search_that_was_stopped_goes_on_where_it_was(agent):
    """At each boundary of a generation, and inside: the same outcome, and no candidate is scored twice."""
    settings = replace(SETTINGS, agent=AGENTS[agent])
    outcome, trained = searched(settings)
    draw = random.Random(0)
    for _ in range(6):
        known = trained[: draw.randrange(len(trained))]
        part = {candidate.digest: score(candidate.sizes) for candidate in known}
        again, rest = searched(settings, scores=part)
        assert again == outcome
        assert {c.digest for c in rest} == {c.digest for c in trained} - part.keys()


def test_scores_that_another_search_has_are_not_asked_for():
    _, trained = searched(replace(SETTINGS, agent=Random()))
    known = {candidate.digest: score(candidate.sizes) for candidate in trained}
    outcome, rest = searched(SETTINGS, scores=known)
    assert outcome == searched(SETTINGS)[0]
    assert {candidate.epochs for candidate in rest} <= {SETTINGS.tune_epochs, SETTINGS.finalist_epochs}
    assert not {candidate.digest for candidate in rest} & known.keys()


def test_the_search_knows_how_much_may_follow():
    """32 of Cem, 1 of Uniform, 32 of Random; then 3 + 1 + 3 finalists, each trained four times as long."""
    search, known, later = RatioSearch(SETTINGS, BUDGET, 0), {}, []
    while not isinstance(step := search.step(known), SearchOutcome):
        later.append(search.later)
        known |= {candidate.digest: score(candidate.sizes) for candidate in step}
    finals = 4 * (3 + 1 + 3)
    assert later[:4] == [32 - 8 * generation + 1 + 32 + finals for generation in (1, 2, 3, 4)]
    assert later[-1] == 0


def test_a_step_repeats_until_its_scores_are_known():
    search = RatioSearch(SETTINGS, BUDGET, 0)
    first = search.step({})
    assert search.step({}) == first
    one = {first[0].digest: 0.5}
    assert search.step(one) == first[1:]


def test_luck_in_the_first_score_does_not_decide():
    """The first score is noise; with more training the truth shows."""

    def noisy(candidate: Allocation) -> float:
        if candidate.epochs == SETTINGS.finalist_epochs:
            return score(candidate.sizes)
        return random.Random(candidate.digest).random()

    outcome, trained = searched(replace(SETTINGS, finalists=8), of=noisy)
    finalists = [candidate for candidate in trained if candidate.epochs == SETTINGS.finalist_epochs]
    assert outcome.score == max(score(candidate.sizes) for candidate in finalists)
    luckiest = max((candidate for candidate in trained if candidate not in finalists), key=noisy)
    assert outcome.chosen.sizes != luckiest.sizes
    assert outcome.finalist_correlation is not None
    assert outcome.finalist_correlation < 0.9


def test_what_exceeds_the_budget_is_never_a_finalist():
    """Of the probes of one layer, the whole network has the best score of all."""
    outcome, trained = searched(replace(SETTINGS, agent=Sensitivity()))
    assert max(trained, key=lambda candidate: score(candidate.sizes)).sizes == (64, 64, 64)
    assert all(BUDGET.allows(candidate.sizes) for candidate in trained if candidate.epochs == SETTINGS.finalist_epochs)
    assert outcome.results[0].score < 1


def test_the_whole_budget_leaves_one_candidate():
    whole = Budget(BUDGET.decisions, BUDGET.cost, 1.0, BUDGET.dense)
    search = RatioSearch(SETTINGS, whole, 0)
    (only,) = search.step({})
    assert only.sizes == (64, 64, 64)
    (final,) = search.step({only.digest: 0.9})
    outcome = search.step({only.digest: 0.9, final.digest: 0.8})
    assert (outcome.score, outcome.scored, outcome.finalist_correlation) == (0.8, 2, None)


def test_a_digest_is_of_all_that_a_candidate_is():
    candidate = Allocation("channels", (("conv1", 8), ("conv2", 16)), 1)
    assert candidate.digest == Allocation("channels", (("conv2", 16), ("conv1", 8)), 1).digest
    assert candidate.digest == "0c353e211c82f5f44e072d74b20877d7085c1d28be97a4314929c81bfe6a2e44"
    others = [
        replace(candidate, mode="weights"),
        replace(candidate, epochs=0),
        replace(candidate, kept=(("conv1", 8), ("conv2", 24))),
        replace(candidate, kept=(("conv1", 8), ("conv3", 16))),
    ]
    assert len({candidate.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "evaluations must be a whole number of 1 or more"),
        ({"evaluations": 7}, "generation must be a whole number from 1 to 7, got 8: it must be at most evaluations, 7"),
        ({"evaluations": 8, "finalists": 9}, "finalists must be a whole number from 1 to 8, got 9"),
        ({"generation": 0}, "generation must be a whole number from 1 to 32, got 0"),
        ({"tune_epochs": -1}, "tune_epochs must be a whole number of 0 or more"),
        ({"finalist_epochs": 1}, "finalist_epochs must be .* 2 or more, got 1: finalists are scored again with more"),
        ({"mode": "filters"}, "mode must be one of channels, weights, got 'filters'"),
        ({"agent": "cem"}, "agent must be a dataclass with start"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changes)


def test_an_agent_that_cannot_work_is_refused_before_any_evaluation():
    with pytest.raises(ConfigError, match=r"Ddpg.warm_up must be below evaluations, 32"):
        RatioSearch(replace(SETTINGS, agent=Ddpg()), BUDGET, 0)
    many = Budget(tuple(Decision(str(i), 2) for i in range(40)), Linear(), 0.7, 80)
    with pytest.raises(ConfigError, match=r"evaluations must be a whole number of 42 or more, .*: Sensitivity cuts"):
        RatioSearch(replace(SETTINGS, agent=Sensitivity()), many, 0)


class Linear:
    def __call__(self, sizes):
        return sum(sizes)

    def parts(self, sizes):
        return {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_score_must_be_a_finite_number(value):
    search = RatioSearch(SETTINGS, BUDGET, 0)
    with pytest.raises(ConfigError, match=r"the score of candidate .* must be a finite number"):
        search.step({candidate.digest: value for candidate in search.step({})})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ([1, 1, 2], [1, 2, 3], 3**0.5 / 2),  # ranks 1.5, 1.5, 3 and 1, 2, 3
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [2], None),
    ],
)
def test_rank_correlation_is_that_made_by_hand(first, second, expected):
    assert spearman(first, second) == (None if expected is None else pytest.approx(expected))
