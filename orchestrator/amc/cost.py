"""Count what a network costs by how much each decision keeps: MACs, parameters, prunable weights, or latency.

A decision is how many channels of a group stay, or how many weights of a layer. Costs are functions of the sizes that
are kept, one for each decision in order, because a search asks for thousands of them. They are exact: equal to the
counts of the network that is built.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.pruning.channels.graph import SIDES, ChannelGraph, Kept, Member, Side

if TYPE_CHECKING:
    from orchestrator.pruning.channels import budget
else:
    budget = lazy("orchestrator.pruning.channels.budget")

SearchUnit: TypeAlias = Literal["macs", "parameters", "weights", "latency"]
SEARCH_UNITS: tuple[SearchUnit, ...] = ("macs", "parameters", "weights", "latency")
Counts64: TypeAlias = NDArray[np.int64]


class Cost(Protocol):
    """A function of the sizes kept. It never decreases when a size grows."""

    def __call__(self, sizes: Sequence[int]) -> float:
        """Return the cost of the whole network for one sample."""
        ...

    def parts(self, sizes: Sequence[int]) -> Mapping[str, float]:
        """Return the cost of each layer that decisions change, by the layer's name."""
        ...


def free_groups(graph: ChannelGraph, prunable: Mapping[str, object]) -> list[int]:
    """Return the places in `graph.groups` of those that a search decides on.

    All weights that give their channels are prunable, and each layer holds every channel equally often: then the cost
    depends only on how many channels stay, not on which.
    """
    return [
        place
        for place, group in enumerate(graph.groups)
        if budget.may_lose(graph, group, prunable)
        and all(len(set(_repeats(member).values())) == 1 for member in group.members)
    ]


def _repeats(member: Member) -> Counter[int]:
    """Return how many places of the layer hold each channel."""
    return Counter(member.channels)


class Widths:
    """How many channels each layer has on each side, by the sizes that the free groups keep.

    `kept` is the configuration of the network that the search starts from.
    """

    def __init__(self, graph: ChannelGraph, free: Sequence[int], kept: Kept) -> None:
        self.layers = list(graph.layers)
        place = {name: row for row, name in enumerate(self.layers)}
        alive = graph.alive(kept)
        self.maxima = tuple(int(alive[group].sum()) for group in free)
        self._fixed = {side: np.zeros(len(place), np.int64) for side in SIDES}
        self._factors = {side: np.zeros((len(place), len(free)), np.int64) for side in SIDES}
        for name, sides in graph.sizes().items():
            for side, size in sides.items():
                self._fixed[side][place[name]] = len(kept.get(name, {}).get(side, range(size)))
        for column, group in enumerate(free):
            for member in graph.groups[group].members:
                factor = _repeats(member)[member.channels[0]]
                self._factors[member.side][place[member.layer], column] += factor
                self._fixed[member.side][place[member.layer]] -= factor * self.maxima[column]

    def of(self, side: Side, sizes: Sequence[int]) -> Counts64:
        """Return the channels (layers,) of each layer on one side."""
        found: Counts64 = self._fixed[side] + self._factors[side] @ np.asarray(sizes, np.int64)
        return found


@dataclass(frozen=True)
class _Term:
    """Tensors whose elements count: of layer `row`, `factor` for each pair of channels, or for each channel."""

    row: int
    factor: int
    sides: tuple[Side, ...]


class ChannelCost:
    """MACs, parameters or prunable weights of the network whose free groups keep these many channels."""

    def __init__(
        self,
        graph: ChannelGraph,
        prunable: Mapping[str, int],
        unit: Literal["macs", "parameters", "weights"],
        kept: Kept,
    ) -> None:
        """Take the sizes of the dense network's prunable weights by name, and the configuration to start from."""
        self.widths = Widths(graph, free_groups(graph, prunable), kept)
        terms = list(_terms(graph, self.widths.layers, prunable, unit))
        self._rows = np.array([term.row for term in terms], np.int64)
        self._factors = np.array([term.factor for term in terms], np.int64)
        self._has: dict[Side, NDArray[np.bool_]] = {
            side: np.array([side in term.sides for term in terms]) for side in SIDES
        }
        if unit == "weights":
            known = {layer.weight for layer in graph.layers.values()}
            self._fixed = sum(size for name, size in prunable.items() if name not in known)
        else:
            self._fixed = graph.counts(kept).of(unit) - int(self._by_term(self.widths.maxima).sum())

    def __call__(self, sizes: Sequence[int]) -> int:
        return self._fixed + int(self._by_term(sizes).sum())

    def parts(self, sizes: Sequence[int]) -> dict[str, float]:
        sums = np.zeros(len(self.widths.layers), np.int64)
        np.add.at(sums, self._rows, self._by_term(sizes))
        return dict(zip(self.widths.layers, sums.tolist(), strict=True))

    def _by_term(self, sizes: Sequence[int]) -> Counts64:
        widths = {side: np.where(has, self.widths.of(side, sizes)[self._rows], 1) for side, has in self._has.items()}
        found: Counts64 = self._factors * widths["out"] * widths["in"]
        return found


def _terms(graph: ChannelGraph, layers: Sequence[str], prunable: Mapping[str, int], unit: str) -> Iterator[_Term]:
    for row, name in enumerate(layers):
        layer = graph.layers[name]
        for tensor, cut in layer.cuts.items():
            counted = {
                "macs": tensor == layer.weight,
                "parameters": cut.trained,
                "weights": tensor == layer.weight and tensor in prunable,
            }[unit]
            if counted:
                elements = math.prod(cut.shape[len(cut.sides) :])
                yield _Term(row, elements * (layer.positions if unit == "macs" else 1), cut.sides)


class WeightCost:
    """Cost of a network whose layers keep these many weights; zeros are counted as absent.

    `uses`: what one weight of each layer costs, by the weight's name. `fixed`: what everything else costs.
    """

    def __init__(self, uses: Mapping[str, int], fixed: int = 0) -> None:
        self._names, self._fixed = list(uses), fixed
        self._uses = np.array(list(uses.values()), np.int64)

    def __call__(self, sizes: Sequence[int]) -> int:
        return self._fixed + int(self._uses @ np.asarray(sizes, np.int64))

    def parts(self, sizes: Sequence[int]) -> dict[str, float]:
        return dict(zip(self._names, (self._uses * np.asarray(sizes, np.int64)).tolist(), strict=True))


def weight_cost(
    unit: SearchUnit, uses: Mapping[str, int], *, macs: int = 0, parameters: int = 0, sizes: Mapping[str, int]
) -> WeightCost:
    """Return the cost of per-layer densities.

    `sizes`: elements of each prunable weight; `uses`: how often each multiplies for one sample; `macs`, `parameters`:
    of the dense network. Raises ConfigError for "latency": zeros in dense tensors save no time.
    """
    if unit == "latency":
        raise ConfigError(
            "unit must be macs, parameters or weights with mode='weights', got 'latency': zeros in dense tensors save "
            "no time, so choose mode='channels'"
        )
    if unit == "macs":
        return WeightCost({name: uses[name] for name in sizes}, macs - sum(uses[name] * sizes[name] for name in sizes))
    fixed = parameters - sum(sizes.values()) if unit == "parameters" else 0
    return WeightCost(dict.fromkeys(sizes, 1), fixed)
