"""One network that holds all networks of a space: each is cut out of the largest one's tensors, from the first on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.networks import Part, build_network, chain
from orchestrator.ofa.spaces import Space


class KernelMatrices(nn.Module):
    """Make a smaller kernel of the centre of a larger one: 7 to 5, then 5 to 3, each times a matrix of its own.

    A matrix is shared over all channels of its layer (Cai et al. 2020, section 3.3). What is stored is its difference
    from the identity: at first a small kernel is the centre of the large one, and a decay pulls it back there.
    """

    is_normalisation = True  # no weight decay, where that of normalisation layers is switched off

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes[::-1]
        for size in sizes[:-1]:
            self.register_parameter(f"to_{size}", nn.Parameter(torch.zeros(size**2, size**2)))

    def forward(self, weight: Tensor, size: int) -> Tensor:
        """Return `weight` (outputs, inputs, k, k) as (outputs, inputs, size, size)."""
        for smaller in self.sizes:
            if size <= smaller < weight.shape[-1]:
                edge = (weight.shape[-1] - smaller) // 2
                centre = weight[:, :, edge : edge + smaller, edge : edge + smaller]
                flat = centre.reshape(-1, smaller**2)
                change = flat @ self.get_parameter(f"to_{smaller}").T
                weight = (flat + change).view(centre.shape)
        return weight


class Supernet(nn.Module):
    """The largest network of `space`, whose tensors all smaller ones share, and the matrices of its kernels.

    A smaller network has the first blocks of each stage, and the first channels of each tensor. Running statistics of
    batch norm are shared too: they fit none of the networks until they are measured for one. `network` is the largest
    one as a plain module, so that a trained one can be loaded into it.
    """

    def __init__(self, space: Space, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.space, self.num_classes, self.channels = space, num_classes, channels
        self.network = build_network(space.largest(), num_classes=num_classes, channels=channels)
        self.kernels = nn.ModuleDict()
        for place, stage in enumerate(space.stages):
            for name, weight in self.network.stages[place].named_parameters(f"stages.{place}"):
                if len(stage.kernels) > 1 and weight.dim() == 4 and weight.shape[-1] == stage.kernels[-1]:
                    self.kernels[_key(name)] = KernelMatrices(stage.kernels)

    def forward(self, images: Tensor, architecture: Architecture | None = None) -> Tensor:
        """Return the logits (n, num_classes) that the network of `architecture` gives; None: the largest.

        Raises ConfigError for an architecture outside the space.
        """
        tensors = self._tensors()
        for name, part in self.parts(architecture or self.space.largest()).items():
            module = skeleton(part).train(self.training)
            images = functional_call(module, self._cut(tensors, name, part), (images,), tie_weights=False)
        return images

    def parts(self, architecture: Architecture) -> dict[str, Part]:
        """Return the parts of an architecture's network. Raise ConfigError if it is outside the space."""
        return chain(self.space.check(architecture), self.num_classes, self.channels)

    def subnet_tensors(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return the parameters and buffers of an architecture's network, by name, cut from this network's.

        Gradients flow back through them. Raises ConfigError for an architecture outside the space.
        """
        tensors = self._tensors()
        return {
            f"{name}.{inner}": tensor
            for name, part in self.parts(architecture).items()
            for inner, tensor in self._cut(tensors, name, part).items()
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}

    def _cut(self, tensors: Mapping[str, Tensor], name: str, part: Part) -> dict[str, Tensor]:
        return {
            inner: self._first(f"{name}.{inner}", tensors[f"{name}.{inner}"], shape)
            for inner, shape in tensor_shapes(part).items()
        }

    def _first(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the first channels of `tensor`, with a kernel of the size that `shape` wants."""
        for side, size in enumerate(shape[:2]):
            if tensor.shape[side] != size:
                tensor = tensor.narrow(side, 0, size)
        if tensor.shape != shape:
            tensor = self.kernels[_key(name)](tensor, shape[-1])
        return tensor


@lru_cache(maxsize=8192)
def skeleton(part: Part) -> nn.Module:
    """Return a module for `part` whose tensors have shapes, but no memory."""
    with torch.device("meta"):
        return part.build()


@lru_cache(maxsize=8192)
def tensor_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and buffer of `part`, by name."""
    return {name: tuple(tensor.shape) for name, tensor in skeleton(part).state_dict().items()}


def _key(name: str) -> str:
    return name.removesuffix(".conv.weight").replace(".", "_")
