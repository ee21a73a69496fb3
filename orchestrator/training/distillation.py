"""Define knowledge distillation: the dense network teaches the pruned ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.validate import finite, fraction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Distillation:
    """Have the dense round teach every later round (Hinton, Vinyals and Dean 2015, sections 2 and 2.1).

    The loss of a later round is (1 - weight) * task loss + weight * temperature^2 * divergence, which the task
    computes: for a classifier KL(teacher || student) over softmax(logits / temperature). The teacher is the whole dense
    network as round 0 left it, in evaluation mode. It sees the batch that the student sees, augmentation included.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        fraction("Distillation.weight", self.weight, one=True)
        finite("Distillation.temperature", self.temperature, above=0)

    def mixed(self, loss: Tensor, divergence: Tensor) -> Tensor:
        """Return the loss of a batch from the task's own loss and the divergence, both sums over the batch."""
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence
