"""Measure a smaller network's batch norm statistics on calibration data (EagleEye, Li et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.layer_kinds import BatchNorm
from orchestrator.modules import copy_module

T = TypeVar("T")


class Moments:
    """Mean and variance by channel of all values seen, whatever batches they came in, which are added in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.tensor(0.0)
        self._squares: Tensor = torch.tensor(0.0)  # of the distances to the mean

    def add(self, values: Tensor) -> None:
        """Take in values (n, C, ...). Chan, Golub, LeVeque, "Updating formulae", 1979."""
        whole = values.detach() if values.dtype == torch.float64 else values.detach().float()
        places = [side for side in range(whole.dim()) if side != 1]
        spread, centre = torch.var_mean(whole, places, correction=0)
        count = whole.numel() // whole.shape[1]
        mean, squares = centre.double(), spread.double() * count
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            return
        total, distance = self.count + count, mean - self.mean
        self._squares = self._squares + squares + distance.square() * (self.count * count / total)
        self.mean = self.mean + distance * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Variance (C,) with the divisor n - 1, as batch norm stores it."""
        return self._squares / max(self.count - 1, 1)


@torch.no_grad()
def recalibrated(
    module: nn.Module,
    batches: Iterable[T],
    call: Callable[[nn.Module, T], object] = lambda module, batch: module(batch),
) -> nn.Module:
    """Return a copy of `module` in evaluation mode, whose batch norms hold the statistics of `batches`.

    Each batch norm normalises by its batch meanwhile, as in training, and gets the mean and variance of all its inputs
    together. Those of the first are the same however the data are batched; inputs of later ones depend on the batches
    a little. `call` runs the module on one batch. Raises ConfigError without a batch.
    """
    copied = copy_module(module).eval()
    norms = [part for part in copied.modules() if isinstance(part, BatchNorm) and part.running_mean is not None]
    moments = {norm: Moments() for norm in norms}
    hooks = [norm.register_forward_pre_hook(partial(_see, moments)) for norm in norms]
    before = {norm: {name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms}
    try:
        for norm in norms:
            norm.train()
        for batch in batches:
            call(copied, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if norms and not any(seen.count for seen in moments.values()):
        raise ConfigError("calibration needs at least one batch of data that reaches batch norm, got none")
    for norm in norms:
        for name, buffer in norm.named_buffers():
            buffer.copy_(before[norm][name])
        if moments[norm].count:
            norm.running_mean.copy_(moments[norm].mean)  # type: ignore[union-attr]
            norm.running_var.copy_(moments[norm].variance)  # type: ignore[union-attr]
    return copied.eval()


def _see(moments: dict[Any, Moments], norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments[norm].add(inputs[0])
