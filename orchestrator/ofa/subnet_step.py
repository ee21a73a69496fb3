"""The gradients of one step of a supernet: those of several of its networks on the same batch, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.ofa.architecture import Architecture

Loss = Callable[[Any], Tensor]  # of a network's outputs, summed over the batch
Divergence = Callable[[Any, Any], Tensor]  # of outputs from a teacher's, summed over the batch


def add_gradients(
    supernet: nn.Module,
    architectures: Sequence[Architecture],
    inputs: Tensor,
    loss: Loss,
    divergence: Divergence,
    *,
    share: float | Tensor = 1.0,
    teacher: nn.Module | None = None,
    in_place: bool = False,
) -> Tensor:
    """Add the mean of these networks' gradients times `share` to `grad` of the parameters; return the mean loss.

    With `teacher`, which is put into evaluation mode and sees the inputs as they are, the divergence from its outputs
    is added to each loss (Cai et al. 2020, section 3.3). With `in_place`, the first network learns from the targets,
    and the others only from its outputs (Yu et al. 2020, section 3.2). One gradient is kept for all networks. Of a
    parameter that none of them used it stays as it was.
    """
    if teacher is not None and in_place:
        raise ValueError("a step has one teacher: another network, or its own first one in place")
    taught = _answers(teacher, inputs) if teacher is not None else None
    values: list[Tensor] = []
    first = None
    for architecture in architectures:
        outputs = supernet(inputs, architecture)
        value = loss(outputs) if first is None else divergence(outputs, first)
        if in_place and first is None:
            first = outputs.detach()
        if taught is not None:
            value = value + divergence(outputs, taught)
        (value * (share / len(architectures))).backward()
        values.append(value.detach())
    return torch.stack(values).mean()


@torch.no_grad()
def _answers(teacher: nn.Module, inputs: Tensor) -> Any:
    return teacher.eval()(inputs)
