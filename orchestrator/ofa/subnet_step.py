"""The gradients of one step of a supernet: those of several of its networks on the same images, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import Supernet

Loss = Callable[[Tensor, Tensor], Tensor]


def add_gradients(
    supernet: Supernet,
    architectures: Sequence[Architecture],
    images: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    teacher: nn.Module | None = None,
    in_place: bool = False,
) -> Tensor:
    """Add the mean of the gradients of these networks to `grad` of the parameters; return the mean of their losses.

    `loss` takes logits and `targets` and returns a scalar. With `teacher`, which is put into evaluation mode, the soft
    cross-entropy to its outputs is added (Cai et al. 2020, section 3.3). With `in_place`, the first network learns
    from the targets, and the others only from its outputs (Yu et al. 2020, section 3.2). A parameter that no network
    used has a gradient of zeros, not None: what a step does to it does not depend on the number of workers.
    """
    if teacher is not None and in_place:
        raise ValueError("a step has one teacher: another network, or its own first one in place")
    total = images.new_zeros(())
    taught: dict[int | None, Tensor] = {}  # what the teacher says of images of each resolution
    first = None
    for architecture in architectures:
        seen = resized(images, architecture.resolution)
        outputs = supernet(seen, architecture)
        value = loss(outputs, targets) if first is None else soft_cross_entropy(outputs, first)
        if in_place and first is None:
            first = outputs.detach()
        if teacher is not None:
            if architecture.resolution not in taught:
                taught[architecture.resolution] = _answers(teacher, seen)
            value = value + soft_cross_entropy(outputs, taught[architecture.resolution])
        value = value / len(architectures)
        value.backward()
        total += value.detach()
    for parameter in supernet.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return total


def soft_cross_entropy(outputs: Tensor, soft: Tensor) -> Tensor:
    """Return the mean over the batch of the cross-entropy of `outputs` to the softmax of `soft`, both (n, classes)."""
    return F.cross_entropy(outputs, soft.softmax(1))


def resized(images: Tensor, resolution: int | None) -> Tensor:
    """Return `images` (n, channels, H, W) with H = W = `resolution`; None: as they are."""
    if resolution is None or images.shape[-2:] == (resolution, resolution):
        return images
    return F.interpolate(images, (resolution, resolution), mode="bilinear", antialias=True)


@torch.no_grad()
def _answers(teacher: nn.Module, images: Tensor) -> Tensor:
    outputs: Tensor = teacher.eval()(images)
    return outputs
