"""Describe the inputs and outputs of a network: names, types, which sizes are free, and how they are nested."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from orchestrator.data.dataset import About
from orchestrator.errors import ExportError
from orchestrator.export.interface import BATCH, LENGTH, Axis, Interface, TensorInfo
from orchestrator.export.nesting import Fields, Nesting
from orchestrator.modules import LOGITS
from orchestrator.nested import tensors_of

_PLAIN = (str, int, float, bool, type(None))


def readable(outputs: Any) -> Any:
    """Return a model's outputs as they are, or the logits of an object that has them as an attribute.

    Raises ExportError for an object without tensors.
    """
    if isinstance(outputs, Tensor | Mapping | tuple | list):
        return outputs
    found = {name: value for name in LOGITS if isinstance(value := getattr(outputs, name, None), Tensor)}
    if not found:
        raise ExportError(
            "a file can give out tensors in tuples, lists and dicts, and objects with "
            f"{' or '.join(LOGITS)}, but the network returns {type(outputs).__name__}: wrap it in a module"
        )
    return Fields(found)


def nesting_of(value: Any) -> Nesting:
    """Return how `value` is nested. What is neither a tensor nor plain, such as a cache, becomes None."""
    if isinstance(value, Tensor):
        return ["tensor"]
    if isinstance(value, Mapping):
        return ["dict", *([_plain(name), nesting_of(item)] for name, item in value.items())]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ["named", *([name, nesting_of(item)] for name, item in zip(value._fields, value, strict=True))]
    if isinstance(value, tuple | list):
        return ["tuple", *map(nesting_of, value)]
    return ["value", _plain(value)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else None


def check_nesting(value: Any, expected: Nesting, what: str) -> None:
    """Raise ExportError unless `value` is nested as `expected`, with the same plain values: they are constants."""
    if (found := nesting_of(value)) != expected:
        raise ExportError(
            f"{what} must be nested alike in every batch, with equal values beside the tensors, got {found!s:.100} "
            f"and {expected!s:.100}"
        )


def input_names(module: nn.Module, inputs: Any) -> tuple[str, ...]:
    """Return a name for each tensor of `inputs`: the parameter of forward() that takes it, or its key in a dict."""
    if isinstance(inputs, Mapping):
        return _plain_names(name for name, _ in tensors_of(inputs))
    parameters = [
        each.name
        for each in inspect.signature(module.forward).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    arguments = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    parameters += [f"input_{place}" for place in range(len(parameters), len(arguments))]
    return _plain_names(
        f"{parameter}.{name}" for parameter, value in zip(parameters, arguments, strict=False)
        for name, _ in tensors_of(value)
    )  # fmt: skip


def output_names(outputs: Any, taken: Iterable[str]) -> tuple[str, ...]:
    """Return a name for each tensor of `outputs`: its key in a dict, or "output" with its place."""
    if fields := getattr(outputs, "_fields", None):
        outputs = dict(zip(fields, outputs, strict=True))
    keyed = isinstance(outputs, Mapping)
    return _plain_names((name if keyed else f"output.{name}" for name, _ in tensors_of(outputs)), taken)


def _plain_names(names: Iterable[str], taken: Iterable[str] = ()) -> tuple[str, ...]:
    """Return names that every format takes: letters, digits and "_", each once, and none of those in `taken`."""
    used = list(taken)
    first = len(used)
    for name in names:
        plain = re.sub(r"\W", "_", name.strip("."), flags=re.ASCII) or "tensor"
        plain = f"_{plain}" if plain[0].isdigit() else plain
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        used.append(next(each for each in itertools.chain([plain], numbered) if each not in used))
    return tuple(used[first:])


@dataclass
class _Axes:
    """Name the sizes that differ between batches: the same name for those that differ in the same way."""

    samples: tuple[int, ...]
    names: dict[tuple[int, ...], str] = field(default_factory=dict)

    def of(self, name: str, tensors: Sequence[Tensor]) -> TensorInfo:
        """Describe a tensor, given as it is in each of the batches."""
        ranks = {tensor.dim() for tensor in tensors}
        if len(ranks) > 1:
            raise ExportError(f"{name} must have as many dimensions in every batch, got {sorted(ranks)}")
        axes = tuple(self._axis(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True))
        return TensorInfo(name, str(tensors[0].dtype).removeprefix("torch."), axes)

    def _axis(self, sizes: tuple[int, ...]) -> Axis:
        if len(set(sizes)) == 1:
            return sizes[0]
        if sizes == self.samples:
            return BATCH
        number = len(self.names) + 1
        return self.names.setdefault(sizes, LENGTH if number == 1 else f"{LENGTH}_{number}")


def describe(
    names: tuple[Sequence[str], Sequence[str]],
    inputs: Sequence[Sequence[Tensor]],
    outputs: Sequence[Sequence[Tensor]],
    samples: Sequence[int],
    about: About,
) -> Interface:
    """Return the interface of a network, from its tensors in several batches of `samples` samples each.

    An axis whose size differs between batches is free. `names` are those of inputs and of outputs. Raises ExportError
    for a tensor that has more dimensions in one batch than in another.
    """
    axes = _Axes(tuple(samples))
    taken, given = (
        tuple(axes.of(name, column) for name, column in zip(of, zip(*batches, strict=True), strict=True))
        for of, batches in zip(names, (inputs, outputs), strict=True)
    )
    return Interface(taken, given, **asdict(about))
