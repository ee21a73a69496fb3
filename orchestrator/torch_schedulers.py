"""Rewind a learning-rate scheduler of PyTorch. The schedules of experiments, which are functions, need none of this."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

from orchestrator.errors import ConfigError
from orchestrator.private_apis import milestones, schedulers_in
from orchestrator.validate import whole

# Their rates follow from the number of steps alone.
SUPPORTED = (
    lr_scheduler.LambdaLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.CyclicLR,
    lr_scheduler.OneCycleLR,
    SequentialLR,
    ChainedScheduler,
)


def rewind(scheduler: LRScheduler, steps: int | None = None) -> None:
    """Set `scheduler`, and the rates of its optimizer, back by `steps`; None: to its start, warm-up included.

    A step is a call of `scheduler.step()`, so an epoch or a batch, as your loop calls it. Called when training has
    ended, this is learning-rate rewinding (Renda, Frankle, Carbin 2020): the next `steps` steps have the rates of the
    original run's last ones. The scheduler runs through the steps before them again, so the rates are the same bits. An
    optimizer with several schedulers needs them in one `ChainedScheduler` or `SequentialLR`.

    Raises ConfigError for a scheduler whose rates depend on more than the number of steps, such as
    `ReduceLROnPlateau`, and for more steps than there were.
    """
    _check(scheduler)
    done = _steps_done(scheduler)
    if steps is not None:
        whole("steps", steps, minimum=1, maximum=done, way_out="the scheduler has made no more steps")
    for group in scheduler.optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # a compiled or captured step reads this very tensor
            group["lr"].fill_(group["initial_lr"])
        else:
            group["lr"] = group["initial_lr"]
    _begin_again(scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the optimizer makes no steps in between
        for _ in range(0 if steps is None else done - steps):
            scheduler.step()


def _check(scheduler: object) -> None:
    """Raise ConfigError unless `scheduler`, and those that it consists of, can be rewound."""
    if not isinstance(scheduler, SUPPORTED):
        raise ConfigError(
            f"scheduler must be one of {', '.join(kind.__name__ for kind in SUPPORTED)}, whose rates follow from the "
            f"number of steps, got {type(scheduler).__name__}: build a new one for each round"
        )
    for part in schedulers_in(scheduler):
        _check(part)


def _steps_done(scheduler: LRScheduler) -> int:
    return _steps_done(schedulers_in(scheduler)[0]) if isinstance(scheduler, ChainedScheduler) else scheduler.last_epoch


def _begin_again(scheduler: LRScheduler) -> None:
    """Make the first step as the constructor does, from the initial rates."""
    parts = schedulers_in(scheduler)
    for part in parts:
        _begin_again(part)
    if isinstance(scheduler, SequentialLR):
        SequentialLR.__init__(scheduler, scheduler.optimizer, parts, milestones(scheduler))
    elif isinstance(scheduler, ChainedScheduler):
        ChainedScheduler.__init__(scheduler, parts, scheduler.optimizer)
    else:
        LRScheduler.__init__(scheduler, scheduler.optimizer)
