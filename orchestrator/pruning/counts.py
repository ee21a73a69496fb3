"""Compute how many weights a density keeps."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import ConfigError
from orchestrator.validate import fraction, whole


def kept_count(density: float, total: int) -> int:
    """Return how many of `total` weights a network of `density` keeps. Raise ConfigError unless 0 < density <= 1."""
    return round(fraction("density", density, one=True) * total)


def count_to_keep(
    density: float, total: int, candidates: Sequence[int], min_kept_per_layer: int, block: int = 1
) -> int:
    """Return how many of `total` weights to keep in all layers together; `candidates`: how many each layer has left.

    Where `block` weights go together, an earlier round may have left less than one block fewer: then all stay. Raises
    ConfigError if that is 0, more than all candidates, or less than `min_kept_per_layer` requires.
    """
    whole("min_kept_per_layer", min_kept_per_layer, minimum=0)
    keep, available = kept_count(density, total), sum(candidates)
    keep = available if available < keep < available + block else keep
    minimum = sum(min(count, min_kept_per_layer) for count in candidates)
    if keep == 0:
        raise ConfigError(f"density must keep at least 1 of {total} weights, got {density:g}, which keeps 0")
    if keep > available:
        raise ConfigError(
            f"density {density:g} keeps {keep} of {total} weights, but the masks given leave only {available}: "
            f"it must be at most {available / total:g}"
        )
    if keep < minimum:
        raise ConfigError(
            f"density {density:g} keeps {keep} of {total} weights, but min_kept_per_layer={min_kept_per_layer} needs "
            f"{minimum} in {len(candidates)} layers: raise the density or lower the minimum"
        )
    return keep
