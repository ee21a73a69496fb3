"""Describe the inputs and outputs of a network by name: for the users of its files, and for runtimes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

from orchestrator.export.arrays import Array
from orchestrator.export.nesting import Nesting, put_together
from orchestrator.validate import finite, texts, tuple_of

BATCH = "batch"
LENGTH = "length"
Axis: TypeAlias = int | str


@dataclass(frozen=True)
class TensorInfo:
    """Describe an input or output tensor. An axis is its size, or a name if any size is allowed."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]

    @property
    def free(self) -> dict[int, str]:
        """Return the names of the axes that may have any size, by place."""
        return {place: axis for place, axis in enumerate(self.shape) if isinstance(axis, str)}


@dataclass(frozen=True)
class Interface:
    """List inputs and outputs by name, in order, and what the data says of them.

    `labels`: names of the classes. `mean`, `std`: what inputs were normalised by, for each channel. All three are empty
    where the data does not say.
    """

    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for values that the data cannot have stated."""
        texts("labels", self.labels)
        tuple_of("mean", self.mean, finite)
        tuple_of("std", self.std, partial(finite, above=0), length=len(self.mean))

    @property
    def named_classes(self) -> int:
        """Return how many classes have a name."""
        return len(self.labels)

    def metadata(self) -> dict[str, str]:
        """Return it as texts, for a format whose metadata are texts; what is empty is left out."""
        return {name: json.dumps(value) for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Call:
    """Hold an interface, and how its tensors are nested in what the network takes and returns.

    `read`: the places, among the outputs, of those that must agree with the network's.
    """

    interface: Interface
    takes: Nesting
    returns: Nesting
    read: tuple[int, ...]

    def inputs(self, tensors: Sequence[Any]) -> Any:
        """Return inputs as the network takes them."""
        return put_together(self.takes, tensors)

    def outputs(self, tensors: Sequence[Any]) -> Any:
        """Return outputs as the network returns them."""
        return put_together(self.returns, tensors)

    def read_of(self, outputs: Sequence[Array]) -> list[Array]:
        """Return those outputs that must agree."""
        return [outputs[place] for place in self.read]

    @property
    def is_plain(self) -> bool:
        """Return whether the network takes one tensor and returns one."""
        return self.takes == self.returns == ["tensor"]
