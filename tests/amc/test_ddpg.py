"""The paper's agent: what it replays, what it learns towards, and what it asks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_truth import BUDGET

from orchestrator.amc.bounds import Budget, Decision, Traits
from orchestrator.amc.ddpg import BASELINE, Ddpg, DdpgAgent, Replay, targets, truncated_normal


def replay(episodes: int, layers: int, capacity: int = 100) -> Replay:
    """Return episodes whose reward is their number, and whose action is the layer's number."""
    filled = Replay(capacity)
    for episode in range(episodes):
        states = torch.arange(layers).float()[:, None].expand(layers, 11) + 100 * episode
        filled.add(states, torch.arange(layers).float()[:, None], episode)
    return filled


def test_layers_and_episodes_are_replayed_evenly_the_first_included():
    """Chi-squared of 40 cells: below 72.1 in 999 of 1000 cases (39 degrees of freedom)."""
    batch = replay(8, 5).draw(8000, np.random.default_rng(0))
    cells = (batch.rewards * 5 + batch.actions)[:, 0].long()
    counts = torch.bincount(cells, minlength=40).double()
    assert float(((counts - 200) ** 2 / 200).sum()) < 72.1


def test_every_transition_of_an_episode_holds_its_reward_and_leads_to_the_next_layer():
    batch = replay(4, 3).draw(500, np.random.default_rng(0))
    assert torch.equal(batch.states[:, 0], 100 * batch.rewards[:, 0] + batch.actions[:, 0])
    assert torch.equal(batch.last, (batch.actions == 2).float())
    following = torch.where(batch.last > 0, 0, batch.states + 1)
    assert torch.equal(batch.next_states, following)


def test_only_the_last_episodes_are_replayed():
    assert set(replay(7, 2, capacity=3).draw(200, np.random.default_rng(0)).rewards[:, 0].tolist()) == {4, 5, 6}


@pytest.mark.parametrize(("discount", "first"), [(1.0, 0.25 + 2.2), (0.5, 0.25 + 1.1), (0.0, 0.25)])
def test_targets_of_an_episode_of_two_layers_are_those_made_by_hand(discount, first):
    """R - b = 0.25. Q(s, a) = 1 + s_0 + 2 a, mu(s) = s_1 / 10: what follows the first layer is worth 1 + 1 + 0.2."""
    states = torch.zeros(2, 11)
    states[:, 0], states[:, 1] = torch.tensor([5.0, 1.0]), torch.tensor([3.0, 1.0])
    memory = Replay(1)
    memory.add(states, torch.tensor([[0.2], [0.4]]), 0.75)
    found = targets(memory._all, 0.5, discount, lambda s: s[:, 1:2] / 10, lambda s, a: 1 + s[:, :1] + 2 * a)
    torch.testing.assert_close(found, torch.tensor([[first], [0.25]]))


def test_what_is_stored_is_the_action_that_was_carried_out():
    agent = DdpgAgent(Ddpg(hidden=4), BUDGET, 0)
    agent.tell([(56, 24, 64)], [0.9])
    assert agent._replay._all.actions[:, 0].tolist() == [56 / 64, 24 / 64, 1.0]
    assert agent._replay._all.rewards[:, 0].tolist() == pytest.approx([0.9] * 3)


def test_the_baseline_is_the_exponential_mean_of_rewards():
    agent = DdpgAgent(Ddpg(hidden=4), BUDGET, 0)
    agent.tell([(56, 24, 64)] * 3, [1.0, 0.0, 0.5])
    assert agent._baseline == pytest.approx(BASELINE**2 + (1 - BASELINE) * 0.5)


def test_nothing_is_learned_before_the_warm_up_ends_and_targets_follow_slowly():
    agent = DdpgAgent(Ddpg(hidden=4, warm_up=2, tau=0.25), BUDGET, 0)
    before = [weight.clone() for weight in agent._critic.parameters()]
    agent.tell([(56, 24, 64)] * 2, [0.9, 0.8])
    assert all(map(torch.equal, agent._critic.parameters(), before))
    agent._update()
    pairs = zip(agent._target_critic.parameters(), before, agent._critic.parameters(), strict=True)
    for target, old, new in pairs:
        torch.testing.assert_close(target, old + 0.25 * (new - old))
    assert not all(map(torch.equal, agent._critic.parameters(), before))


def test_an_update_learns_towards_the_slow_networks(monkeypatch):
    """The networks that learn were changed by hand: what they think does not count."""
    agent = DdpgAgent(Ddpg(hidden=4, warm_up=9), BUDGET, 0)
    agent.tell([(56, 24, 64), (8, 64, 16)], [0.9, 0.5])
    slow = copy.deepcopy((agent._target_actor, agent._target_critic))
    with torch.no_grad():
        for weight in (*agent._actor.parameters(), *agent._critic.parameters()):
            weight.add_(1.0)
    batches, wanted = [], []
    draw, loss = agent._replay.draw, torch.nn.functional.mse_loss
    monkeypatch.setattr(agent._replay, "draw", lambda *how: batches.append(draw(*how)) or batches[-1])
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda own, to: wanted.append(to) or loss(own, to))
    agent._update()
    (batch,), (found,), (actor, critic) = batches, wanted, slow
    with torch.no_grad():
        following = critic(torch.cat([batch.next_states, actor(batch.next_states)], 1))
    torch.testing.assert_close(found, batch.rewards - agent._baseline + (1 - batch.last) * following)


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.1), (0.0, 0.5), (1.0, 0.01), (0.3, 10.0)])
def test_noise_is_a_normal_distribution_cut_off_at_0_and_1(mean, sigma):
    drawn = np.array([truncated_normal(mean, sigma, (i + 0.5) / 2000) for i in range(2000)])
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    assert (np.diff(drawn) >= 0).all()
    grid = (np.arange(2000) + 0.5) / 2000
    density = np.exp(-0.5 * ((grid - mean) / sigma) ** 2)
    assert drawn.mean() == pytest.approx((grid * density).sum() / density.sum(), abs=2e-3)


def test_without_noise_an_extreme_mean_is_kept():
    assert truncated_normal(1.0, 0.0, 0.99) == pytest.approx(1.0, abs=1e-4)
    assert truncated_normal(0.0, 1e-9, 0.0) == 0.0


class Shared:
    """Two layers share 100 channels."""

    def __call__(self, sizes):
        return sum(sizes)

    def parts(self, sizes):
        return {}


def test_the_policy_finds_the_best_share():
    """The score is 1 - 4 (a - 0.3)^2, where the first of two layers keeps the fraction a."""
    decisions = tuple(Decision(name, 100, traits=Traits(share=0.5)) for name in "ab")
    settings = Ddpg(hidden=32, warm_up=40, actor_rate=1e-3, critic_rate=1e-2, discount=0.0, decay=0.9)
    agent = settings.start(Budget(decisions, Shared(), 0.5, 200), 0, 160)
    for _ in range(20):
        asked = agent.ask(8)
        agent.tell(asked, [1 - 4 * (first / 100 - 0.3) ** 2 for first, _ in asked])
    assert [abs(first - 30) <= 5 for first, _ in agent.ask(8)] == [True] * 8
