"""Tensors through Ray's object store: as numpy arrays, which processes on a node share without copying."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from orchestrator.work import TrainState

_NOT_IN_NUMPY = {torch.bfloat16}


def share(value: Any) -> Any:
    """`value` (None, a dict of tensors, or a TrainState) with every tensor that numpy can hold as an array."""
    if isinstance(value, TrainState):
        return TrainState(share(value.model), share(value.optimizer))
    if isinstance(value, dict):
        return {n: t if t.dtype in _NOT_IN_NUMPY else np.asarray(t) for n, t in value.items()}
    return value


def unshare(value: Any) -> Any:
    """The inverse of `share`. The tensors are shared and read-only: copy before writing."""
    if isinstance(value, TrainState):
        return TrainState(unshare(value.model), unshare(value.optimizer))
    if isinstance(value, dict):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return {n: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for n, a in value.items()}
    return value
