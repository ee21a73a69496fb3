"""Send tensors through Ray's object store as numpy arrays, which processes on a node share without copying."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

_NOT_IN_NUMPY = {torch.bfloat16}


def share(value: Any) -> Any:
    """Return `value` with every tensor as a numpy array, if numpy has its dtype.

    `value` is a tensor, or nests them in dataclasses, dictionaries and tuples; anything else is returned unchanged.
    """
    if isinstance(value, torch.Tensor):
        return value if value.dtype in _NOT_IN_NUMPY else np.asarray(value)
    return _mapped(share, value)


def unshare(value: Any) -> Any:
    """Invert `share`. The tensors are shared and read-only: copy them before writing."""
    if isinstance(value, np.ndarray):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(value)
    return _mapped(unshare, value)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: change(getattr(value, each.name)) for each in fields(value)})
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    return tuple(map(change, value)) if type(value) is tuple else value
