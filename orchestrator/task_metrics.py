"""Define the metrics of the built-in tasks: with torchmetrics' methods that are needed here, and a faster import.

Sums are kept in float64 and added up over the workers when the value is asked for, so that each sample counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from orchestrator.training import collectives
else:
    torch, collectives = lazy("torch"), lazy("orchestrator.training.collectives")


class Ratio:
    """A sum divided by a count. A subclass says what one batch adds to both, in `update`.

    `is_fraction`: whether values are written in per cent.
    """

    higher_is_better: bool | None = True
    is_fraction = False

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def to(self, device: torch.device) -> Ratio:
        """Keep the sums on `device`."""
        self._sums = self._sums.to(device)
        return self

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: the model's outputs, and the targets."""
        raise NotImplementedError

    def add(self, part: Tensor, count: Tensor | int) -> None:
        """Add to the sum and to the count."""
        self._sums[0] += part.detach()
        self._sums[1] += count

    def compute(self) -> Tensor:
        """Return the ratio over all workers; every worker must call it. NaN where nothing was counted."""
        total = collectives.sum_over_workers(self._sums.clone())
        return self.finish(total[0] / total[1])

    def finish(self, ratio: Tensor) -> Tensor:
        """Turn the ratio into the metric's value."""
        return ratio


class Accuracy(Ratio):
    """The fraction of targets, other than `ignore`, whose class has the highest logit along dimension `dim`."""

    is_fraction = True

    def __init__(self, dim: int = 1, ignore: int | None = None) -> None:
        super().__init__()
        self._dim, self._ignore = dim, ignore

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        targets = targets.long()  # of 8 bits, 156 would equal -100
        right = outputs.argmax(dim=self._dim) == targets
        if self._ignore is None:
            self.add(right.sum(), targets.numel())
        else:
            counted = targets != self._ignore
            self.add((right & counted).sum(), counted.sum())


class MeanAbsoluteError(Ratio):
    """The mean of |output - target| over all values."""

    higher_is_better = False

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.add(_error(outputs, targets).abs().sum(), targets.numel())


class RootMeanSquaredError(Ratio):
    """The root of the mean of (output - target)^2 over all values."""

    higher_is_better = False

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.add(_error(outputs, targets).square().sum(), targets.numel())

    def finish(self, ratio: Tensor) -> Tensor:
        return ratio.sqrt()


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return output - target. Outputs (n, 1) take the shape (n,) of their targets, which broadcasting would mix up."""
    return outputs.double().reshape(targets.shape) - targets.double()
