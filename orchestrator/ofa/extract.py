"""Take the network of one architecture out of a supernet: a plain module, with memory of its own."""

from __future__ import annotations

import torch

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import Supernet, subnet_tensors
from orchestrator.ofa.networks import StagedNetwork


@torch.no_grad()
def extract(supernet: Supernet, architecture: Architecture) -> StagedNetwork:
    """Return the network that `supernet` runs for `architecture`, in the same mode (training or evaluation).

    In evaluation mode it gives the same bits. Raises ConfigError for an architecture outside the supernet's space.
    """
    with torch.device("meta"):
        network = StagedNetwork(parts := supernet.parts(architecture), architecture.resolution)
    tensors = subnet_tensors(supernet.tensors(), parts)
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    network.load_state_dict(own, assign=True)
    return network.train(supernet.training)
