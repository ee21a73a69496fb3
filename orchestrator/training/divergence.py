"""Raise DivergedError, in one sentence that names the place, where a loss or a metric is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.data.batches import Batch
from orchestrator.errors import DivergedError
from orchestrator.nested import tensors_of
from orchestrator.objective import LOSS
from orchestrator.ofa.subnet import SMALLEST
from orchestrator.work.train import Train

_WAY_OUT = "lower the learning rate, add warm-up or set clip_norm"


def check_step(work: Train, epoch: int, step: int, steps: int, loss: float, batch: Batch) -> None:
    """Check the sum of the losses of an epoch up to and with `step`, counted from 0, which trained on `batch`."""
    if math.isfinite(loss):
        return
    way_out = _WAY_OUT
    for what, part in zip(("inputs", "targets"), batch, strict=True):
        if any(tensor.is_floating_point() and tensor.isnan().any() for _, tensor in tensors_of(part)):
            way_out = f"the {what} of this step hold NaN after prepare"
    if way_out == _WAY_OUT and epoch == work.first_epoch and step == 0:
        way_out = "look at the task's loss, and at the weights that the round starts from"
    raise DivergedError(
        f"{_round(work)} diverged: training loss {loss:.4g} at step {step + 1} of {steps} in {_epoch(work, epoch)}; "
        f"{way_out}"
    )


def check_epoch(work: Train, epoch: int, train_loss: float, val: Mapping[str, float]) -> None:
    """Check an epoch. The training loss is measured before each step; the validation loss sees the last one."""
    if not all(map(math.isfinite, (train_loss, *val.values()))):
        if math.isfinite(train_loss):
            _check_metrics(f"{_round(work)}, {_epoch(work, epoch)},", val)
        raise DivergedError(
            f"{_round(work)} diverged: training loss {train_loss}, validation {_listed(val)} in {_epoch(work, epoch)}; "
            f"{_WAY_OUT}"
        )


def check_start(work: Train, val: Mapping[str, float]) -> None:
    """Check the validation metrics of a round that trains no epoch."""
    if not all(map(math.isfinite, val.values())):
        _check_metrics(f"{_round(work)}, which trains no epoch,", val)
        raise DivergedError(
            f"round {work.round} trains no epoch, and the weights that it starts from give validation metrics of "
            f"{_listed(val)}: start from other weights"
        )


def check_test(work: Train, test: Mapping[str, float]) -> None:
    """Check the test metrics of a round."""
    if not all(map(math.isfinite, test.values())):
        raise DivergedError(f"round {work.round} has test metrics of {_listed(test)}, which no record can hold")


def _check_metrics(where: str, values: Mapping[str, float]) -> None:
    """Raise DivergedError, which names the metrics that are not finite, if every loss is finite."""
    wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not wrong.keys() & {LOSS, SMALLEST + LOSS}:
        raise DivergedError(
            f"{where} has finite losses, but metrics that are not finite on the validation split: {_listed(wrong)}; "
            "look at how they compute: some metrics are not defined where all outputs, or all targets, are equal"
        )


def _round(work: Train) -> str:
    return f"round {work.round} (density {work.density:.4g})"


def _epoch(work: Train, epoch: int) -> str:
    return f"epoch {epoch - work.first_epoch + 1} of {work.epochs}"


def _listed(metrics: Mapping[str, float]) -> str:
    """List metrics as in "loss nan, rmse 0.1"; a metric named loss comes first."""
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items(), key=lambda item: item[0] != LOSS))
