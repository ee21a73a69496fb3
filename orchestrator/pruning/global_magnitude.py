"""Global pruning: keep the best weights of the whole network, exactly as many as a density asks for."""

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
    shape, on one device; N counts what earlier `masks` (bool, True = kept) removed, and that never comes back. Of
    equal scores the lower flat index is kept, in the order of `weights`. Each layer keeps its `min_kept_per_layer`
    best candidates (or all, if it has fewer), at the expense of the weakest of other layers. The result has the
    keys and shapes of `weights`: contiguous bool tensors on their device. `gradients` (dL/dw) may be those of other
    tensors too, such as biases. Nothing passed in is changed. As many threads as `torch.get_num_threads()` take part;
    where other programs keep the processors busy, they share them and do not wait for each other.

    Raises ConfigError for a density that keeps nothing, or more than `masks` or less than the minimum allow; for a
    weight, gradient or score that is not finite, a criterion that reads gradients without them, and tensors
    that do not match `weights`.
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

    A layer that would keep fewer than `minimum` keeps just its minimum, and the others share what is left.
    """
    kept = dict(zip(layers, top_k(list(layers.values()), keep, threads), strict=True))
    if minimum == 0:
        return kept
    least = {name: min(minimum, layer.candidates) for name, layer in layers.items()}
    short = {name: layer for name, layer in layers.items() if count_true(kept[name]) < least[name]}
    if not short:
        return kept
    for name, layer in short.items():
        (kept[name],) = top_k([layer], least[name], threads)
    others = {name: layer for name, layer in layers.items() if name not in short}
    left = keep - sum(least[name] for name in short)
    return kept | (_best(others, left, minimum, threads) if others else {})  # another one may fall short now
