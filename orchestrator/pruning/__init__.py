"""Pruning: which weights (masks), how they are scored (criteria), which go (select), how many and when (path)."""

from orchestrator.pruning.criteria import Criterion, magnitude, resolve_criterion
from orchestrator.pruning.masks import count_kept, dead_layers, prunable_weights
from orchestrator.pruning.path import Explicit, Geometric, OneShot, Path
from orchestrator.pruning.select import kept_count, prune_globally

__all__ = [
    "Criterion",
    "Explicit",
    "Geometric",
    "OneShot",
    "Path",
    "count_kept",
    "dead_layers",
    "kept_count",
    "magnitude",
    "prunable_weights",
    "prune_globally",
    "resolve_criterion",
]
