"""Apply the masks of a round in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.private_apis import multiply_each
from orchestrator.train_state import Tensors


class Masked:
    """Hold the masks of a round beside their weights, in the weights' own dtype, device and memory layout."""

    def __init__(self, module: nn.Module, masks: Tensors) -> None:
        parameters = dict(module.named_parameters())
        self._weights: list[Tensor] = [parameters[name] for name in masks]
        with torch.no_grad():
            self._masks = [
                torch.empty_like(weight).copy_(mask) for weight, mask in zip(self._weights, masks.values(), strict=True)
            ]

    def mask_gradients(self) -> None:
        """Set the gradients of removed weights to zero. A weight that took no part in the loss has no gradient."""
        pairs = [(w.grad, mask) for w, mask in zip(self._weights, self._masks, strict=True) if w.grad is not None]
        if pairs:
            multiply_each([gradient for gradient, _ in pairs], tuple(mask for _, mask in pairs))

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Set the removed weights to zero."""
        if self._masks:
            multiply_each(self._weights, tuple(self._masks))
