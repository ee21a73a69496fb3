"""Trace the graph of a network, from which every runtime's format is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from orchestrator.errors import ExportError
from orchestrator.export.converting import first_cause, quiet
from orchestrator.export.flat import Flat, Wrapper
from orchestrator.export.interface import BATCH, Call, TensorInfo


def traced(module: nn.Module, call: Call, tensors: Sequence[Tensor], *, dynamic: bool) -> ExportedProgram:
    """Follow what `module` (see `flat`), in evaluation mode, does with these inputs.

    `dynamic`: with any number of samples, and any size of the other free axes that the flow allows. Raises ExportError
    for a module that torch.export does not take, such as one with control flow on data.
    """
    sizes: Any = tuple(map(_sizes, call.interface.inputs)) if dynamic else None
    if sizes and isinstance(module, Flat):
        sizes = (sizes,)  # all of them are the one parameter *tensors
    try:
        with quiet():
            return torch.export.export(module, tuple(tensors), dynamic_shapes=sizes, strict=False)
    except Exception as error:
        while isinstance(module, Wrapper):
            module = module.module
        pairs = zip(call.interface.inputs, tensors, strict=True)
        given = ", ".join(f"{info.name} {tuple(tensor.shape)}" for info, tensor in pairs)
        raise ExportError(
            f"{type(module).__name__} cannot be exported: torch.export must be able to follow one flow for all "
            f"inputs, here {given} ({first_cause(error)})"
        ) from error


def _sizes(info: TensorInfo) -> dict[int, Any]:
    """Return what torch.export needs to know of the free axes of an input.

    Any number of samples must do. Of a length, torch may find bounds, and that two are always equal.
    """
    return {place: Dim(BATCH) if axis == BATCH else Dim.DYNAMIC for place, axis in info.free.items()}
