"""A rewound scheduler gives the rates of the original run again, to the bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from orchestrator import rewind
from orchestrator.errors import ConfigError

STEPS = 12


def warm_up_and_cosine(optimizer: Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, start_factor=0.1, total_iters=4), CosineAnnealingLR(optimizer, STEPS - 4)]
    return SequentialLR(optimizer, parts, milestones=[4])


def chain_in_sequence(optimizer: Optimizer) -> SequentialLR:
    chain = ChainedScheduler([ConstantLR(optimizer, 0.5, total_iters=3), ExponentialLR(optimizer, 0.9)])
    optimizer.step()  # else torch warns of the chain's own first step
    return SequentialLR(optimizer, [chain, StepLR(optimizer, 2)], milestones=[5])


SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "lambdas": lambda o: LambdaLR(o, [lambda step: 0.9**step, lambda step: 1.0]),
    "multiplicative": lambda o: MultiplicativeLR(o, lambda step: 0.9 if step % 2 else 0.7),
    "step": lambda o: StepLR(o, 5),
    "multi-step": lambda o: MultiStepLR(o, [3, 8]),
    "constant": lambda o: ConstantLR(o, 0.3, total_iters=4),
    "linear": lambda o: LinearLR(o, start_factor=0.2, total_iters=9),
    "exponential": lambda o: ExponentialLR(o, 0.8),
    "polynomial": lambda o: PolynomialLR(o, total_iters=10, power=2),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.001),
    "warm restarts": lambda o: CosineAnnealingWarmRestarts(o, 2, T_mult=2),
    "cyclic": lambda o: CyclicLR(o, base_lr=0.01, max_lr=0.2, step_size_up=3, mode="exp_range", gamma=0.9),
    "one cycle": lambda o: OneCycleLR(o, max_lr=[0.3, 0.1], total_steps=STEPS),
    "warm-up and cosine": warm_up_and_cosine,
    "chain": lambda o: ChainedScheduler([LinearLR(o, 0.2, total_iters=4), StepLR(o, 5)], optimizer=o),
    "sequence in a chain": lambda o: ChainedScheduler([warm_up_and_cosine(o), ExponentialLR(o, 0.9)], optimizer=o),
    "chain in a sequence": chain_in_sequence,
}


def build_optimizer(lr: float | torch.Tensor = 0.1) -> SGD:
    """An optimizer of two groups with rates of their own."""
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))]},
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.02},
    ]
    return SGD(groups, lr=lr, momentum=0.9)


def train(scheduler: LRScheduler, steps: int) -> list[list[tuple[float, float]]]:
    """Return the rate and the momentum of each group in each step."""
    seen = []
    for _ in range(steps):
        groups = scheduler.optimizer.param_groups
        seen.append([(float(group["lr"]), group["momentum"]) for group in groups])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_rewound_scheduler_repeats_the_original_run(name: str) -> None:
    scheduler = SCHEDULERS[name](build_optimizer())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        original = train(scheduler, STEPS)
        first = scheduler.get_last_lr()
        rewind(scheduler)
        assert train(scheduler, STEPS) == original
        assert scheduler.get_last_lr() == first
        for steps in (5, 1, STEPS):
            rewind(scheduler, steps)
            assert train(scheduler, steps) == original[-steps:]
    assert not [warning for warning in caught if "optimizer.step" in str(warning.message)]


def test_a_scheduler_in_mid_run_goes_back_to_its_start_too() -> None:
    scheduler = warm_up_and_cosine(build_optimizer())
    original = train(scheduler, 7)
    rewind(scheduler)
    assert train(scheduler, 7) == original


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    """A captured or compiled step goes on reading the tensor that it was captured with."""
    optimizer = AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1))
    rate = optimizer.param_groups[0]["lr"]
    scheduler = StepLR(optimizer, 1)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert rate.item() == pytest.approx(1e-4)
    rewind(scheduler, 2)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(1e-2)


def test_a_saved_scheduler_is_rewound_after_it_is_loaded() -> None:
    scheduler = warm_up_and_cosine(build_optimizer())
    original = train(scheduler, STEPS)
    other = warm_up_and_cosine(build_optimizer())
    other.optimizer.load_state_dict(scheduler.optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    rewind(other, 6)
    assert train(other, 6) == original[-6:]


class Warmer(LRScheduler):
    """A user's own, of which nothing is known."""

    def get_lr(self) -> list[float]:
        return [1.0 for _ in self.optimizer.param_groups]


@pytest.mark.parametrize("build", [ReduceLROnPlateau, Warmer, lambda optimizer: optimizer])
def test_what_depends_on_more_than_steps_is_refused(build: Callable[[Optimizer], object]) -> None:
    refused = build(build_optimizer())
    with pytest.raises(ConfigError, match=rf"got {type(refused).__name__}: build a new one for each round"):
        rewind(refused)


def test_a_chain_with_a_part_that_cannot_be_rewound_is_refused_before_anything_changes() -> None:
    optimizer = build_optimizer()
    scheduler = ChainedScheduler([StepLR(optimizer, 2), Warmer(optimizer)], optimizer=optimizer)
    train(scheduler, 3)
    before = optimizer.param_groups[0]["lr"]
    with pytest.raises(ConfigError, match="got Warmer"):
        rewind(scheduler)
    assert optimizer.param_groups[0]["lr"] == before


@pytest.mark.parametrize("steps", [0, 4, 1.0, True])
def test_only_steps_that_were_made_are_taken_back(steps: object) -> None:
    scheduler = StepLR(build_optimizer(), 2)
    train(scheduler, 3)
    with pytest.raises(ConfigError, match="steps must be a whole number from 1 to 3, got"):
        rewind(scheduler, steps)
