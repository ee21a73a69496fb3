"""Prune: score weights (criteria), decide which to remove (selection), how many and when (path), and hold the result
(structure).

What is named here is imported when first used, as in `orchestrator`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.pruning.channels.removal import Channels, fewer_channels
    from orchestrator.pruning.choices import DEFAULT_KINDS, KINDS, Kind
    from orchestrator.pruning.counts import kept_count
    from orchestrator.pruning.criteria import (
        Criterion,
        gradient_magnitude,
        magnitude,
        needs_gradients,
        random,
        reads_gradients,
        resolve_criterion,
    )
    from orchestrator.pruning.filters import Filters
    from orchestrator.pruning.global_magnitude import prune_globally
    from orchestrator.pruning.masks import (
        count_kept,
        dead_layers,
        prunable_weights,
        unpruned_weights,
    )
    from orchestrator.pruning.path import Cubic, Explicit, Geometric, OneShot, Path
    from orchestrator.pruning.patterns import AtMost, Blocks, Pattern
    from orchestrator.pruning.selection import Global, Layerwise, NofM, Selection
    from orchestrator.pruning.structure import Dense, FewerChannels, Masks, Structure
    from orchestrator.pruning.view import View

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "AtMost",
    "Blocks",
    "Channels",
    "Criterion",
    "Cubic",
    "Dense",
    "Explicit",
    "FewerChannels",
    "Filters",
    "Geometric",
    "Global",
    "Kind",
    "Layerwise",
    "Masks",
    "NofM",
    "OneShot",
    "Path",
    "Pattern",
    "Selection",
    "Structure",
    "View",
    "count_kept",
    "dead_layers",
    "fewer_channels",
    "gradient_magnitude",
    "kept_count",
    "magnitude",
    "needs_gradients",
    "prunable_weights",
    "prune_globally",
    "random",
    "reads_gradients",
    "resolve_criterion",
    "unpruned_weights",
]
_PLACES = {
    "channels.removal": ("Channels", "fewer_channels"),
    "choices": ("DEFAULT_KINDS", "KINDS", "Kind"),
    "counts": ("kept_count",),
    "criteria": (
        "Criterion",
        "gradient_magnitude",
        "magnitude",
        "needs_gradients",
        "random",
        "reads_gradients",
        "resolve_criterion",
    ),
    "filters": ("Filters",),
    "global_magnitude": ("prune_globally",),
    "masks": ("count_kept", "dead_layers", "prunable_weights", "unpruned_weights"),
    "patterns": ("AtMost", "Blocks", "Pattern"),
    "path": ("Cubic", "Explicit", "Geometric", "OneShot", "Path"),
    "selection": ("Global", "Layerwise", "NofM", "Selection"),
    "structure": ("Dense", "FewerChannels", "Masks", "Structure"),
    "view": ("View",),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
