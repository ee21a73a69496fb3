"""Describe what the user gives, for a key: by names, fields and content, without addresses, which change every time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.train_state import raw_bytes

_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, np.generic)


def describe(value: object, seen: tuple[int, ...] = ()) -> str:
    """Return a text that is equal for equal values.

    A function is its name, its defaults and what its closure holds, an object its class and attributes, an array or a
    tensor a digest of its content. The code of functions does not count: it may move, as that of models may.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in seen:
        return "itself"
    inner = functools.partial(describe, seen=(*seen, id(value)))
    if isinstance(value, Tensor | np.ndarray):
        return _described_array(value)
    if isinstance(value, Mapping):
        return f"{type(value).__qualname__}{sorted((inner(key), inner(item)) for key, item in value.items())}"
    if isinstance(value, set | frozenset):
        return f"set{sorted(map(inner, value))}"
    if isinstance(value, tuple | list):
        return f"{type(value).__qualname__}{list(map(inner, value))}"
    if isinstance(value, functools.partial):
        return f"partial{[inner(part) for part in (value.func, value.args, value.keywords)]}"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {inner(value.__self__)}"
    if isinstance(value, types.FunctionType):
        cells = [inner(cell.cell_contents) for cell in value.__closure__ or ()]
        return f"{value.__qualname__}{[*cells, inner(value.__defaults__), inner(value.__kwdefaults__)]}"
    return _described_object(value, inner)


def _described_array(value: Tensor | np.ndarray[Any, Any]) -> str:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return f"array{value.tolist()}"
    content = raw_bytes(value.cpu()) if isinstance(value, Tensor) else np.ascontiguousarray(value).tobytes()
    return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(content).hexdigest()}"


def _described_object(value: object, inner: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    name = getattr(value, "__qualname__", kind.__qualname__)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{name}{inner(fields)}"
    return name if isinstance(value, type) else f"{name}{inner(getattr(value, '__dict__', {}))}"
