"""Choose by deep deterministic policy gradient (Lillicrap et al., 2016), as the agent of "AMC", section 3.2, does.

An episode is one candidate; its actions are the fractions kept, one for each decision in order. Differences from the
authors' code, each on purpose: every transition is replayed, the first one too; what is stored is the action that was
carried out, within the bounds and filled up; the warm-up draws as `Random` does; all episodes of a generation are asked
with one policy, and learned from when the generation has its scores. The reward is the score as it is, not scaled: a
fraction is in [0, 1], and a loss is its negative, of any size.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.amc.agents import Agent, random_draw, without_repeats
from orchestrator.amc.bounds import Budget, Sizes
from orchestrator.amc.features import FEATURES, Features
from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.randomness import derive, one_thread, own_randomness, seed_all
from orchestrator.validate import finite, fraction, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch, nn = lazy("torch"), lazy("torch.nn")

BASELINE = 0.95  # how much of the mean of earlier rewards an episode leaves
Policy = Callable[["Tensor"], "Tensor"]  # states (n, 11) to actions (n, 1) in (0, 1)
Value = Callable[["Tensor", "Tensor"], "Tensor"]  # states (n, 11) and actions (n, 1) to values (n, 1)


@dataclass(frozen=True)
class Ddpg:
    """The paper's agent with the settings of its authors.

    `buffer`: how many of the last episodes are replayed. `warm_up`: episodes before the first update. `sigma`: standard
    deviation of the actions' noise, times `decay` after each episode. `tau`: how far the target networks follow.
    `discount`: 1 in the paper, because every transition holds the whole reward.
    """

    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    hidden: int = 300
    batch: int = 64
    buffer: int = 100
    warm_up: int = 100
    sigma: float = 0.5
    decay: float = 0.95
    tau: float = 0.01
    discount: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hidden", "batch", "buffer"):
            whole(f"Ddpg.{name}", getattr(self, name), minimum=1)
        whole("Ddpg.warm_up", self.warm_up, minimum=0)
        for name in ("actor_rate", "critic_rate", "sigma"):
            finite(f"Ddpg.{name}", getattr(self, name), above=0)
        for name in ("decay", "tau"):
            fraction(f"Ddpg.{name}", getattr(self, name), one=True)
        fraction("Ddpg.discount", self.discount, zero=True, one=True)

    def start(self, budget: Budget, seed: int, evaluations: int) -> Agent:
        """Raise ConfigError unless learning begins before the last of the `evaluations`."""
        if self.warm_up >= evaluations:
            raise ConfigError(
                f"Ddpg.warm_up must be below evaluations, {evaluations}, got {self.warm_up}: it learns nothing before"
            )
        return DdpgAgent(self, budget, seed)


class Transitions(NamedTuple):
    """Transitions: states (n, 11), others (n, 1). `rewards`: of the whole episode. `last`: 1 where an episode ends."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    last: Tensor


class Replay:
    """The transitions of the last `capacity` episodes, all of the same length."""

    def __init__(self, capacity: int) -> None:
        self._episodes: deque[Transitions] = deque(maxlen=capacity)

    def add(self, states: Tensor, actions: Tensor, reward: float) -> None:
        """Append an episode of states (layers, 11) and actions (layers, 1). Every transition holds its reward."""
        last = torch.zeros(len(states), 1)
        last[-1] = 1
        following = torch.cat([states[1:], torch.zeros_like(states[:1])])
        self._episodes.append(Transitions(states, actions, torch.full_like(last, reward), following, last))
        self._all = Transitions(*map(torch.cat, zip(*self._episodes, strict=True)))

    def draw(self, count: int, generator: np.random.Generator) -> Transitions:
        """Return `count` transitions, drawn evenly from all, the same one perhaps more than once."""
        places = torch.from_numpy(generator.integers(len(self._all.states), size=count))
        return Transitions(*(field[places] for field in self._all))


def targets(batch: Transitions, baseline: float, discount: float, policy: Policy, value: Value) -> Tensor:
    """Return R - b + discount * Q(s', mu(s')), (n, 1); the last term is missing where an episode ends (equation 2)."""
    following = value(batch.next_states, policy(batch.next_states))
    return batch.rewards - baseline + discount * (1 - batch.last) * following


class DdpgAgent:
    """Propose an episode with the policy that earlier episodes have formed; learn from each one."""

    def __init__(self, settings: Ddpg, budget: Budget, seed: int) -> None:
        self._settings, self._budget, self._seed = settings, budget, seed
        self._features = Features(budget)
        self._replay = Replay(settings.buffer)
        self._generator = np.random.default_rng(derive(seed, "ddpg"))
        self._random = without_repeats(random_draw(budget, seed))
        with own_randomness():
            seed_all(derive(seed, "ddpg", "networks"))
            self._actor = nn.Sequential(*_perceptron(FEATURES, settings.hidden), nn.Sigmoid())
            self._critic = _perceptron(FEATURES + 1, settings.hidden)
        self._target_actor, self._target_critic = copy.deepcopy((self._actor, self._critic))
        self._actor_optimizer = torch.optim.Adam(self._actor.parameters(), settings.actor_rate)
        self._critic_optimizer = torch.optim.Adam(self._critic.parameters(), settings.critic_rate)
        self._asked = self._told = 0
        self._baseline = 0.0

    def ask(self, count: int) -> list[Sizes]:
        numbers = range(self._asked, self._asked + count)
        self._asked += count
        with one_thread():
            return [self._episode(number) for number in numbers]

    def tell(self, candidates: Sequence[Sizes], scores: Sequence[float]) -> None:
        with one_thread():
            for sizes, score in zip(candidates, scores, strict=True):
                self._learn(sizes, score)

    def _episode(self, number: int) -> Sizes:
        if number < self._settings.warm_up:
            return next(self._random)
        sigma = self._settings.sigma * self._settings.decay ** (number - self._settings.warm_up)
        generator = np.random.default_rng(derive(self._seed, "ddpg", number))
        chosen: list[int] = []
        wanted: list[float] = []
        for decision in self._budget.decisions:
            with torch.no_grad():
                mean = float(self._actor(torch.from_numpy(self._features.after(chosen))))
            wanted.append(truncated_normal(mean, sigma, generator.random()))
            low, high = self._budget.bounds(chosen)
            chosen.append(decision.size(min(max(decision.nearest(wanted[-1]), low), high)))
        return self._budget.fill(chosen, wanted)

    def _learn(self, sizes: Sizes, score: float) -> None:
        actions = torch.tensor(self._budget.fractions(sizes)).unsqueeze(1)
        self._replay.add(torch.from_numpy(self._features.of(sizes)), actions, score)
        self._baseline = BASELINE * self._baseline + (1 - BASELINE) * score if self._told else score
        self._told += 1
        for _ in sizes if self._told > self._settings.warm_up else ():
            self._update()

    def _update(self) -> None:
        settings = self._settings
        batch = self._replay.draw(settings.batch, self._generator)
        with torch.no_grad():
            value = _value(self._target_critic)
            wanted = targets(batch, self._baseline, settings.discount, self._target_actor, value)
        value = _value(self._critic)
        _step(self._critic_optimizer, nn.functional.mse_loss(value(batch.states, batch.actions), wanted))
        _step(self._actor_optimizer, -value(batch.states, self._actor(batch.states)).mean())
        pairs = ((self._target_actor, self._actor), (self._target_critic, self._critic))
        with torch.no_grad():
            for target, source in chain(*(zip(t.parameters(), s.parameters(), strict=True) for t, s in pairs)):
                target.lerp_(source, settings.tau)


def truncated_normal(mean: float, sigma: float, quantile: float) -> float:
    """Return the `quantile`, in [0, 1), of a normal distribution that is cut off outside of [0, 1]."""
    normal = NormalDist(mean, max(sigma, 1e-6))
    below, above = normal.cdf(0), normal.cdf(1)
    probability = below + quantile * (above - below)
    return min(max(normal.inv_cdf(min(max(probability, 1e-12), 1 - 1e-12)), 0.0), 1.0)


def _perceptron(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )


def _value(critic: nn.Sequential) -> Value:
    return lambda states, actions: critic(torch.cat([states, actions], 1))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
