"""Select whole channels, which are then taken out, so that the network becomes a smaller dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.modules import copy_module
from orchestrator.pruning.choices import UNITS, Unit
from orchestrator.pruning.li2017 import PRESETS
from orchestrator.pruning.selection import Selection
from orchestrator.validate import one_of, whole

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.pruning import structure
    from orchestrator.pruning.channels import budget, confirm, shrink, trace
    from orchestrator.pruning.channels.graph import ChannelGraph, Kept
    from orchestrator.pruning.structure import Structure
    from orchestrator.pruning.view import View
else:
    torch, structure = lazy("torch"), lazy("orchestrator.pruning.structure")
    names = ("budget", "confirm", "shrink", "trace")
    budget, confirm, shrink, trace = (lazy(f"orchestrator.pruning.channels.{name}") for name in names)

DENSITY_TOLERANCE = 5e-4  # between a path's density and the density that given ratios keep


@dataclass(frozen=True)
class Channels(Selection):
    """Remove whole channels until the network has the density, which counts MACs or parameters (`unit`).

    Without `ratios` the channels that are lowest relative to their layer are removed first. The score of a channel is
    that of its filters, for `magnitude` their L1 norm (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
    section 3.1), over the mean of the layer's channels. Norms of different layers cannot be compared, because a wide
    layer has small weights and batch norm undoes any scale. `round_to` channels of a layer are removed together, so
    that it keeps a multiple of that, or all it has. The highest channels are kept while they fit. Layers that must
    agree, such as those that a residual connection adds, lose the same channels, by the mean over their filters.

    `ratios`: which fraction of which layer's channels to remove, {"layer1.*.conv1": 0.5}, or a name in `PRESETS`; the
    path is then `OneShot` of the resulting density.

    The classifier keeps its outputs, and so do layers that `exclude` names. A round starts from the values of the kept
    channels, without compensation for the removed ones. The running statistics of batch norm are those of the larger
    network until training renews them.
    """

    unit: Unit = "macs"
    ratios: str | Mapping[str, float] | None = None
    round_to: int = 8

    def __post_init__(self) -> None:
        one_of("Channels.unit", self.unit, UNITS)
        whole("Channels.round_to", self.round_to, minimum=1)
        if isinstance(self.ratios, str):
            one_of("Channels.ratios", self.ratios, PRESETS)
        elif self.ratios is not None:
            budget.check_ratios(self.ratios)
            object.__setattr__(self, "ratios", dict(self.ratios))

    @property
    def needs_channels(self) -> bool:
        return True

    def check(self, view: View, density: float) -> None:
        """Raise ConfigError, before any training, if the network cannot be given this density.

        A layer whose weight is not in `view` keeps its outputs.
        """
        if view.min_kept_per_layer:
            raise ConfigError(
                "min_kept_per_layer must be 0 with Channels: use round_to, the minimum that a layer keeps"
            )
        graph, prunable = _graph_of(view), set(view.weights)
        if self.ratios is None:
            budget.check_budget(graph, prunable, density, self.unit, self.round_to)
            return
        sizes = budget.ratio_sizes(graph, prunable, self._table(), self.round_to)
        alive = [torch.arange(group.size) < size for group, size in zip(graph.groups, sizes, strict=True)]
        given = graph.counts(graph.configuration(alive)).of(self.unit) / graph.counts({}).of(self.unit)
        if abs(given - density) > DENSITY_TOLERANCE:
            raise ConfigError(
                f"these ratios keep {given:.4f} of the {self.unit}, but the path asks for {density:g}: "
                f"write path=OneShot({given:.4f})"
            )

    def select(self, view: View, density: float) -> Structure:
        """Return the smaller network, a part of what the structure of `view` leaves.

        `ratios` refer to the dense network: a layer that has lost as much already loses no more. Raises ConfigError
        as `check` does, and for weights that are not finite.
        """
        self.check(view, density)
        graph = _graph_of(view)
        keep: Callable[..., Kept]
        if self.ratios is None:
            keep = partial(budget.keep_by_budget, density=density, unit=self.unit)
        else:
            keep = partial(budget.keep_by_ratio, ratios=self._table())
        kept = keep(
            graph,
            view.weights,
            round_to=self.round_to,
            kept=view.structure.channels,
            criterion=view.criterion,
            gradients=view.gradients,
        )
        return structure.FewerChannels(kept, graph, self.unit)

    def _table(self) -> Mapping[str, float]:
        return PRESETS[self.ratios] if isinstance(self.ratios, str) else self.ratios or {}


def _graph_of(view: View) -> ChannelGraph:
    if view.graph is None:
        raise ConfigError("Channels needs the graph of the network's channels: View(graph=trace_channels(...))")
    return view.graph


def fewer_channels(module: nn.Module, inputs: Any, ratio: float = 0.5, *, round_to: int = 8) -> tuple[nn.Module, Kept]:
    """Return a copy of `module` in which every layer has lost `ratio` of its channels, the lowest; and a configuration.

    `inputs`: those of one sample, as the module takes them. The copy is not retrained: use it to measure size and
    speed, or as a start for training. A frozen layer (`requires_grad` False) keeps its outputs, and so do those that
    must agree with it. Raises ConfigError for a bad `ratio` or `round_to`, a network whose layers are all frozen, and
    as `trace_channels` and `check_removal` do.
    """
    whole("round_to", round_to, minimum=1)
    graph = trace.trace_channels(module, inputs)
    weights = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not any(budget.may_lose(graph, group, weights) for group in graph.groups):
        raise ConfigError(
            f"model {type(module).__name__} has no channels that may be removed, because its layers are frozen: set "
            "requires_grad to True in layers that may lose channels"
        )
    kept = budget.keep_by_ratio(graph, weights, ratio, round_to=round_to)
    confirm.check_removal(module, graph, kept, inputs)
    return shrink.shrink(copy_module(module), kept), kept
