"""Average a network exponentially during a round (see `TrainingConfig.ema` for what uses the average)."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from orchestrator.private_apis import lerp_each


def decay_at(step: int, decay: float) -> float:
    """Return the decay after step 0, 1, ... of a round: lower at first, so that the start soon counts little.

    TensorFlow's ExponentialMovingAverage computes it so if it gets `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """Keep a second network, `module`, whose tensors are the averages of those of `source`.

    Parameters and floating-point buffers are averaged, other buffers copied. A weight that is always 0 in `source` is 0
    in the average.
    """

    def __init__(self, module: nn.Module, source: nn.Module, decay: float) -> None:
        self.module, self._decay = module, decay
        pairs = list(zip(_tensors(module), _tensors(source), strict=True))
        with torch.no_grad():
            for mine, theirs in pairs:
                mine.copy_(theirs)
        self._averaged = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._copied = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the tensors of `source` to the average, after step 0, 1, ... of the round."""
        mine, theirs = zip(*self._averaged, strict=True)
        lerp_each(mine, theirs, 1 - decay_at(step, self._decay))
        for copy, original in self._copied:
            copy.copy_(original)


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(chain(module.parameters(), module.buffers()))
