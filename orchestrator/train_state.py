"""Hold everything that training changes, as tensors by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

Tensors: TypeAlias = dict[str, "Tensor"]


@dataclass
class TrainState:
    """Hold everything that training changes, on the CPU, as whole tensors.

    `model`: parameters and persistent buffers by their name in the module (shared ones once, by their first name).
    `optimizer`: "<parameter>/<slot>", such as "conv1.weight/momentum_buffer"; empty for a fresh optimizer.
    """

    model: Tensors
    optimizer: Tensors = field(default_factory=dict)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the elements of a tensor on the CPU as bytes, in logical order."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data
