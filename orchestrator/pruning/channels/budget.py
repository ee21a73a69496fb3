"""Choose the channels to keep, by a budget for the whole network or a ratio for each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning.channels.graph import ChannelGraph, Group, Kept
from orchestrator.pruning.choices import Unit
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.validate import fraction, whole


@torch.no_grad()
def keep_by_budget(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    density: float,
    *,
    unit: Unit = "macs",
    round_to: int = 8,
    kept: Kept | None = None,
    criterion: Criterion = magnitude,
    gradients: Mapping[str, Tensor] | None = None,
) -> Kept:
    """Remove the lowest channels of the whole network until `density` of the dense `unit` is left (see `Channels`).

    Raises ConfigError as `check_budget` and `score` do.
    """
    check_budget(graph, set(weights), density, unit, round_to)
    alive = graph.alive(kept or {})
    blocks: list[tuple[float, int, int, Tensor]] = []  # score, -group, order within the group, its channels
    for index, group in enumerate(graph.groups):
        if not may_lose(graph, group, weights):
            continue
        means = _means(graph, group, weights, kept or {}, criterion, gradients)
        lowest_first = _lowest_first(means, alive[index])
        typical = means[lowest_first].mean().clamp(min=torch.finfo(torch.float64).tiny)
        sizes = _block_sizes(len(lowest_first), round_to)
        for order, channels in enumerate(lowest_first[: sum(sizes)].split(sizes) if sizes else ()):
            blocks.append((float(means[channels].mean() / typical), -index, order, channels))
    blocks.sort(key=lambda block: block[:3])  # of equal blocks that of the last layer is removed first
    budget = density * graph.counts({}).of(unit)

    def without(count: int) -> Kept:
        left = [flags.clone() for flags in alive]
        for _, group, _, channels in blocks[:count]:
            left[-group][channels] = False
        return graph.configuration(left)

    low, high = 0, len(blocks)  # the minimum number of blocks to remove is in [low, high]
    while low < high:
        middle = (low + high) // 2
        if graph.counts(without(middle)).of(unit) <= budget:
            high = middle
        else:
            low = middle + 1
    return without(low)


@torch.no_grad()
def keep_by_ratio(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    ratios: float | Mapping[str, float],
    *,
    round_to: int = 8,
    kept: Kept | None = None,
    criterion: Criterion = magnitude,
    gradients: Mapping[str, Tensor] | None = None,
) -> Kept:
    """Remove a fraction of each layer's channels, the lowest: one ratio for all layers, or ratios by name patterns.

    A layer keeps (1 - ratio) of the channels of the dense network, rounded down to a multiple of `round_to`, and at
    least `round_to`. `weights` are those of the network that `kept` leaves; a layer with fewer channels loses none.
    Raises ConfigError for a pattern that matches no layer that may lose channels, or two ratios for layers that must
    agree.
    """
    table = check_ratios({"*": ratios} if isinstance(ratios, (int, float)) else ratios)
    sizes = ratio_sizes(graph, set(weights), table, round_to)
    return keep_sizes(graph, weights, sizes, kept=kept, criterion=criterion, gradients=gradients)


@torch.no_grad()
def keep_sizes(
    graph: ChannelGraph,
    weights: Mapping[str, Tensor],
    sizes: Sequence[int],
    *,
    kept: Kept | None = None,
    criterion: Criterion = magnitude,
    gradients: Mapping[str, Tensor] | None = None,
) -> Kept:
    """Return the configuration in which group i keeps its `sizes[i]` highest channels.

    `weights` are those of the network that `kept` leaves; a group with fewer channels loses none.
    """
    alive = graph.alive(kept or {})
    for group, flags, size in zip(graph.groups, alive, sizes, strict=True):
        if (excess := int(flags.sum()) - size) > 0:
            means = _means(graph, group, weights, kept or {}, criterion, gradients)
            flags[_lowest_first(means, flags)[:excess]] = False
    return graph.configuration(alive)


def may_lose(graph: ChannelGraph, group: Group, prunable: Iterable[str]) -> bool:
    """Return whether channels of `group` may be removed: all weights that write them are `prunable`."""
    return all(weight in prunable for _, weight in graph.writers(group))


def _means(
    graph: ChannelGraph,
    group: Group,
    weights: Mapping[str, Tensor],
    kept: Kept,
    criterion: Criterion,
    gradients: Mapping[str, Tensor] | None,
) -> Tensor:
    """Return the mean score (size,) of the weights that write each channel of a group; 0 for a removed channel."""
    sums, counts = torch.zeros(2, group.size, dtype=torch.float64)
    for member, name in graph.writers(group):
        scores = score(criterion, name, weights[name], gradients[name] if gradients else None)
        layer = graph.layers[member.layer]
        filters = scores.movedim(layer.cuts[name].sides.index("out"), 0).flatten(1)
        indices = kept.get(member.layer, {}).get("out")
        whole = torch.zeros(2, layer.size("out"), dtype=torch.float64)
        places = slice(None) if indices is None else torch.tensor(indices)
        whole[0, places] = filters.sum(1, dtype=torch.float64).cpu()
        whole[1, places] = filters.shape[1]
        channels, positions = torch.tensor(member.channels), torch.tensor(member.positions)
        sums.index_add_(0, channels, whole[0, positions])
        counts.index_add_(0, channels, whole[1, positions])
    means: Tensor = sums / counts.clamp(min=1)
    return means


def _lowest_first(means: Tensor, alive: Tensor) -> Tensor:
    """Return the channels that are left, lowest mean first; of equal ones the last first."""
    order = means.argsort(descending=True, stable=True).flip(0)
    return order[alive[order]]


def _block_sizes(count: int, round_to: int) -> list[int]:
    """Return the sizes of the blocks in which `count` channels are removed.

    The first goes down to a multiple of `round_to`, the others have `round_to` channels, and `round_to` stay.
    """
    if count <= round_to:
        return []
    first = count % round_to or round_to
    return [first, *[round_to] * ((count - first) // round_to - 1)]


def ratio_sizes(graph: ChannelGraph, prunable: set[str], table: Mapping[str, float], round_to: int) -> list[int]:
    """Return how many channels of each group the ratios in `table` ({pattern: ratio}) keep. Raises ConfigError."""
    sizes, unused = [], set(table)
    for group in graph.groups:
        layers = [member.layer for member, _ in graph.writers(group)] if may_lose(graph, group, prunable) else []
        given = {pattern: ratio for pattern, ratio in table.items() if any(fnmatchcase(n, pattern) for n in layers)}
        unused -= given.keys()
        if len(set(given.values())) > 1:
            raise ConfigError(f"{', '.join(layers)} lose the same channels: one ratio must hold for all, got {given}")
        ratio = next(iter(given.values()), 0.0)
        stay = max(1, math.floor(group.size * (1 - ratio) / round_to + 1e-9)) * round_to
        sizes.append(min(group.size, stay) if ratio else group.size)
    if unused:
        free = [group for group in graph.groups if may_lose(graph, group, prunable)]
        known = [member.layer for group in free for member, _ in graph.writers(group)]
        raise ConfigError(
            f"ratios must match layers that may lose channels, got {', '.join(sorted(unused))}; they are: "
            f"{', '.join(known)}"
        )
    return sizes


def check_ratios(ratios: Mapping[str, float]) -> Mapping[str, float]:
    """Return `ratios`. Raises ConfigError unless it maps patterns of layers to fractions in [0, 1)."""
    if not isinstance(ratios, Mapping) or not ratios:
        raise ConfigError(f"ratios must map layers to the fraction of channels to remove, got {ratios!r}")
    for layer, ratio in ratios.items():
        fraction(f"the ratio of {layer!r}", ratio, zero=True, way_out="a layer must keep a channel")
    return ratios


def check_budget(graph: ChannelGraph, prunable: set[str], density: float, unit: Unit, round_to: int) -> None:
    """Raise ConfigError unless the network can be given this density. `prunable`: names of the prunable weights."""
    whole("round_to", round_to, minimum=1)
    fraction("density", density, one=True)
    fewest = [
        torch.arange(group.size) < (round_to if may_lose(graph, group, prunable) else group.size)
        for group in graph.groups
    ]
    minimum = graph.counts(graph.configuration(fewest)).of(unit) / graph.counts({}).of(unit)
    if density < minimum:
        lowest = Context(prec=4, rounding=ROUND_CEILING).create_decimal(Decimal(repr(minimum)))
        raise ConfigError(
            f"density {density:g} of the {unit} cannot be reached: every layer keeps {round_to} channels (round_to), "
            f"or all where it must; the smallest density is {lowest}"
        )
