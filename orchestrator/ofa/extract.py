"""Take the network of one architecture out of a supernet: a plain module, with memory of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import Supernet, skeleton, subnet_tensors
from orchestrator.ofa.networks import Part, StagedNetwork


@torch.no_grad()
def extract(supernet: Supernet, architecture: Architecture) -> StagedNetwork:
    """Return the network that `supernet` runs for `architecture`, in the same mode (training or evaluation).

    In evaluation mode it gives the same bits. Raises ConfigError for an architecture outside the supernet's space.
    """
    parts = supernet.parts(architecture)
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in subnet_tensors(supernet.tensors(), parts).items()
    }
    return network_of(parts, architecture.resolution, own).train(supernet.training)


def network_of(parts: Mapping[str, Part], resolution: int | None, tensors: Mapping[str, Tensor]) -> StagedNetwork:
    """Return the network of `parts` with these parameters and buffers themselves, by name; none is initialised."""
    return StagedNetwork({name: _filled(name, part, tensors) for name, part in parts.items()}, resolution)


def _filled(name: str, part: Part, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a module for `part` that holds the tensors of its place."""
    empty = skeleton(part)
    filled: dict[int, object] = {}  # deepcopy takes what is here in the place of a copy
    for inner, tensor in empty.state_dict(keep_vars=True).items():
        own = tensors[f"{name}.{inner}"]
        filled[id(tensor)] = nn.Parameter(own, requires_grad=True) if isinstance(tensor, nn.Parameter) else own
    return copy.deepcopy(empty, filled)
