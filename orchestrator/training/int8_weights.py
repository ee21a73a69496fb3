"""Store weights as int8 with a scale a channel, symmetric, so that a removed weight stays exactly zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.errors import DamagedError, ExportError
from orchestrator.train_state import Tensors

SCALE = ":scale"  # follows a weight's name; no parameter has a colon in its name
HIGHEST = 127  # -128 stays unused: the grid is symmetric


def quantised(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return `tensors` with each float32 weight of two or more dimensions as int8 and a float32 scale.

    W (C, ...) is stored as round(W / s), s (C,) = max |W[c]| / 127; biases and statistics of norms stay as they are.
    Raises ExportError if the network has no such weight, or one is not finite.
    """
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.ndim < 2 or tensor.numel() == 0:
            found[name] = tensor
            continue
        if not tensor.isfinite().all():
            raise ExportError(f"int8 holds finite values, but {name} has others: repair the weights")
        weight = tensor.detach()
        scale = weight.flatten(1).abs().amax(1) / HIGHEST
        steps = weight.flatten(1) / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
        found[name] = steps.round().clamp(-HIGHEST, HIGHEST).to(torch.int8).view(weight.shape)
        found[name + SCALE] = scale
    if not any(name.endswith(SCALE) for name in found):
        raise ExportError("int8 needs a float32 weight of two or more dimensions, and the network has none")
    return found


def restored(tensors: Mapping[str, Tensor], file: str) -> Tensors:
    """Return the weights that `quantised` stored. Raise DamagedError, naming `file`, for a scale that does not fit."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name + SCALE in tensors:
            scale = tensors[name + SCALE]
            if tensor.dtype != torch.int8 or tensor.ndim < 2 or scale.shape != tensor.shape[:1]:
                raise DamagedError(f"{file}: the scale of {name} does not fit its int8 weights")
            found[name] = (tensor.flatten(1).float() * scale.float().unsqueeze(1)).view(tensor.shape)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in tensors):
            found[name] = tensor
    return found
