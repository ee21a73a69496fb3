"""Take the network of one architecture out of a supernet: a plain module, with memory of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.models.ofa_networks import Part, StagedNetwork
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import Supernet, skeleton, subnet_tensors
from orchestrator.private_apis import copy_with


@torch.no_grad()
def extract(supernet: Supernet, architecture: Architecture) -> StagedNetwork:
    """Return the network that `supernet` runs for `architecture`, in the same mode (training or evaluation).

    In evaluation mode it gives the same bits. Raises ConfigError for an architecture outside the supernet's space.
    """
    parts = supernet.parts(architecture)
    # `clone` keeps the order of dimensions in memory, which decides the kernel of a convolution and so the last bits.
    own = {name: tensor.clone() for name, tensor in subnet_tensors(supernet.tensors(), parts).items()}
    return network_of(parts, architecture.resolution, own).train(supernet.training)


def network_of(parts: Mapping[str, Part], resolution: int | None, tensors: Mapping[str, Tensor]) -> StagedNetwork:
    """Return the network of `parts` with these parameters and buffers themselves, by name; none is initialised."""
    filled = {name: copy_with(skeleton(part), name, tensors) for name, part in parts.items()}
    return StagedNetwork(filled, resolution)
