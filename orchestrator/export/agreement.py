"""How far a network and what was made of it are apart."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import ExportError
from orchestrator.export.program import first_cause
from orchestrator.modules import logits_of

Array: TypeAlias = np.ndarray[Any, Any]

RELATIVE = 1e-4  # of the largest logit of an image: how far float32 arithmetic may be from torch's


def noise(input_shape: tuple[int, ...]) -> Tensor:
    """Three images (3, *input_shape), always the same."""
    return torch.randn((3, *input_shape), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def answers(module: nn.Module, images: Tensor) -> Array:
    """Return the logits (n, classes). Raise ExportError unless they are a tensor of finite numbers, at least one."""
    try:
        logits: Array = logits_of(module(images), ExportError).float().numpy()
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be exported: it does not take images of shape {tuple(images.shape[1:])} "
            f"({first_cause(error)})"
        ) from error
    if not np.isfinite(logits).all():
        raise ExportError("the network answers NaN or infinity to random images: it is of no use as a file")
    return logits


def relative_error(got: Array, expected: Array) -> float:
    """The largest difference, as a part of the largest logit of the same image; arrays (n, classes)."""
    scale = np.abs(expected).max(axis=1, keepdims=True)
    return float((np.abs(got - expected) / np.maximum(scale, np.finfo(np.float32).tiny)).max())
