"""Supernets for tests: small, and with random values in every tensor, so that no two of them are alike."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from orchestrator.models.ofa_networks import ImageArguments
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.elastic import Supernet
from orchestrator.ofa.spaces import Space, find_space
from orchestrator.ofa.stage import ElasticStage

SMALL = find_space("small")
# The blocks of ResNet-50-D, but few and narrow.
TINY_RESNET = Space(
    "tiny resnet",
    "resnet50d",
    (
        ElasticStage((0, 1), widths=(0.25, 0.5)),
        ElasticStage((0,), widths=(0.25, 0.5)),
        *(ElasticStage((1, 2), expands=(0.2, 0.25, 0.35), widths=(0.05, 0.1)) for _ in range(4)),
    ),
)


@torch.no_grad()
def random_supernet(space: Space = SMALL, channels: int = 1, seed: int = 0) -> Supernet:
    """Return a supernet in evaluation mode; its weights, matrices and statistics are random."""
    torch.manual_seed(seed)
    supernet = Supernet(space, ImageArguments(10, (channels, 8, 8))).eval()
    for name, tensor in supernet.state_dict(keep_vars=True).items():
        if name.startswith("kernels"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var") or ".norm.weight" in name:
            tensor.uniform_(0.5, 2)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(std=0.3)
    return supernet


def digits(count: int = 4, size: int = 8, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def each_stage_once(space: Space = SMALL) -> Iterator[Architecture]:
    """Yield architectures in which every choice of every stage occurs, the other stages being the largest."""
    stages = space.largest().stages
    for place, elastic in enumerate(space.stages):
        for choice in elastic.enumerate():
            yield Architecture(space.family, (*stages[:place], choice, *stages[place + 1 :]))
