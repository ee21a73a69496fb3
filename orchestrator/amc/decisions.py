"""Define what a search decides on in a given network, and build the structure that its decisions leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.amc.bounds import Budget, Decision, Traits
from orchestrator.amc.cost import ChannelCost, Cost, SearchUnit, Widths, free_groups, weight_cost
from orchestrator.amc.latency import LatencyCost, LatencyTable
from orchestrator.amc.layer_shape import LayerShape
from orchestrator.errors import ConfigError
from orchestrator.pruning.channels.graph import ChannelGraph, Kept
from orchestrator.pruning.criteria import Criterion, magnitude
from orchestrator.pruning.global_magnitude import prune_globally
from orchestrator.pruning.patterns import Pattern
from orchestrator.validate import whole


def channel_budget(
    graph: ChannelGraph,
    prunable: Mapping[str, int],
    density: float,
    *,
    unit: SearchUnit = "macs",
    round_to: int = 8,
    kept: Kept | None = None,
    shapes: Mapping[str, LayerShape] | None = None,
    table: LatencyTable | None = None,
) -> Budget:
    """Return the budget of a search for channels: one decision for each group of layers that share channels.

    `prunable`: elements of each prunable weight of the dense network. `kept`: what the parent round left. `shapes`: of
    the dense network's layers, for agents that look at them. `density` counts against the dense network.

    Raises ConfigError as `Budget` and `LatencyCost` do, and for the unit "latency" without a table.
    """
    whole("round_to", round_to, minimum=1)

    def cost_from(start: Kept) -> Cost:
        if unit != "latency":
            return ChannelCost(graph, prunable, unit, start)
        if table is None:
            raise ConfigError("unit 'latency' needs a table of each layer's time: make it with orchestrator latency")
        return LatencyCost(graph, table, Widths(graph, free_groups(graph, prunable), start))

    groups = [graph.groups[place] for place in free_groups(graph, prunable)]
    if not groups:
        raise ConfigError("a search needs a layer whose channels may go, got a network without one")
    cost, alive = cost_from(kept or {}), graph.alive(kept or {})
    maxima = [int(alive[place].sum()) for place in free_groups(graph, prunable)]
    parts, total = cost.parts(maxima), cost(maxima)
    decisions = []
    for group, maximum in zip(groups, maxima, strict=True):
        layers = [member.layer for member, _ in graph.writers(group)]
        share = sum(parts[layer] for layer in layers) / total
        decisions.append(Decision(layers[0], maximum, round_to, _traits((shapes or {}).get(layers[0]), share)))
    dense = cost_from({})([group.size for group in groups])
    return Budget(tuple(decisions), cost, density, dense, unit)


def weight_budget(
    alive: Mapping[str, int],
    density: float,
    *,
    unit: SearchUnit = "weights",
    sizes: Mapping[str, int],
    uses: Mapping[str, int],
    macs: int = 0,
    parameters: int = 0,
    shapes: Mapping[str, LayerShape] | None = None,
    steps: Mapping[str, int] | None = None,
) -> Budget:
    """Return the budget of a search for per-layer densities: one decision for each prunable weight.

    `alive`: how many elements of each the parent round left. `sizes`: of the dense network; `uses`: how often each
    element multiplies for one sample; `macs`, `parameters`: of the dense network. `steps`: how many weights go together
    in the layers where it is not one. Raises ConfigError as `Budget` does.
    """
    cost = weight_cost(unit, uses, macs=macs, parameters=parameters, sizes=sizes)
    maxima = [alive[name] for name in sizes]
    parts, total = cost.parts(maxima), cost(maxima)
    decisions = [
        Decision(
            name,
            count,
            (steps or {}).get(name, 1),
            _traits((shapes or {}).get(name.rpartition(".")[0]), parts[name] / total),
        )
        for name, count in zip(sizes, maxima, strict=True)
    ]
    return Budget(tuple(decisions), cost, density, cost(list(sizes.values())), unit)


def group_sizes(graph: ChannelGraph, prunable: Mapping[str, object], sizes: Sequence[int]) -> list[int]:
    """Return how many channels each group keeps: those of `sizes` in the free groups, and all in the others."""
    by_group = [group.size for group in graph.groups]
    for place, size in zip(free_groups(graph, prunable), sizes, strict=True):
        by_group[place] = size
    return by_group


def kept_weights(
    weights: Mapping[str, Tensor],
    sizes: Sequence[int],
    *,
    masks: Mapping[str, Tensor] | None = None,
    criterion: Criterion = magnitude,
    gradients: Mapping[str, Tensor] | None = None,
    pattern: Pattern | None = None,
) -> dict[str, Tensor]:
    """Return masks that keep so many elements of each weight, those of highest score within `masks`, by `pattern`."""
    found: dict[str, torch.Tensor] = {}
    for (name, weight), size in zip(weights.items(), sizes, strict=True):
        own = {name: masks[name]} if masks else None
        slopes = {name: gradients[name]} if gradients else None
        how: dict[str, Any] = {"criterion": criterion, "gradients": slopes, "pattern": pattern}
        found |= prune_globally({name: weight}, size / weight.numel(), masks=own, **how)
    return found


def _traits(shape: LayerShape | None, share: float) -> Traits:
    if shape is None:
        return Traits(share=share)
    first, last = (shape.size[0], shape.size[-1]) if shape.size else (1, 1)
    strides, kernels = shape.stride or (1,), shape.kernel or (1,)
    return Traits(shape.outputs, shape.inputs, first, last, strides[0], kernels[0], share)
