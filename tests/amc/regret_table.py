"""Print how far each agent stays from the known truth, as a table: `PYTHONPATH=tests python tests/amc/regret_table.py`.

The first two truths are exhaustive: all 512 candidates of three layers with 8 sizes have a score. The first is a closed
form. The second is a network on the digits: each candidate's validation accuracy after one epoch of training, as
`Amc` scores it. The third has 14 layers, as MobileNetV1, and a closed form whose optimum is not known.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tiny
from amc.small_truth import BUDGET, OPTIMUM, all_candidates, best, score
from searching import begun, works
from torch import nn

from orchestrator import Amc
from orchestrator.amc.agents import AgentSettings, Cem, Evolution, Random, Uniform
from orchestrator.amc.bounds import Budget, Decision, Sizes, Traits
from orchestrator.amc.ddpg import Ddpg
from orchestrator.amc.sensitivity import Sensitivity
from orchestrator.next_structure import view_of
from orchestrator.pruning import OneShot
from orchestrator.pruning.candidate import Generation, SearchCandidate
from orchestrator.work.scoring import Evaluate

SEEDS = 5
FEW, MANY = 16, 128  # evaluations of three layers, of which about 25 candidates use the budget up, and of 14
AGENTS: Mapping[str, AgentSettings] = {
    "Uniform": Uniform(),
    "Random": Random(),
    "Cem": Cem(),
    "Evolution": Evolution(),
    "Sensitivity": Sensitivity(),
    "Ddpg": Ddpg(warm_up=8),
}


def network(num_classes: int) -> nn.Module:
    """Three convolutions of 16 channels and a classifier."""
    widths, layers = (1, 16, 16, 16), []
    for place, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, stride=1 + place % 2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


DIGITS = dataclasses.replace(
    tiny.with_training(epochs=8, batch_size=64, schedule=tiny.StepDecay(0.1, drops=(4,))),
    name="regret",
    model="amc.regret_table:network",
    data="digits",
    path=OneShot(0.3),
    selection=Amc(round_to=2),
)


def digits_truth(folder: Path) -> tuple[Budget, dict[Sizes, float]]:
    """Return the budget of the digits network, and the score of each of its 512 candidates."""
    works(DIGITS, folder, 1)
    driver, trainer, _ = begun(DIGITS, folder)
    dense = driver._rounds[0]
    view, selection = view_of(DIGITS, driver.problem, dense), DIGITS.selection
    budget = selection.budget(view, 0.3)
    candidates = {
        sizes: SearchCandidate.of(selection.structure(view, sizes), 1, selection.scoring)
        for sizes in all_candidates(budget)
    }
    generation = Generation(tuple(candidates.values()), 1, 1, None)
    work = Evaluate(dense.key, 0, 1, dense.state(), dense.structure, selection.scoring, generation)
    scores = trainer.do(work).scores
    return budget, {sizes: scores[candidate.digest].value for sizes, candidate in candidates.items()}


class MobileCost:
    """Multiplications of a chain of 14 layers."""

    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    positions = (112, 112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7)

    def __call__(self, sizes):
        inputs = (27, *sizes[:-1])
        return sum(a * b * p**2 for a, b, p in zip(inputs, sizes, self.positions, strict=True))

    def parts(self, sizes):
        return {}


def mobile_truth(seed: int) -> tuple[Budget, dict[str, float]]:
    """Return a budget of 30 %, and how much each layer matters, drawn from a log-normal distribution."""
    cost, widths = MobileCost(), MobileCost.widths
    decisions = tuple(Decision(str(n), width, 8, Traits(width, share=1 / 14)) for n, width in enumerate(widths))
    return Budget(decisions, cost, 0.3, cost(widths)), np.exp(np.random.default_rng(seed).standard_normal(14))


def mobile_loss(agent: AgentSettings, seed: int, evaluations: int) -> float:
    """Return the lowest loss that an agent finds: cubes of what goes from each layer, weighed; 1 if all goes."""
    budget, weights = mobile_truth(seed)

    def of(sizes: Sizes) -> float:
        return -float(weights @ (1 - np.array(sizes) / MobileCost.widths) ** 3 / weights.sum())

    return -best(agent, seed, evaluations, of=of, budget=budget)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        budget, scores = digits_truth(Path(folder))
    allowed = [value for sizes, value in scores.items() if budget.allows(sizes)]
    print(
        f"digits: {len(scores)} scored, {len(allowed)} within the budget, from {min(allowed):.4f} to {max(allowed):.4f}"
    )
    print(f"\n| agent | closed form, {FEW} | digits network, {FEW} | 14 layers, {MANY} |\n| --- | --- | --- | --- |")
    for name, agent in AGENTS.items():
        columns = (
            [OPTIMUM - best(agent, seed, FEW, score, BUDGET) for seed in range(SEEDS)],
            [max(allowed) - best(agent, seed, FEW, scores.__getitem__, budget) for seed in range(SEEDS)],
            [mobile_loss(agent, seed, MANY) for seed in range(SEEDS)],
        )
        print(
            f"| {name} | " + " | ".join(f"{statistics.mean(c):.4f} ({max(c):.4f})" for c in columns) + " |", flush=True
        )


if __name__ == "__main__":
    main()
