"""Knowledge distillation: the dense network teaches the pruned ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from orchestrator.validate import finite, fraction


@dataclass(frozen=True)
class Distillation:
    """Have the dense round teach every later round (Hinton, Vinyals and Dean 2015, sections 2 and 2.1).

    The loss of a later round is (1 - weight) * task loss + weight * temperature^2 * KL(teacher || student) over
    softmax(logits / temperature). The teacher is the whole dense network as round 0 left it, in evaluation mode. It
    sees the batch that the student sees, augmentation included.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        fraction("Distillation.weight", self.weight, one=True)
        finite("Distillation.temperature", self.temperature, above=0)

    def loss(self, task_loss: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of a batch from `task_loss`, a sum over the batch, and logits of shape (n, classes, ...)."""
        log_student = F.log_softmax(student.float() / self.temperature, dim=1)
        log_teacher = F.log_softmax(teacher.float() / self.temperature, dim=1)
        divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        return (1 - self.weight) * task_loss + self.weight * self.temperature**2 * divergence
