"""Choose the weights to keep: exactly so many of the whole network, the best by a criterion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning.counts import count_to_keep
from orchestrator.pruning.criteria import Criterion, magnitude, score
from orchestrator.pruning.masks import check_masks, check_matches, count_true

BLOCK = 1 << 20  # scores looked at together: several passes over a block then find it in the cache
STRIDE = 211  # sampling step: a prime, so that it meets every place of a kernel and every channel alike
SIGMAS = (3, 12, math.inf)  # half widths of the bracket, in standard errors of the quantile: tried until it holds


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
    """Masks that keep exactly round(density * N) of the N `weights`, the best of all layers together.

    Global magnitude pruning as in Renda, Frankle, Carbin (ICLR 2020), section 2. `weights` are floating point, of any
    shape, on one device; N counts what earlier `masks` (bool, True = kept) removed, and that never comes back. Of
    equal scores the lower flat index is kept, in the order of `weights`. Each layer keeps its `min_kept_per_layer`
    best candidates (or all, if it has fewer), at the expense of the weakest of other layers. The result has the
    keys and shapes of `weights`: contiguous bool tensors on their device. `gradients` (dL/dw) may be those of other
    tensors too, such as biases. Nothing passed in is changed.

    Raises ConfigError for a density that keeps nothing, or more than `masks` or less than the minimum allow; for a
    weight, gradient or score that is not finite, a criterion that reads gradients without them, and tensors
    that do not match `weights`.
    """
    check_tensors(weights, masks, gradients)
    total = sum(weight.numel() for weight in weights.values())
    layers = [
        _layer(name, weight, masks[name] if masks else None, criterion, gradients[name] if gradients else None)
        for name, weight in weights.items()
    ]
    keep = count_to_keep(density, total, [layer.candidates for layer in layers], min_kept_per_layer)
    chosen = _best_with_minimum(layers, keep, min_kept_per_layer)
    return {name: chosen[name].view(weight.shape) for name, weight in weights.items()}


@dataclass(frozen=True, eq=False)
class _Layer:
    """One tensor, flat: its scores are `values`, or |values| if `absolute` (magnitudes are never stored whole)."""

    name: str
    values: Tensor
    absolute: bool
    mask: Tensor | None
    candidates: int


def _layer(name: str, weight: Tensor, mask: Tensor | None, criterion: Criterion, gradient: Tensor | None) -> _Layer:
    values = weight if criterion is magnitude else score(criterion, name, weight, gradient)
    flat = values.detach().reshape(-1)
    if mask is not None:
        mask = mask.to(weight.device).reshape(-1)
    candidates = flat.numel() if mask is None else count_true(mask)
    return _Layer(name, flat, criterion is magnitude, mask, candidates)


def _best_with_minimum(layers: list[_Layer], keep: int, minimum: int) -> dict[str, Tensor]:
    """As `_best`, but a layer that falls short gets just its minimum, and the others share what is left."""
    done: dict[str, Tensor] = {}
    while True:
        chosen = _best(layers, keep)
        least = {layer.name: min(minimum, layer.candidates) for layer in layers}
        short = [layer for layer in layers if minimum and count_true(chosen[layer.name]) < least[layer.name]]
        if not short:
            return done | chosen
        for layer in short:
            done |= _best([layer], least[layer.name])
            keep -= least[layer.name]
        layers = [layer for layer in layers if layer not in short]  # with less to share, one of them may fall short


def _best(layers: list[_Layer], keep: int) -> dict[str, Tensor]:
    """Flat masks of the `keep` best candidates of all layers together.

    One pass over the weights: what lies above a bracket around the threshold is kept, what lies inside is chosen from
    exactly. A sample proposes the bracket; one that misses the threshold is widened, at last to everything.
    """
    wide = any(layer.values.dtype is torch.float64 for layer in layers)
    dtype = torch.float64 if wide else torch.float32  # holds every score exactly, of whatever dtypes
    sample, fraction = _sample(layers, dtype), keep / max(1, sum(layer.candidates for layer in layers))
    for sigmas in SIGMAS:
        kept, inside, scores = _split(layers, dtype, *_bracket(sample, fraction, sigmas))
        missing = keep - count_true(kept)
        if 0 <= missing <= inside.numel():
            break
    kept[inside[_highest(scores, missing)]] = True
    parts = torch.split(kept, [layer.values.numel() for layer in layers])
    return {layer.name: part.clone() for layer, part in zip(layers, parts, strict=True)}


def _sample(layers: list[_Layer], dtype: torch.dtype) -> Tensor:
    """Every STRIDE-th score of the network, less those that are no candidates."""
    samples, offset = [], 0
    for layer in layers:
        part = slice(-offset % STRIDE, None, STRIDE)  # go on where the layer before ended
        offset += layer.values.numel()
        sample = layer.values[part] if layer.mask is None else layer.values[part][layer.mask[part]]
        samples.append(sample.to(dtype).abs() if layer.absolute else sample.to(dtype))
    return torch.cat(samples)


def _bracket(sample: Tensor, fraction: float, sigmas: float) -> tuple[float, float]:
    """Two scores that likely enclose the lowest of the highest `fraction` of what `sample` stands for."""
    size = sample.numel()
    margin = sigmas * (1 + math.sqrt(size * fraction * (1 - fraction)))
    first, last = size * (1 - fraction) - margin, size * (1 - fraction) + margin  # places in the sorted sample, from 1
    low = sample.kthvalue(math.floor(first)).values.item() if first >= 1 else -math.inf
    high = sample.kthvalue(math.ceil(last)).values.item() if last <= size else math.inf
    return low, high


def _split(layers: list[_Layer], dtype: torch.dtype, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """The network against a bracket: a flat mask of the candidates above it; indices and scores of those inside."""
    device = layers[0].values.device
    above = torch.empty(sum(layer.values.numel() for layer in layers), dtype=torch.bool, device=device)
    flags, inside = (torch.empty(BLOCK, dtype=kind, device=device) for kind in (dtype, torch.bool))
    indices, values, start = [], [], 0
    for scores, candidates in _blocks(layers, dtype):
        if layers[0].absolute and not scores.amax().item() < math.inf:
            raise ConfigError(f"weights must be finite, but {_not_finite(layers)} holds NaN or infinity")
        size = scores.numel()
        part = above[start : start + size]
        # Comparing into floats and narrowing them runs vectorised, comparing into bools does not: twice as fast.
        part.copy_(torch.gt(scores, high, out=flags[:size]))
        within = inside[:size].copy_(torch.ge(scores, low, out=flags[:size]))
        if candidates is not None:
            part.logical_and_(candidates)
            within.logical_and_(candidates)
        index = _true_indices(within.logical_xor_(part))
        indices.append(index + start)
        values.append(scores[index])
        start += size
    return above, torch.cat(indices), torch.cat(values)


def _blocks(layers: list[_Layer], dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The network's scores and candidates in flat order, BLOCK at a time (layers joined) in buffers used again."""
    device = layers[0].values.device
    scores = torch.empty(BLOCK, dtype=dtype, device=device)
    candidates = torch.empty(BLOCK, dtype=torch.bool, device=device)
    filled = 0
    for layer in layers:
        size, done = layer.values.numel(), 0
        while done < size:
            count = min(size - done, BLOCK - filled)
            here, there = slice(filled, filled + count), slice(done, done + count)
            values = layer.values[there].to(dtype)
            if layer.absolute:
                torch.abs(values, out=scores[here])
            else:
                scores[here].copy_(values)
            if layer.mask is not None:
                candidates[here].copy_(layer.mask[there])
            filled, done = filled + count, done + count
            if filled == BLOCK:
                yield scores, candidates if layer.mask is not None else None
                filled = 0
    if filled:
        yield scores[:filled], candidates[:filled] if layer.mask is not None else None


def _not_finite(layers: list[_Layer]) -> str:
    return next(layer.name for layer in layers if not layer.values.isfinite().all())


def _true_indices(flags: Tensor) -> Tensor:
    """Indices of the few True of a contiguous 1-D bool tensor, ascending; eight flags are looked at together."""
    if flags.numel() % 8:
        return flags.nonzero()[:, 0]
    words = flags.view(torch.int64).nonzero()[:, 0]
    row, place = flags.view(-1, 8)[words].nonzero(as_tuple=True)
    return words[row] * 8 + place


def _highest(scores: Tensor, count: int) -> Tensor:
    """Bool tensor that marks the `count` highest of 1-D `scores`; of equal ones the first."""
    if count in (0, scores.numel()):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    chosen = scores > threshold
    ties = (scores == threshold).nonzero()[:, 0]
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen


def check_tensors(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None, gradients: Mapping[str, Tensor] | None
) -> None:
    """ConfigError unless `weights` can be pruned, and `masks` and `gradients` are None or match them."""
    if not weights:
        raise ConfigError("weights must hold at least one tensor to prune, got an empty dictionary")
    devices = {weight.device for weight in weights.values()}
    if len(devices) > 1:
        raise ConfigError(f"weights must all be on one device, got {', '.join(sorted(map(str, devices)))}")
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise ConfigError(f"weights must be floating point, got {weight.dtype} for {name}")
        if weight.dim() == 0 or weight.numel() == 0:
            shape = tuple(weight.shape)
            raise ConfigError(f"weights must have a dimension and an element, got shape {shape} for {name}")
    check_masks(masks, weights)
    check_matches("gradient", gradients, weights)
