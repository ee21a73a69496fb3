"""Handle batches of any nesting: tensors in tuples, lists and dicts. Values of other types stay as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from orchestrator.train_state import raw_bytes


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return `value` with `function(tensor)` in the place of each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: mapped(function, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return _like(value, [mapped(function, item) for item in value])
    return value


def _like(value: Any, items: list[Any]) -> Any:
    """Return `items` as a tuple, named tuple or list as `value` is."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def unknown_part(value: Any) -> object | None:
    """Return a part of `value` in which tensors would not be found, such as an object, or None."""
    if isinstance(value, Mapping | tuple | list) and not isinstance(value, PackedSequence):
        parts = value.values() if isinstance(value, Mapping) else value
        return next((found for part in parts if (found := unknown_part(part)) is not None), None)
    return None if isinstance(value, Tensor | str | bytes | int | float | bool | None) else value


def kind_of(value: object) -> str:
    """Return what an error message calls `value`: "tuple of 3", "list of 1", "Tensor"."""
    kind = type(value).__name__
    return f"{kind} of {len(value)}" if isinstance(value, tuple | list) else kind


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of `value` with its place in it: "" for itself, "ids", "0", "pair.1"."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_of(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from tensors_of(item, f"{name}.{place}".lstrip("."))


def rows(value: Any, first: int, last: int) -> Any:
    """Return samples `first` to `last` (excluded) of a batch: the first dimension of its tensors counts samples."""
    return mapped(lambda tensor: tensor[first:last] if tensor.dim() else tensor, value)


def in_parts(value: Any, samples: int, parts: int) -> list[Any]:
    """Return a batch of `samples` samples in `parts`, whose sizes differ by at most one, as `torch.tensor_split`."""
    bounds = [0]
    for part in range(parts):
        bounds.append(bounds[-1] + samples // parts + (part < samples % parts))
    return [rows(value, first, last) for first, last in itertools.pairwise(bounds)]


def concatenated(values: list[Any]) -> Any:
    """Return batches of one nesting as one batch."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values) if first.dim() else first
    if isinstance(first, Mapping):
        return {name: concatenated([value[name] for value in values]) for name in first}
    if isinstance(first, tuple | list):
        return _like(first, [concatenated(list(items)) for items in zip(*values, strict=True)])
    return first


def moved(value: Any, device: torch.device) -> Any:
    """Return `value` with its tensors on `device`."""
    return mapped(lambda tensor: tensor.to(device, non_blocking=True), value)


def number_of_samples(value: Any) -> int:
    """Return the length of the first dimension of the first tensor that has one; 0 without such a tensor."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.dim() else 0
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((samples for part in parts if (samples := number_of_samples(part))), 0)


@dataclass(frozen=True)
class TensorBytes:
    """A tensor as bytes, which go from process to process without shared memory."""

    content: bytes
    dtype: torch.dtype
    shape: tuple[int, ...]


def packed(value: Any) -> Any:
    """Return `value` with each tensor as `TensorBytes`."""
    return mapped(lambda tensor: TensorBytes(bytes(raw_bytes(tensor)), tensor.dtype, tuple(tensor.shape)), value)


def unpacked(value: Any) -> Any:
    """Return the inverse of `packed`."""
    if isinstance(value, TensorBytes):
        if not value.content:
            return torch.empty(value.shape, dtype=value.dtype)
        return torch.frombuffer(bytearray(value.content), dtype=value.dtype).reshape(value.shape)
    if isinstance(value, Mapping):
        return {name: unpacked(item) for name, item in value.items()}
    return _like(value, list(map(unpacked, value))) if isinstance(value, tuple | list) else value
