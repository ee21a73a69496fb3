"""Searches whose truth is known: three layers of 8 sizes, 512 candidates, and a score of each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from orchestrator.amc.agents import AgentSettings
from orchestrator.amc.bounds import Budget, Decision, Sizes, Traits

IMPORTANCE = (1.0, 0.3, 2.0)
Score = Callable[[Sizes], float]


class ChainCost:
    """Multiplications of a chain of three layers between 9 inputs and 10 outputs."""

    def __call__(self, sizes):
        a, b, c = sizes
        return 9 * a + 4 * a * b + 2 * b * c + 10 * c

    def parts(self, sizes):
        return {}


TRAITS = Traits(outputs=64, inputs=64, share=0.3)
BUDGET = Budget(tuple(Decision(name, 64, 8, TRAITS) for name in "abc"), ChainCost(), 0.4, ChainCost()((64, 64, 64)))


def all_candidates(budget: Budget) -> list[Sizes]:
    """Return every choice of sizes, within the budget or not."""
    sizes = [[each.size(blocks) for blocks in range(1, each.blocks + 1)] for each in budget.decisions]
    return list(itertools.product(*sizes))


CANDIDATES: list[Sizes] = all_candidates(BUDGET)
ALLOWED = [sizes for sizes in CANDIDATES if BUDGET.allows(sizes)]


def score(sizes: Sizes) -> float:
    """In [0, 1]; each layer loses the square of what goes, times its importance."""
    lost = sum(weight * (1 - size / 64) ** 2 for weight, size in zip(IMPORTANCE, sizes, strict=True))
    return 1 - lost / sum(IMPORTANCE)


OPTIMUM = max(map(score, ALLOWED))


def shuffled(seed: int) -> Score:
    """Return a score that gives the same values to other candidates."""
    values = [score(sizes) for sizes in CANDIDATES]
    random.Random(seed).shuffle(values)
    return dict(zip(CANDIDATES, values, strict=True)).__getitem__


def asked(
    agent: AgentSettings,
    seed: int,
    evaluations: int,
    generation: int = 8,
    of: Score = score,
    budget: Budget = BUDGET,
) -> list[Sizes]:
    """Return all that an agent asks for, in order."""
    running, all_asked = agent.start(budget, seed, evaluations), []
    while len(all_asked) < evaluations:
        candidates = running.ask(min(generation, evaluations - len(all_asked)))
        if not candidates:
            break
        running.tell(candidates, [of(sizes) for sizes in candidates])
        all_asked += candidates
    return all_asked


def best(agent: AgentSettings, seed: int, evaluations: int, of: Score = score, budget: Budget = BUDGET) -> float:
    """Return the best score within the budget that an agent finds."""
    return max(of(sizes) for sizes in asked(agent, seed, evaluations, of=of, budget=budget) if budget.allows(sizes))
