"""Compute the loss of a batch and its gradients: the part of training that a task decides."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.batches import Batch
from orchestrator.experiment import Experiment
from orchestrator.modules import model_call
from orchestrator.ofa.phases import Phase
from orchestrator.ofa.spaces import Space
from orchestrator.ofa.subnet_step import add_gradients
from orchestrator.training import collectives


@dataclass(slots=True)
class Sums:
    """Hold the sum of the losses since an epoch began, float64 of shape (), and what divides it."""

    loss: Tensor
    count: Tensor | float = 0.0

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        return cls(torch.zeros((), dtype=torch.float64, device=device))

    def add_count(self, batch: Batch, counts: Tensor | None) -> None:
        """Add what the batch's loss is divided by: its samples, or what the task counts. Does not wait for a GPU."""
        self.count += batch.samples if counts is None else counts.detach().double()

    def tensor(self) -> Tensor:
        """Return both numbers as float64 of shape (2,)."""
        return torch.stack([self.loss, torch.as_tensor(self.count, dtype=torch.float64, device=self.loss.device)])


@dataclass(frozen=True)
class Step:
    """Add the gradients of one batch to a model's parameters.

    The gradient is that of the mean loss over the global batch: the sum of all workers' losses, divided by all their
    samples, tokens or pixels. So it is the same for any number of workers, whatever their shares.
    """

    experiment: Experiment
    device: torch.device

    def loss(self, model: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """Return the training loss of a batch, summed over it."""
        task, distillation = self.experiment.task, self.experiment.distillation
        with self.autocast():
            outputs = model_call(model, batch.inputs)
            loss = task.loss(outputs, batch.targets)
            if teacher is None or distillation is None:
                return loss
            with torch.no_grad():
                taught = model_call(teacher, batch.inputs)
            apart = task.divergence(outputs, taught, batch.targets, distillation.temperature)  # type: ignore[attr-defined]
            return distillation.mixed(loss, apart)

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """Return the model whose gradients `add_gradients` computes."""
        # The gradients of a batch in parts are averaged once, after its last part.
        return module if self.experiment.training.accumulate > 1 else collectives.data_parallel(module)

    def add_gradients(self, model: nn.Module, batch: Batch, teacher: nn.Module | None, sums: Sums, seed: int) -> None:
        """Add the batch's gradients, part by part, and its loss and count to `sums`.

        `seed`: of the step, equal on all workers.
        """
        counts = self.counts(batch)
        share = self._share(counts)
        for part in batch.parts(self.experiment.training.accumulate):
            loss = self.loss(model, part, teacher)
            (loss * share).backward()
            sums.loss.add_(loss.detach())
        sums.add_count(batch, counts)

    def counts(self, batch: Batch) -> Tensor | None:
        """Return what the task divides the batch's loss by; None for the number of samples."""
        return self.experiment.task.count(batch.targets)

    def _share(self, counts: Tensor | None) -> Any:
        """Return what a sum of losses is multiplied by, as workers average gradients, to give the global mean."""
        workers = collectives.world_size()
        if counts is None:
            return workers / self.experiment.training.batch_size
        total = collectives.sum_over_workers(counts.detach().to(torch.float64, copy=True))
        return (workers / collectives.divisor(total)).to(torch.float32)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the model and its loss are computed."""
        if self.experiment.training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class SupernetStep(Step):
    """Add the mean of the gradients of several networks of a supernet, which the seed of the step draws.

    Each network's gradient is that of its mean loss over the global batch, as `Step` has it. The workers' gradients are
    averaged once, after the last backward pass.
    """

    phase: Phase
    space: Space

    def data_parallel(self, module: nn.Module) -> nn.Module:
        return module

    def add_gradients(self, model: nn.Module, batch: Batch, teacher: nn.Module | None, sums: Sums, seed: int) -> None:
        task, counts = self.experiment.task, self.counts(batch)
        share, architectures = self._share(counts), self.phase.draw(self.space, seed)
        in_place = self.phase.teacher == "largest of the step"
        for some in batch.parts(self.experiment.training.accumulate):
            with self.autocast():
                networks_loss = add_gradients(
                    model,
                    architectures,
                    some.inputs,
                    partial(task.loss, targets=some.targets),
                    partial(task.divergence, targets=some.targets, temperature=1.0),  # type: ignore[attr-defined]
                    share=share,
                    teacher=teacher,
                    in_place=in_place,
                )
            sums.loss.add_(networks_loss)
        sums.add_count(batch, counts)
