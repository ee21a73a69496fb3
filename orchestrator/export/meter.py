"""Measure the objective and the other metrics of a network, or of a file of it, on the test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from orchestrator.data.batches import Batch, Batches
from orchestrator.data.dataset import Data
from orchestrator.export.arrays import Array, is_finite, save_arrays
from orchestrator.export.describing import check_nesting
from orchestrator.export.flat import tensors_in
from orchestrator.export.interface import Call
from orchestrator.export.runtimes import Run
from orchestrator.nested import tensors_of
from orchestrator.objective import LOSS
from orchestrator.task import Task
from orchestrator.training.evaluate import update, value_of
from orchestrator.user_code import called

COMPARED = 2**27  # numbers of a network's outputs that are kept to compare files with
_TOKENS_TOGETHER = 8  # samples of whole numbers at once: such as texts, whose outputs may be large


class Meter:
    """Measure outputs as training does: the mean loss, and every metric of the task."""

    def __init__(self, task: Task) -> None:
        self._task, self._metrics = task, dict(task.metrics())
        self._loss = self._count = 0.0

    @torch.no_grad()
    def add(self, outputs: Any, batch: Batch) -> None:
        """Add the outputs for a batch, nested as the network returns them. Raises ConfigError where a metric fails."""
        with called(f"{type(self._task).__name__}.loss(), called with (outputs, targets),", self._task.loss):
            self._loss += float(self._task.loss(outputs, batch.targets))
        count = self._task.count(batch.targets)
        self._count += batch.samples if count is None else float(count)
        update(self._metrics, self._task, outputs, batch.targets)

    def values(self) -> dict[str, float]:
        """Return the metrics by name, and the mean loss as "loss". Raises ConfigError where a metric fails."""
        loss = self._loss / self._count if self._count else float("nan")
        return {LOSS: loss, **{name: value_of(name, metric) for name, metric in self._metrics.items()}}


def batches_of_test(data: Data) -> Iterator[Batch]:
    """Yield the test set in order, as evaluation prepares it."""
    whole_numbers = any(not tensor.is_floating_point() for _, tensor in tensors_of(data.inputs))
    size = min(_TOKENS_TOGETHER, len(data.train)) if whole_numbers else 1  # of others, Batches takes more by itself
    yield from Batches(data, batch_size=size, device=torch.device("cpu")).evaluate("test")


def metrics_of(
    run: Run, call: Call, data: Data, task: Task, look: Callable[[int, list[Array]], bool]
) -> dict[str, float]:
    """Return the metrics of what `run` makes of the test set, those that are finite.

    `look` is called with the number of each batch and those outputs that must agree; the rest is left out once it
    returns False, and there are no metrics.
    """
    meter = Meter(task)
    for number, batch in enumerate(batches_of_test(data)):
        check_nesting(batch.inputs, call.takes, "inputs")
        outputs = run([tensor.numpy() for tensor in tensors_in(batch.inputs)])
        if not look(number, call.read_of(outputs)):
            return {}
        meter.add(call.outputs([torch.from_numpy(array) for array in outputs]), batch)
    return {name: value for name, value in meter.values().items() if math.isfinite(value)}


def keep_outputs(folder: Path) -> Callable[[int, list[Array]], bool]:
    """Return a `look` for `metrics_of` that writes outputs into `folder`, up to COMPARED numbers.

    It returns False for outputs that are not finite.
    """
    kept = 0

    def look(number: int, outputs: list[Array]) -> bool:
        nonlocal kept
        if kept < COMPARED:
            save_arrays(folder / f"{number}.npz", outputs)
            kept += sum(array.size for array in outputs)
        return is_finite(outputs)

    return look
