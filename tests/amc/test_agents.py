"""Agents against a truth that is known: how far from the optimum, and whether they learn from scores at all."""

from __future__ import annotations

import functools
import statistics

import pytest
from amc.regret_table import digits_truth, mobile_loss
from small_truth import ALLOWED, BUDGET, CANDIDATES, OPTIMUM, asked, best, score, shuffled

from orchestrator.amc.agents import Cem, Evolution, Random, Uniform, check_agent, uniform_sizes
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.sensitivity import Sensitivity
from orchestrator.errors import ConfigError

SMALL_DDPG = Ddpg(hidden=16, batch=16, warm_up=16, actor_rate=1e-3, critic_rate=1e-2)
AGENTS = {
    "uniform": Uniform(),
    "random": Random(),
    "cem": Cem(),
    "evolution": Evolution(),
    "sensitivity": Sensitivity(),
    "ddpg": SMALL_DDPG,
}
LEARNERS = {**AGENTS, "ddpg": Ddpg(warm_up=8)}  # with the settings of regret_table.py


def test_the_truth_is_known():
    assert (len(CANDIDATES), len(ALLOWED)) == (512, 346)
    assert max(ALLOWED, key=score) == (56, 24, 64)


@pytest.mark.parametrize(
    ("agent", "regret"),
    [
        ("uniform", 0.17),
        ("random", 0.001),
        ("cem", 0.001),
        ("evolution", 0.003),
        ("sensitivity", 0.011),
        ("ddpg", 0.001),
    ],
)
def test_regret_after_32_evaluations(agent, regret):
    """The mean of five seeds; the scores of allowed candidates reach from 0.23 to 0.96."""
    found = statistics.mean(OPTIMUM - best(AGENTS[agent], seed, 32) for seed in range(5))
    assert 0 <= found <= regret


@functools.cache
def loss_on_14_layers(agent: str) -> float:
    """Return the mean of five seeds after 128 evaluations."""
    return statistics.mean(mobile_loss(LEARNERS[agent], seed, 128) for seed in range(5))


@pytest.mark.parametrize(
    ("agent", "gain"),
    [("cem", 0.03), ("evolution", 0.03), ("sensitivity", 0.03), pytest.param("ddpg", 0.01, marks=pytest.mark.slow)],
)
def test_on_14_layers_every_agent_that_learns_beats_random(agent, gain):
    """The third column of the README's table: chance does not find these."""
    assert loss_on_14_layers("random") - loss_on_14_layers(agent) > gain


@pytest.mark.slow
def test_regret_on_a_network_whose_candidates_all_have_a_score(tmp_path):
    """Three layers of 8 sizes on the digits, five seeds; regret_table.py prints the figures."""
    budget, scores = digits_truth(tmp_path)
    allowed = {sizes: value for sizes, value in scores.items() if budget.allows(sizes)}
    assert (len(scores), len(allowed)) == (512, 247)
    uniform = max(allowed.values()) - scores[uniform_sizes(budget)]
    assert uniform > 0.05
    for agent in (Random(), Cem(), Evolution()):
        found = [best(agent, seed, 16, scores.__getitem__, budget) for seed in range(5)]
        assert 0 <= max(allowed.values()) - statistics.mean(found) < uniform / 2


@pytest.mark.parametrize("agent", ["cem", "evolution", "sensitivity", "ddpg"])
def test_with_shuffled_scores_no_agent_beats_random(agent):
    """Within three standard errors of the difference, over the same shuffles."""
    learning = Ddpg(hidden=8, batch=8, warm_up=8) if agent == "ddpg" else AGENTS[agent]
    settings, shuffles = (AGENTS["random"], learning), 20
    pairs = [[best(each, seed, 16, shuffled(seed)) for each in settings] for seed in range(shuffles)]
    gains = [other - random for random, other in pairs]
    assert statistics.mean(gains) <= 3 * statistics.stdev(gains) / shuffles**0.5


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_depends_on_its_seed_and_its_scores_alone(agent):
    first = asked(AGENTS[agent], 0, 32)
    assert asked(AGENTS[agent], 0, 32) == first
    assert all(BUDGET.allows(sizes) or agent == "sensitivity" for sizes in first)
    if agent not in ("uniform", "sensitivity"):
        assert asked(AGENTS[agent], 1, 32) != first
    if agent in ("cem", "evolution", "sensitivity"):
        assert asked(AGENTS[agent], 0, 32, of=lambda sizes: -score(sizes)) != first


@pytest.mark.parametrize("agent", ["cem", "evolution"])
def test_the_first_generation_of_agents_that_learn_costs_no_evaluation_of_their_own(agent):
    """Uniform and random are scored anyway, as their rivals."""
    assert asked(AGENTS[agent], 7, 8) == asked(Uniform(), 7, 1) + asked(Random(), 7, 7)
    assert asked(SMALL_DDPG, 7, 17)[:16] == asked(Random(), 7, 16)


def test_the_candidates_of_random_do_not_depend_on_the_generation():
    assert asked(Random(), 0, 20, generation=3) == asked(Random(), 0, 20, generation=8)


@pytest.mark.parametrize("agent", ["random", "cem", "evolution"])
def test_evaluations_are_hardly_spent_on_candidates_whose_scores_are_known(agent):
    """Only 25 candidates use the budget up. An agent whose draws are close together gives up after some redraws."""
    assert all(len(set(asked(AGENTS[agent], seed, 12))) >= 11 for seed in range(5))


def test_random_finds_all_of_a_small_space():
    assert len(set(asked(Random(), 0, 25))) == 25
    assert len(set(asked(Random(), 0, 40))) == 25


@pytest.mark.parametrize("agent", ["cem", "evolution"])
def test_agents_that_learn_get_better(agent):
    scores = [score(sizes) for sizes in asked(AGENTS[agent], 0, 48)]
    assert statistics.mean(scores[-8:]) > statistics.mean(scores[:8]) + 0.05


def test_sensitivity_cuts_one_layer_at_a_time_and_then_all_by_one_loss():
    probes = asked(Sensitivity(), 0, 32)
    *alone, chosen = probes
    assert alone[0] == (64, 64, 64)
    assert all(sum(size < 64 for size in sizes) == 1 for sizes in alone[1:])
    assert len(alone) == 1 + 3 * 10
    losses = [weight * (1 - size / 64) ** 2 for weight, size in zip((1.0, 0.3, 2.0), chosen, strict=True)]
    assert max(losses) < 0.35  # one layer cut alone to 8 channels loses 0.77, 0.23, 1.53
    assert BUDGET.allows(chosen)


def test_sensitivity_trusts_no_layer_more_because_more_of_it_went():
    """A lucky probe of the first layer, at 8 channels, does not undo the losses at 16 and more."""

    def lucky(sizes):
        return 1.0 if sizes == (8, 64, 64) else score(sizes)

    *_, chosen = asked(Sensitivity(), 0, 32, of=lucky)
    *_, without_luck = asked(Sensitivity(), 0, 32)
    assert chosen[0] >= without_luck[0] - 8


def test_sensitivity_needs_a_probe_of_each_layer():
    with pytest.raises(ConfigError, match=r"evaluations must be a whole number of 5 or more, got 4: Sensitivity cuts"):
        Sensitivity().start(BUDGET, 0, 4)


def test_ddpg_needs_an_evaluation_after_its_warm_up():
    with pytest.raises(ConfigError, match=r"Ddpg.warm_up must be below evaluations, 100, got 100"):
        Ddpg().start(BUDGET, 0, 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cem(elite=0), "Cem.elite"),
        (lambda: Cem(smoothing=1.5), "Cem.smoothing"),
        (lambda: Cem(deviation=0), "Cem.deviation"),
        (lambda: Evolution(parents=0), "Evolution.parents"),
        (lambda: Evolution(rate=2), "Evolution.rate"),
        (lambda: Evolution(sigma=0), "Evolution.sigma"),
        (lambda: Ddpg(batch=0), "Ddpg.batch"),
        (lambda: Ddpg(warm_up=-1), "Ddpg.warm_up"),
        (lambda: Ddpg(sigma=0), "Ddpg.sigma"),
        (lambda: Ddpg(tau=0), "Ddpg.tau"),
        (lambda: Ddpg(discount=1.1), "Ddpg.discount"),
        (lambda: check_agent(Cem), "agent must be a dataclass with start"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
