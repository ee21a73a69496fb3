"""Prune globally: keep the best weights of the whole network, exactly as many as a density keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.pruning.counts import count_to_keep
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.pruning.masks import check_tensors, count_true
from orchestrator.pruning.patterns import Pattern, check_count
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
    pattern: Pattern | None = None,
) -> dict[str, Tensor]:
    """Return masks that keep exactly round(density * N) of the N `weights`, the best of all layers together.

    Global magnitude pruning as in Renda, Frankle, Carbin (ICLR 2020), section 2. `weights` are floating point, of any
    shape, on one device. N includes the weights that earlier `masks` (bool, True = kept) removed; those stay removed.
    Of equal scores the lower flat index is kept, in the order of `weights`. Each layer keeps its `min_kept_per_layer`
    best candidates (or all, if it has fewer), at the expense of the weakest of other layers. The result has the keys
    and shapes of `weights`: contiguous bool tensors on their device. `gradients` (dL/dw) may include those of other
    tensors, such as biases. The arguments are not changed. It uses `torch.get_num_threads()` threads, which do not
    wait for each other while other programs use the processors.

    `pattern`: what layers that it divides follow. Where a block does not fit, the best weights of other layers fill the
    count up; if none are left, less than one block is missing.

    Raises ConfigError for a density that keeps no weight, more than `masks` leave or less than the minimum; for a
    weight or gradient that is not finite, a score that is NaN, a criterion that reads gradients without them, and
    tensors that do not match `weights`.
    """
    check_tensors(weights, masks, gradients)
    if pattern:
        check_count(pattern, {name: tuple(w.shape) for name, w in weights.items()}, density, min_kept_per_layer)
    total = sum(weight.numel() for weight in weights.values())
    with threads_of(next(iter(weights.values())).device) as threads:
        layers = {
            name: _scores(criterion, name, weight, (masks or {}).get(name), (gradients or {}).get(name), pattern)
            for name, weight in weights.items()
        }
        candidates = [layer.candidates for layer in layers.values()]
        keep = count_to_keep(density, total, candidates, min_kept_per_layer, pattern.size if pattern else 1)
        kept = _best(layers, keep, min_kept_per_layer, threads)
        if pattern:
            return _in_whole_blocks(pattern, layers, kept, keep, weights, threads)
    return {name: kept[name].view(weight.shape) for name, weight in weights.items()}


def _scores(
    criterion: Criterion,
    name: str,
    weight: Tensor,
    mask: Tensor | None,
    gradient: Tensor | None,
    pattern: Pattern | None,
) -> LayerScores:
    """Return the scores of one layer, and which of its weights may be kept, in the order of the pattern."""
    absolute = criterion is magnitude and pattern is None
    values = weight.detach() if absolute else score(criterion, name, weight, gradient).detach()
    if pattern:
        candidates = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        if pattern.divides(tuple(weight.shape)):
            arranged = pattern.arrange(values, candidates)
            return LayerScores(name, arranged.values, mask=arranged.mask)
        return LayerScores(name, values.reshape(-1), mask=candidates.reshape(-1))
    return LayerScores(name, values.reshape(-1), absolute, None if mask is None else mask.to(weight.device).reshape(-1))


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


def _in_whole_blocks(
    pattern: Pattern,
    layers: Mapping[str, LayerScores],
    kept: Mapping[str, Tensor],
    keep: int,
    weights: Mapping[str, Tensor],
    threads: Threads,
) -> dict[str, Tensor]:
    """Return masks of the weights' shapes without the block that `kept` cut; other layers' best take its place.

    At most one block is cut, because its weights are neighbours of equal score.
    """
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    follows = {name: pattern.divides(shape) for name, shape in shapes.items()}
    for name, flags in kept.items():
        if follows[name] and count_true(flags) % pattern.size:
            blocks = flags.view(-1, pattern.size)
            blocks.logical_and_(blocks.all(1, keepdim=True))
    missing = keep - sum(map(count_true, kept.values()))
    rest = {
        name: LayerScores(name, layer.values, mask=layer.mask & ~kept[name])
        for name, layer in layers.items()
        if layer.mask is not None and not follows[name]
    }
    if missing and rest:
        available = sum(layer.candidates for layer in rest.values())
        for name, more in zip(rest, top_k(list(rest.values()), min(missing, available), threads), strict=True):
            kept[name].logical_or_(more)
    return {n: pattern.restore(kept[n], shape) if follows[n] else kept[n].view(shape) for n, shape in shapes.items()}
