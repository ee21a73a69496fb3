"""How much a predictor knows of networks that it has not seen, beside predictors that see next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.costs import CostModel
from orchestrator.ofa.predictor import Features, Kind, OneHot, fit
from orchestrator.ofa.spaces import Space
from orchestrator.validate import whole

SHUFFLES = 20


@dataclass(frozen=True)
class Quality:
    """Rank correlation and root-mean-square error on held-out networks; `rmse_of_mean`: of the known scores' mean."""

    kendall: float
    rmse: float
    rmse_of_mean: float


def compare_predictors(
    space: Space,
    costs: CostModel,
    architectures: Sequence[Architecture],
    scores: Sequence[float],
    *,
    known: int,
    seed: int = 0,
) -> dict[str, Quality]:
    """Fit predictors to the first `known` scores, and return how each does on the others.

    "ridge" and "mlp" see the whole architecture, "macs" only its multiply-accumulates, "depth" only how many blocks
    it has. Raises ConfigError unless two or more networks are left to judge by.
    """
    whole("known", known, minimum=2, maximum=len(architectures) - 2, way_out="two or more networks must be held out")

    def macs(each: Sequence[Architecture]) -> Tensor:
        return torch.tensor([[float(costs(one).macs)] for one in each]).log()

    def depth(each: Sequence[Architecture]) -> Tensor:
        return torch.tensor([[float(sum(len(stage.blocks) for stage in one.stages))] for one in each])

    one_hot = OneHot(space)
    contestants: dict[str, tuple[Kind, Features]] = {
        "ridge": ("ridge", one_hot),
        "mlp": ("mlp", one_hot),
        "macs": ("ridge", macs),
        "depth": ("ridge", depth),
    }
    mean, truth = sum(scores[:known]) / known, scores[known:]
    qualities = {}
    for name, (kind, features) in contestants.items():
        predicted = fit(kind, features, architectures[:known], scores[:known], seed)(architectures[known:])
        tau = kendall(predicted, truth)
        qualities[name] = Quality(tau, _rmse(predicted, truth), _rmse([mean] * len(truth), truth))
    return qualities


def shuffled_quality(
    space: Space, architectures: Sequence[Architecture], scores: Sequence[float], *, known: int, seed: int = 0
) -> Quality:
    """Fit ridge regression to the first `known` scores in random orders; return the mean over SHUFFLES of them.

    It is what a predictor reaches that cannot know anything. Raises ConfigError as `compare_predictors` does.
    """
    whole("known", known, minimum=2, maximum=len(architectures) - 2, way_out="two or more networks must be held out")
    rng, mean, truth, one_hot = Random(seed), sum(scores[:known]) / known, scores[known:], OneHot(space)
    taus, errors = [], []
    for _ in range(SHUFFLES):
        shuffled = rng.sample(scores[:known], known)
        predicted = fit("ridge", one_hot, architectures[:known], shuffled, seed)(architectures[known:])
        taus.append(kendall(predicted, truth))
        errors.append(_rmse(predicted, truth))
    return Quality(sum(taus) / SHUFFLES, sum(errors) / SHUFFLES, _rmse([mean] * len(truth), truth))


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's rank correlation, tau-b, which counts ties; 0 if one of the two has only equal values."""
    if len(first) != len(second):
        raise ConfigError(f"two sequences of one length are compared, got {len(first)} and {len(second)}")
    signs = [
        (values.unsqueeze(0) - values.unsqueeze(1)).sign()
        for values in (torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    ]
    pairs = (signs[0].abs().sum() * signs[1].abs().sum()).sqrt()
    return float((signs[0] * signs[1]).sum() / pairs) if pairs else 0.0


def _rmse(predicted: Sequence[float], truth: Sequence[float]) -> float:
    return float((torch.tensor(predicted) - torch.tensor(truth)).double().square().mean().sqrt())
