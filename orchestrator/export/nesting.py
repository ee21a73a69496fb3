"""Describe as JSON how the tensors of a batch, or of a model's outputs, are nested, and nest them again.

A nesting is ["tensor"], ["value", 3], ["tuple", nesting, ...], ["dict", [name, nesting], ...], or ["named", ...] of the
same form for a named tuple. It names no code. torch is not imported here: a process that measures an ONNX file
does not load it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

Nesting: TypeAlias = list[Any]


class Fields(dict[str, Any]):
    """Hold a dict whose items are attributes too, as the outputs of transformers do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def put_together(nesting: Nesting, tensors: Sequence[Any]) -> Any:
    """Return the value of this nesting with `tensors`, in the order of `orchestrator.nested.tensors_of`."""
    given = iter(tensors)
    value = _built(nesting, given)
    assert next(given, None) is None, "a tensor is left over"
    return value


def _built(nesting: Nesting, tensors: Iterator[Any]) -> Any:
    kind, *parts = nesting
    if kind == "tensor":
        return next(tensors)
    if kind == "value":
        return parts[0]
    if kind == "tuple":
        return tuple(_built(part, tensors) for part in parts)
    fields = {name: _built(part, tensors) for name, part in parts}
    return namedtuple("Outputs", fields)(**fields) if kind == "named" else Fields(fields)
