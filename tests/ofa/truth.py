"""A score of small networks in closed form, for tests of searches: no network is trained."""

from __future__ import annotations

from functools import cache

from supernets import SMALL

from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.costs import CostModel
from orchestrator.ofa.evolution import Limit
from orchestrator.randomness import derive

COSTS = CostModel(ImageArguments(10, (1, 8, 8)))
LARGEST = COSTS(SMALL.largest()).macs


@cache
def score(architecture: Architecture) -> float:
    """Return a score that more of everything raises, by amounts that have little to do with what it costs.

    A large kernel helps in the first stage and harms in the second; the second block of a stage helps where the other
    stage has one, too; and there is noise, the same whenever an architecture is scored.
    """
    first, second = architecture.stages
    value = 0.02 * len(first.blocks) * len(second.blocks)
    for number, block in enumerate(first.blocks):
        value += (0.02 if block.kernel == 5 else 0) + 0.01 * block.expand / (1 + number)
    for number, block in enumerate(second.blocks):
        value += (-0.01 if block.kernel == 5 else 0) + (0.03 - 0.02 * number) * block.expand**0.5
    noise = derive("noise", architecture.digest) / 2**63 - 0.5
    return 0.7 + value + 0.004 * noise


def macs_budget(fraction: float) -> Limit:
    return Limit("macs", fraction * LARGEST, COSTS)


@cache
def everything() -> tuple[Architecture, ...]:
    return tuple(SMALL.enumerate())


def best_of_all(budget: Limit) -> float:
    return max(score(architecture) for architecture in everything() if budget.allows(architecture))
