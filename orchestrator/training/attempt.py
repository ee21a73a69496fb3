"""Hold one attempt at a round: what its epochs share, and the checkpoint from which another attempt resumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from orchestrator.errors import DamagedError
from orchestrator.train_state import TrainState
from orchestrator.training import collectives
from orchestrator.training.config import TrainingConfig
from orchestrator.training.masked import Masked
from orchestrator.training.moving_average import MovingAverage
from orchestrator.training.state import check_model_tensors, check_state, take_model, take_state
from orchestrator.training.step import Step, Sums
from orchestrator.work.train import EpochMetrics, OnStep, Progress, Train

_SUMS = 2  # sum and count of the losses of an epoch, which each worker has of its own


@dataclass
class Attempt:
    """Hold one attempt at a round.

    `sums`: of the losses in the epoch under way; `begun`: its steps that are done.
    """

    work: Train
    module: nn.Module
    optimizer: torch.optim.Optimizer
    masked: Masked
    teacher: nn.Module | None
    step: Step
    average: MovingAverage | None
    sums: Sums
    began: float
    on_step: OnStep | None = None
    history: list[EpochMetrics] = field(default_factory=list)
    attempts: int = 1
    begun: int = 0
    training_seconds: float = 0.0
    samples: int = 0
    snapshots: dict[int, TrainState] = field(default_factory=dict)

    @cached_property
    def origin(self) -> str:
        return self.work.origin()

    @property
    def outcome(self) -> nn.Module:
        """Return the network that is evaluated: the averaged one, where the training has one."""
        return self.average.module if self.average else self.module

    def statistics(self) -> list[Tensor]:
        """Return the running statistics that each worker has of its own in the middle of an epoch."""
        networks = [self.module, *([self.average.module] if self.average else [])]
        return [buffer for network in networks for buffer in collectives.running_statistics(network)]

    def take_progress(self, steps_done: int = 0) -> Progress | None:
        """Return a checkpoint, on the first worker; in the middle of an epoch every worker must ask for it."""
        parts = None
        if steps_done:
            own = [buffer.reshape(-1).double() for buffer in self.statistics()]
            parts = collectives.gather(torch.cat([*own, self.sums.tensor()])).cpu()
        if collectives.rank() != 0:
            return None
        return Progress(
            self.work.key,
            len(self.history),
            take_state(self.module, self.optimizer),
            tuple(self.history),
            time.perf_counter() - self.began,
            self.attempts,
            steps_done,
            parts,
            self.origin,
            take_model(self.average.module) if self.average else None,
        )

    @torch.no_grad()
    def resume_from(self, progress: Progress) -> None:
        """Take this worker's part of a checkpoint: mean and sum of all parts, if another number of workers wrote it."""
        self.history, self.attempts = list(progress.history), progress.attempts + 1
        if (parts := progress.parts) is None:
            return
        self.begun = progress.steps_done
        rank = collectives.rank()
        if len(parts) == collectives.world_size():
            mine = parts[rank]
            loss, count = mine[-_SUMS:].tolist()
        else:
            mine = parts.mean(0)
            loss, count = parts[:, -_SUMS:].sum(0).tolist() if rank == 0 else (0.0, 0.0)
        self.sums.loss.fill_(loss)
        self.sums.count = count
        collectives.put_flat(mine[:-_SUMS], self.statistics())


def check_progress(
    progress: Progress, work: Train, module: nn.Module, training: TrainingConfig, steps_per_epoch: int
) -> None:
    """Raise DamagedError unless `work` can resume from `progress` with `module`: storage may hold anything."""
    check_state(progress.state, module)
    if progress.origin != work.origin():
        raise DamagedError("it began from other weights or masks than the round has now")
    if (progress.average is None) != (training.ema is None):
        raise DamagedError("it must have averaged weights where training.ema has a value, and only there")
    if progress.average is not None:
        check_model_tensors(progress.average, module)
    networks = 1 if progress.average is None else 2
    own = _SUMS + networks * sum(buffer.numel() for buffer in collectives.running_statistics(module))
    done = len(progress.history)
    if [metrics.epoch - work.first_epoch for metrics in progress.history] != list(range(done)):
        raise DamagedError(f"its epochs do not begin with the round's first one, {work.first_epoch}")
    if done + (progress.steps_done > 0) > work.epochs or progress.steps_done > steps_per_epoch:
        found = f"{done} epochs and {progress.steps_done} steps"
        raise DamagedError(f"{found} are more than the round's {work.epochs} of {steps_per_epoch}")
    if progress.parts is not None and progress.parts.shape[1] != own:
        raise DamagedError(f"its workers have {progress.parts.shape[1]} values of their own, the model has {own}")


@contextmanager
def starting_from(what: str, key: str | None) -> Iterator[None]:
    """Name the round `key` in the error of a block that puts its tensors into the network."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(
            f"{what} cannot start from what rounds/{key} or the snapshots of its dense run hold: {error}"
        ) from error
