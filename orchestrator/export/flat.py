"""Call a network as a function from tensors to tensors, as every converter wants it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from orchestrator.export.arrays import Array
from orchestrator.export.describing import readable
from orchestrator.export.interface import Call
from orchestrator.modules import model_call
from orchestrator.nested import tensors_of


class Wrapper(nn.Module):
    """Change how `module` is called, and nothing of what it computes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Flat(Wrapper):
    """Wrap `module` as a function of tensors that returns tensors, for any nesting of inputs and outputs."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__(module)
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = readable(model_call(self.module, self._call.inputs(tensors)))
        return tuple(tensor for _, tensor in tensors_of(outputs))


def flat(module: nn.Module, call: Call) -> nn.Module:
    """Return `module` as a function from tensors to tensors: itself if it is one from a tensor to a tensor."""
    return module if call.is_plain else Flat(module, call)


def tensors_in(inputs: Any) -> list[Tensor]:
    """Return the tensors of inputs in order, those of 16-bit numbers as float32, which files compute with."""
    found = [tensor.detach().cpu() for _, tensor in tensors_of(inputs)]
    return [t.float() if t.is_floating_point() and t.dtype.itemsize == 2 else t for t in found]


def arrays_out(outputs: Any) -> list[Array]:
    """Return the tensors of a network's outputs in order, as arrays; those of 16-bit numbers as float32."""
    return [tensor.numpy() for tensor in tensors_in(readable(outputs))]
