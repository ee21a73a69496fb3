"""Find the k highest scores of a network, fast: `top_k`.

The result is that of a stable sort of all scores in descending order, but it takes one pass over them.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning.masks import count_true

BLOCK = 1 << 20  # scores processed together, few enough to stay in the cache
STRIDE = 211  # sampling step: a prime, so that it samples every place of a kernel and every channel equally
SIGMAS = (3, 12, math.inf)  # half widths of the bracket in standard errors of the quantile, tried in order
MAX_THREADS = 8  # more would only wait for memory

_selecting = threading.RLock()  # a criterion may select, too


@dataclass(frozen=True, eq=False)
class LayerScores:
    """The flat scores of one layer: `values`, or |values| if `absolute`, so that magnitudes need no memory.

    `mask` (bool): which of them are candidates; None: all. `name` is for errors.
    """

    name: str
    values: Tensor
    absolute: bool = False
    mask: Tensor | None = None

    @cached_property
    def candidates(self) -> int:
        """Return how many of the scores are candidates."""
        return self.values.numel() if self.mask is None else count_true(self.mask)


def top_k(layers: Sequence[LayerScores], k: int, threads: Threads) -> list[Tensor]:
    """Return a flat mask for each layer: the `k` highest candidates of all layers together, of equal ones the first.

    One pass keeps the scores above a bracket around the threshold; the exact choice is made among those inside. A
    sample gives the bracket. If it misses the threshold, it is widened, in the end to all scores. Either all layers
    are `absolute` or none is, and either all have a mask or none has. Raises ConfigError if values of absolute layers
    are not finite.
    """
    wide = any(layer.values.dtype is torch.float64 for layer in layers)
    dtype = torch.float64 if wide else torch.float32  # holds scores of every dtype exactly
    sample, fraction = _sample(layers, dtype), k / max(1, sum(layer.candidates for layer in layers))
    for sigmas in SIGMAS:
        split = _split(layers, dtype, *_bracket(sample, fraction, sigmas), threads)
        missing = k - split.above
        if 0 <= missing <= split.inside.numel():
            break
    chosen, first = split.inside[_highest(split.scores, missing)], 0
    ends = torch.searchsorted(chosen, torch.tensor(split.ends, device=chosen.device)).tolist()
    for mask, end, after in zip(split.masks, ends, split.ends, strict=True):
        mask.index_fill_(0, chosen[first:end] - (after - mask.numel()), True)
        first = end
    return split.masks


class Threads(NamedTuple):
    """The number of threads, and a `map` that calls a function on them for each element."""

    number: int
    map: Callable[..., Iterator[Any]]


@contextmanager
def threads_of(device: torch.device) -> Iterator[Threads]:
    """Give the number of threads that torch would use on `device`; each torch operation then uses only its caller's.

    The threads of one operation spin while they wait for each other. If other programs use the processors, that takes
    a hundred times as long as the operation itself.
    """
    with _selecting:  # torch has one number of threads for the whole process
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            count = min(before, MAX_THREADS) if device.type == "cpu" else 1
            if count == 1:
                yield Threads(1, map)
            else:
                with ThreadPoolExecutor(count) as pool:
                    yield Threads(count, pool.map)
        finally:
            torch.set_num_threads(before)


def _sample(layers: Sequence[LayerScores], dtype: torch.dtype) -> Tensor:
    """Return every STRIDE-th score of the network, without those that are not candidates."""
    samples, offset = [], 0
    for layer in layers:
        part = slice(-offset % STRIDE, None, STRIDE)  # continue where the layer before ended
        offset += layer.values.numel()
        sample = layer.values[part] if layer.mask is None else layer.values[part][layer.mask[part]]
        samples.append(sample.to(dtype).abs() if layer.absolute else sample.to(dtype))
    return torch.cat(samples)


def _bracket(sample: Tensor, fraction: float, sigmas: float) -> tuple[float, float]:
    """Return two scores that probably enclose the (1 - fraction) quantile of the scores that were sampled."""
    size = sample.numel()
    margin = sigmas * (1 + math.sqrt(size * fraction * (1 - fraction)))
    first, last = size * (1 - fraction) - margin, size * (1 - fraction) + margin  # places in the sorted sample, from 1
    low = sample.kthvalue(math.floor(first)).values.item() if first >= 1 else -math.inf
    high = sample.kthvalue(math.ceil(last)).values.item() if last <= size else math.inf
    return low, high


class _Split(NamedTuple):
    """The scores of a network compared with a bracket: flat `masks` mark the `above` candidates above it.

    `inside`: ascending indices into the whole network of the candidates inside it, and `scores`: their scores. Layer i
    ends before `ends[i]`.
    """

    masks: list[Tensor]
    ends: list[int]
    above: int
    inside: Tensor
    scores: Tensor


def _split(layers: Sequence[LayerScores], dtype: torch.dtype, low: float, high: float, threads: Threads) -> _Split:
    """Compare all scores with a bracket, block by block."""
    device = layers[0].values.device
    masks = [torch.empty(layer.values.numel(), dtype=torch.bool, device=device) for layer in layers]
    ends = list(accumulate(mask.numel() for mask in masks))
    waiting = iter(range(0, ends[-1], BLOCK))  # shared: a free thread takes the next block
    inference = torch.is_inference_mode_enabled()  # like no_grad, it applies to one thread only

    @torch.no_grad()
    def split_blocks(_: int) -> list[tuple[int, int, Tensor, Tensor]]:
        with torch.inference_mode(inference):
            buffers, found = _Buffers.of(dtype, device), []
            for start in waiting:
                pieces = _pieces(ends, start, min(start + BLOCK, ends[-1]))
                buffers.fill(layers, pieces)
                size = pieces[-1].in_block.stop
                if layers[0].absolute and not buffers.scores[:size].amax().item() < math.inf:
                    raise ConfigError(f"weights must be finite, but {_not_finite(layers)} holds NaN or infinity")
                index = buffers.split(size, low, high, masked=layers[0].mask is not None)
                for layer, in_block, in_layer in pieces:
                    masks[layer][in_layer] = buffers.above[in_block]
                found.append((start, count_true(buffers.above[:size]), index + start, buffers.scores[index]))
            return found

    found = sorted(chain(*threads.map(split_blocks, range(threads.number))), key=lambda block: block[0])
    _, above, inside, scores = zip(*found, strict=True)
    return _Split(masks, ends, sum(above), torch.cat(inside), torch.cat(scores))


class _Piece(NamedTuple):
    """The part of a layer that belongs to a block, as slices of the block and of the flat layer."""

    layer: int
    in_block: slice
    in_layer: slice


def _pieces(ends: list[int], start: int, stop: int) -> list[_Piece]:
    """Return the parts of layers that make up the block `start` to `stop`; layer i ends before `ends[i]`."""
    pieces, first = [], start
    for layer in range(bisect_right(ends, start), len(ends)):
        offset, last = ends[layer - 1] if layer else 0, min(stop, ends[layer])
        pieces.append(_Piece(layer, slice(first - start, last - start), slice(first - offset, last - offset)))
        first = last
        if first == stop:
            break
    return pieces


@dataclass(frozen=True, eq=False)
class _Buffers:
    """The buffers of one thread, each of BLOCK elements, reused for every block.

    `fill` sets `scores` and `candidates`; `split` sets `above` and `inside`.
    """

    scores: Tensor
    candidates: Tensor
    above: Tensor
    inside: Tensor

    @staticmethod
    def of(dtype: torch.dtype, device: torch.device) -> _Buffers:
        kinds = (dtype, torch.bool, torch.bool, torch.bool)
        return _Buffers(*(torch.empty(BLOCK, dtype=kind, device=device) for kind in kinds))

    def fill(self, layers: Sequence[LayerScores], pieces: list[_Piece]) -> None:
        """Copy the scores and masks of a block."""
        for index, in_block, in_layer in pieces:
            layer = layers[index]
            values = layer.values[in_layer].to(self.scores.dtype)
            if layer.absolute:
                torch.abs(values, out=self.scores[in_block])
            else:
                self.scores[in_block].copy_(values)
            if layer.mask is not None:
                self.candidates[in_block].copy_(layer.mask[in_layer])

    def split(self, size: int, low: float, high: float, *, masked: bool) -> Tensor:
        """Mark in `above` the candidates above `high`; return the indices of those from `low` to `high`.

        Only the first `size` elements count. Unless `masked`, all of them are candidates.
        """
        scores, above, inside = self.scores[:size], self.above[:size], self.inside[:size]
        _compare(torch.gt, scores, high, above)
        _compare(torch.ge, scores, low, inside)
        if masked:
            above.logical_and_(self.candidates[:size])
            inside.logical_and_(self.candidates[:size])
        return _true_indices(inside.logical_xor_(above))


def _compare(operator: Callable[..., Tensor], scores: Tensor, bound: float, out: Tensor) -> None:
    """Mark in `out` where the scores are above (torch.gt) or at least (torch.ge) the bound."""
    if scores.device.type == "cpu":  # numpy compares into bools four times as fast as torch does
        ufunc = np.greater if operator is torch.gt else np.greater_equal
        ufunc(scores.numpy(), bound, out=out.numpy())
    else:
        operator(scores, bound, out=out)


def _not_finite(layers: Sequence[LayerScores]) -> str:
    return next(layer.name for layer in layers if not layer.values.isfinite().all())


def _true_indices(flags: Tensor) -> Tensor:
    """Return the ascending indices of the few True of a contiguous 1-D bool tensor; it tests eight flags at once."""
    if flags.numel() % 8:
        return flags.nonzero()[:, 0]
    words = flags.view(torch.int64).nonzero()[:, 0]
    row, place = flags.view(-1, 8)[words].nonzero(as_tuple=True)
    return words[row] * 8 + place


def _highest(scores: Tensor, count: int) -> Tensor:
    """Return a bool tensor that marks the `count` highest of 1-D `scores`, of equal ones the first."""
    if count in (0, scores.numel()):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    chosen = scores > threshold
    ties = (scores == threshold).nonzero()[:, 0]
    chosen[ties[: count - int(chosen.count_nonzero())]] = True
    return chosen
