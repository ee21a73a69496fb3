"""The selection of whole channels, which are then taken out: the network becomes a smaller dense one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.modules import copy_module
from orchestrator.pruning.channels.budget import (
    check_budget,
    check_ratios,
    keep_by_budget,
    keep_by_ratio,
    may_lose,
    ratio_sizes,
)
from orchestrator.pruning.channels.graph import UNITS, ChannelGraph, Kept, Unit
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.pruning.channels.trace import check_removal, trace_channels
from orchestrator.pruning.criteria import Criterion, magnitude
from orchestrator.pruning.li2017 import PRESETS
from orchestrator.validate import one_of, whole

DENSITY_TOLERANCE = 5e-4  # between a path's density and what given ratios keep


@dataclass(frozen=True)
class Channels:
    """Whole channels leave the network until it has the density, which counts MACs or parameters (`unit`).

    Without `ratios` the channels that are lowest in their layer go first, wherever they are: a channel's score is that
    of its filters, by `magnitude` their L1 norm (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
    section 3.1), over the mean of the layer's channels. A wide layer has small weights and batch norm undoes any scale,
    so that norms of different layers say nothing of each other. `round_to` channels of a layer go together, so that it
    keeps a multiple of that, or all it has; what stays is the longest beginning of the ranking that fits. Layers that
    must agree, such as those that a residual connection adds, lose the same channels, by the mean over their filters.

    `ratios`: which fraction of which layer's channels goes, {"layer1.*.conv1": 0.5}, or a name in `PRESETS`; the path
    is then `OneShot` of the density that they give.

    The classifier's outputs stay, as do those of layers that `exclude` names. A round starts from what the kept
    channels had: nothing makes up for those removed, and the running statistics of batch norm are those of the larger
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
            check_ratios(self.ratios)
            object.__setattr__(self, "ratios", dict(self.ratios))

    def check(self, graph: ChannelGraph, prunable: Iterable[str], density: float) -> None:
        """Raise ConfigError, before anything is trained, if the network cannot be given this density.

        `prunable`: names of the weights that may lose filters.
        """
        if self.ratios is None:
            check_budget(graph, set(prunable), density, self.unit, self.round_to)
        else:
            sizes = ratio_sizes(graph, set(prunable), self._table(), self.round_to)
            alive = [torch.arange(group.size) < size for group, size in zip(graph.groups, sizes, strict=True)]
            given = graph.counts(graph.configuration(alive)).of(self.unit) / graph.counts({}).of(self.unit)
            if abs(given - density) > DENSITY_TOLERANCE:
                raise ConfigError(
                    f"these ratios keep {given:.4f} of the {self.unit}, but the path asks for {density:g}: "
                    f"write path=OneShot({given:.4f})"
                )

    def select(
        self,
        graph: ChannelGraph,
        weights: Mapping[str, Tensor],
        density: float,
        *,
        kept: Kept | None = None,
        criterion: Criterion = magnitude,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> Kept:
        """The configuration of the smaller network, within `kept`, whose weights these are (dense if None).

        `weights`: those that may lose filters; a layer whose weight is not among them keeps its outputs. Raises
        ConfigError as `check` does, and for weights that are not finite.
        """
        self.check(graph, weights, density)
        if self.ratios is not None:
            if kept:
                raise ConfigError("ratios are of the dense network, but it has lost channels: write path=OneShot(...)")
            return keep_by_ratio(graph, weights, self._table(), round_to=self.round_to, criterion=criterion)
        return keep_by_budget(
            graph,
            weights,
            density,
            unit=self.unit,
            round_to=self.round_to,
            kept=kept,
            criterion=criterion,
            gradients=gradients,
        )

    def _table(self) -> Mapping[str, float]:
        return PRESETS[self.ratios] if isinstance(self.ratios, str) else self.ratios or {}


def fewer_channels(
    module: nn.Module, input_shape: tuple[int, int, int], ratio: float = 0.5, *, round_to: int = 8
) -> tuple[nn.Module, Kept]:
    """A copy of `module` in which every layer has lost `ratio` of its channels, its lowest; and its configuration.

    As trained as what is left of the weights: for sizes and speed, or as a beginning. A layer that is frozen
    (`requires_grad` False) keeps its outputs, and so do those that must agree with it. Raises ConfigError for a bad
    `ratio` or `round_to`, a network whose layers are all frozen, and as `trace_channels` and `check_removal` do.
    """
    whole("round_to", round_to, minimum=1)
    graph = trace_channels(module, input_shape)
    weights = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not any(may_lose(graph, group, weights) for group in graph.groups):
        raise ConfigError(
            f"model {type(module).__name__} has no channels that may be removed, because its layers are frozen: set "
            "requires_grad to True where channels may go"
        )
    kept = keep_by_ratio(graph, weights, ratio, round_to=round_to)
    check_removal(module, graph, kept, input_shape)
    return shrink(copy_module(module), kept), kept
