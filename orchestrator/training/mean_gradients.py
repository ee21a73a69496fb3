"""Compute the gradients of a network at rest, which some criteria score weights by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from orchestrator.data.batches import Batch
from orchestrator.train_state import Tensors
from orchestrator.training import collectives
from orchestrator.training.step import Step


def mean_gradients(module: nn.Module, batches: Iterable[Batch], step: Step, parts: int) -> Tensors:
    """Return {name: dL/dw} on the CPU, of the mean training loss over the batches of all workers.

    Every worker must call it. A batch is computed in `parts`. Running statistics stay as they are. The gradient of a
    parameter that takes no part in the loss is zero.
    """
    module.eval()
    module.zero_grad(set_to_none=True)
    count = torch.zeros((), device=step.device, dtype=torch.float64)
    for batch in batches:
        for part in batch.parts(parts):
            step.loss(module, part).backward()
        counts = step.counts(batch)
        count += batch.samples if counts is None else counts
    share = 1 / collectives.divisor(collectives.sum_over_workers(count))
    gradients = {}
    for name, parameter in module.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradient = collectives.sum_over_workers(gradient.double()) * share
        gradients[name] = gradient.to("cpu", parameter.dtype, copy=True).contiguous()
    module.zero_grad(set_to_none=True)
    return gradients
