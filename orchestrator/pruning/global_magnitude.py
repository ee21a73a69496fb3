"""Prune globally: keep the best weights of the whole network, exactly as many as a density keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.pruning.counts import count_to_keep
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.pruning.masks import check_tensors, count_true
from orchestrator.pruning.top_k import LayerScores, Threads, threads_of, top_k


@torch.no_grad()
def prune_globally(
    weights: Mapping[str, Tensor],
    density: float,
    *,
    masks: Mapping[str, Tensor] | None = None,
    criterion: Criterion = magnitude,
    gradients: Mapping[str, Tensor] | None = None,
    min_kept_per_layer: int = 0,
) -> dict[str, Tensor]:
    """Return masks that keep exactly round(density * N) of the N `weights`, the best of all layers together.

    Global magnitude pruning as in Renda, Frankle, Carbin (ICLR 2020), section 2. `weights` are floating point, of any
    shape, on one device. N includes the weights that earlier `masks` (bool, True = kept) removed; those stay removed.
    Of equal scores the lower flat index is kept, in the order of `weights`. Each layer keeps its `min_kept_per_layer`
    best candidates (or all, if it has fewer), at the expense of the weakest of other layers. The result has the keys
    and shapes of `weights`: contiguous bool tensors on their device. `gradients` (dL/dw) may include those of other
    tensors, such as biases. The arguments are not changed. It uses `torch.get_num_threads()` threads, which do not
    wait for each other while other programs use the processors.

    Raises ConfigError for a density that keeps no weight, more than `masks` leave or less than the minimum; for a
    weight or gradient that is not finite, a score that is NaN, a criterion that reads gradients without them, and
    tensors that do not match `weights`.
    """
    check_tensors(weights, masks, gradients)
    total = sum(weight.numel() for weight in weights.values())
    with threads_of(next(iter(weights.values())).device) as threads:
        layers = {
            name: _scores(criterion, name, weight, (masks or {}).get(name), (gradients or {}).get(name))
            for name, weight in weights.items()
        }
        candidates = [layer.candidates for layer in layers.values()]
        keep = count_to_keep(density, total, candidates, min_kept_per_layer)
        kept = _best(layers, keep, min_kept_per_layer, threads)
    return {name: kept[name].view(weight.shape) for name, weight in weights.items()}


def _scores(
    criterion: Criterion, name: str, weight: Tensor, mask: Tensor | None, gradient: Tensor | None
) -> LayerScores:
    """Return the scores of one layer, and which of its weights may be kept."""
    values = weight if criterion is magnitude else score(criterion, name, weight, gradient)
    candidates = None if mask is None else mask.to(weight.device).reshape(-1)
    return LayerScores(name, values.detach().reshape(-1), criterion is magnitude, candidates)


def _best(layers: Mapping[str, LayerScores], keep: int, minimum: int, threads: Threads) -> dict[str, Tensor]:
    """Return flat masks of the `keep` best candidates of all layers.

    A layer that would keep fewer than `minimum` keeps exactly its minimum, and the others share the rest.
    """
    kept = dict(zip(layers, top_k(list(layers.values()), keep, threads), strict=True))
    if minimum == 0:
        return kept
    minima = {name: min(minimum, layer.candidates) for name, layer in layers.items()}
    short = {name: layer for name, layer in layers.items() if count_true(kept[name]) < minima[name]}
    if not short:
        return kept
    for name, layer in short.items():
        (kept[name],) = top_k([layer], minima[name], threads)
    others = {name: layer for name, layer in layers.items() if name not in short}
    left = keep - sum(minima[name] for name in short)
    return kept | (_best(others, left, minimum, threads) if others else {})  # now another layer may fall short
