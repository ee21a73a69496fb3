"""Measure a network by its task: the mean loss and every metric, each sample counted once."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from orchestrator.amc.recalibrate import recalibrated
from orchestrator.data.batches import Batches, Split
from orchestrator.errors import ConfigError, DataError
from orchestrator.modules import model_call
from orchestrator.objective import LOSS
from orchestrator.ofa.front_search import CALIBRATION
from orchestrator.pruning.structure import Structure
from orchestrator.task import Metric, Task
from orchestrator.training import collectives
from orchestrator.training.calibration import call_with_inputs
from orchestrator.training.step import Step
from orchestrator.user_code import called
from orchestrator.validate import finite

logger = logging.getLogger(__name__)


@torch.no_grad()
def evaluate(module: nn.Module, batches: Batches, split: Split, step: Step) -> dict[str, float]:
    """Return the metrics of `module` over all workers' samples of `split`, and the mean loss as "loss".

    A metric other than the objective that is not finite is left out. Every worker must call it. Raises DataError where
    the task counts nothing, ConfigError where a metric fails.
    """
    task = step.experiment.task
    module.eval()
    metrics = dict(task.metrics())
    for metric in metrics.values():
        metric.to(step.device)
        _stay_local(metric)
    totals = torch.zeros(2, device=step.device, dtype=torch.float64)  # loss and count
    for batch in batches.evaluate(split):
        with step.autocast():
            outputs = model_call(module, batch.inputs)
            totals[0] += task.loss(outputs, batch.targets)
        counts = step.counts(batch)
        totals[1] += batch.samples if counts is None else counts
        update(metrics, task, outputs, batch.targets)
    loss, count = collectives.sum_over_workers(totals).tolist()
    finite(f"{type(task).__name__}.count() over the {split} split", count, above=0, error=DataError)
    values = {name: value_of(name, metric) for name, metric in metrics.items()}
    for name in [name for name, value in values.items() if name != task.objective and not math.isfinite(value)]:
        logger.warning("metric %s is %s on the %s split, and left out", name, values.pop(name), split)
    return {LOSS: loss / count, **values}


def evaluate_structure(
    structure: Structure, module: nn.Module, batches: Batches, split: Split, step: Step, seed: int
) -> dict[str, float]:
    """Return what `evaluate` does, of each network by which `structure` measures its `module`.

    `seed` draws the training samples that batch norm is measured on, where the structure wants that.
    """

    def with_statistics(network: nn.Module) -> nn.Module:
        return recalibrated(network, batches.calibration(seed, CALIBRATION), call_with_inputs)

    return {
        prefix + name: value
        for prefix, network in structure.measured(module, with_statistics)
        for name, value in evaluate(network, batches, split, step).items()
    }


def _stay_local(metric: Metric) -> None:
    """Keep a torchmetrics metric from adding up over workers where this process computes as the only one."""
    if isinstance(metric, nn.Module) and not collectives.in_group():
        parts: Iterable[Any] = metric.modules()
        for part in parts:
            if hasattr(part, "distributed_available_fn"):
                part.distributed_available_fn = collectives.in_group


def update(metrics: dict[str, Metric], task: Task, outputs: Any, targets: Any) -> None:
    """Add a batch to every metric. Raises ConfigError, with the user's line, where a metric fails."""
    if (read := getattr(task, "outputs", None)) is not None:
        with called(f"{type(task).__name__}.outputs(), called with the outputs of a batch,", read):
            outputs = read(outputs)
    for name, metric in metrics.items():
        with called(f"metric {name!r}, updated with the outputs and targets of a batch,", metric.update):
            metric.update(outputs, targets)


def value_of(name: str, metric: Metric) -> float:
    """Return the value of a metric over all workers. Raises ConfigError if it is not one number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns on a worker that has had no batch
        if collectives.world_size() > 1:
            return collectives.value_of(metric)  # whose failure may be that of another worker
        with called(f"metric {name!r}, computed after the last batch,", metric.compute):
            value: object = metric.compute()
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"metric {name!r} must compute one number, got {value!r:.100}") from None
