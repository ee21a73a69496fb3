"""One network that holds all networks of a space: each is cut out of the largest one's tensors, from the first on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.models.ofa_networks import ImageArguments, Part, build_network, chain, resized
from orchestrator.ofa.architecture import Architecture
from orchestrator.ofa.spaces import Space
from orchestrator.private_apis import tensor_stores


class KernelMatrices(nn.Module):
    """Make a smaller kernel of the centre of a larger one: 7 to 5, then 5 to 3, each times a matrix of its own.

    A matrix is shared over all channels of its layer (Cai et al. 2020, section 3.3). What is stored is its difference
    from the identity: at first a small kernel is the centre of the large one.
    """

    is_normalisation = True  # its weights are never pruned
    decays = False  # nor decayed

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        for size in sizes[:-1]:
            self.register_parameter(f"to_{size}", nn.Parameter(torch.zeros(size**2, size**2)))

    def forward(self, weight: Tensor, size: int) -> Tensor:
        """Return `weight` (outputs, inputs, k, k) as (outputs, inputs, size, size)."""
        return smaller_kernel(weight, size, dict(self.named_parameters()), "")


class Supernet(nn.Module):
    """The largest network of `space`, whose tensors all smaller ones share, and the matrices of its kernels.

    A smaller network has the first blocks of each stage, and the first channels of each tensor. Running statistics of
    batch norm are shared too: they fit none of the networks until they are measured for one. `network`: the largest
    one as a plain module; None: a new one.
    """

    def __init__(self, space: Space, arguments: ImageArguments, network: nn.Module | None = None) -> None:
        super().__init__()
        self.space, self.arguments = space, arguments
        self.network = network or build_network(space.largest(), arguments)
        self.kernels = nn.ModuleDict()
        for place, stage in enumerate(space.stages):
            for name, weight in self.network.get_submodule(f"stages.{place}").named_parameters(f"stages.{place}"):
                if len(stage.kernels) > 1 and weight.dim() == 4 and weight.shape[-1] == stage.kernels[-1]:
                    self.kernels[_key(name)] = KernelMatrices(stage.kernels)

    def forward(self, x: Tensor, architecture: Architecture | None = None) -> Tensor:
        """Return the logits (n, classes) that the network of `architecture` gives; None: the largest.

        Raises ConfigError for an architecture outside the space.
        """
        architecture = self.space.largest() if architecture is None else architecture
        tensors, x = self.tensors(), resized(x, architecture.resolution)
        for name, part in self.parts(architecture).items():
            module = skeleton(part)
            if module.training != self.training:
                module.train(self.training)
            x = _run(part, module, part_tensors(tensors, name, part), x)
        return x

    def parts(self, architecture: Architecture) -> dict[str, Part]:
        """Return the parts of an architecture's network. Raise ConfigError if it is outside the space."""
        return chain(self.space.check(architecture), self.arguments)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name; gradients flow back to them."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


def subnet_tensors(tensors: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Return the parameters and buffers of the network of `parts`, by name, cut from the `tensors` of a supernet."""
    return {
        f"{name}.{inner}": tensor
        for name, part in parts.items()
        for inner, tensor in part_tensors(tensors, name, part).items()
    }


def part_tensors(tensors: Mapping[str, Tensor], name: str, part: Part) -> dict[str, Tensor]:
    """Return the parameters and buffers of one part, named `name` in its network."""
    return {inner: _first(tensors, full, shape) for inner, full, shape in _places(name, part)}


@lru_cache(maxsize=8192)
def _places(name: str, part: Part) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Return the name of each tensor in the part and in the network, and its shape."""
    return tuple((inner, f"{name}.{inner}", shape) for inner, shape in tensor_shapes(part).items())


def _first(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the first channels of a tensor, with a kernel of the size that `shape` wants."""
    tensor = tensors["network." + name]
    if tensor.shape == shape:
        return tensor
    for side, size in enumerate(shape[:2]):
        if tensor.shape[side] != size:
            tensor = tensor.narrow(side, 0, size)
    return tensor if tensor.shape == shape else smaller_kernel(tensor, shape[-1], tensors, f"kernels.{_key(name)}.")


def smaller_kernel(weight: Tensor, size: int, matrices: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Return `weight` (outputs, inputs, k, k) as (outputs, inputs, size, size), by `matrices` of these names."""
    for smaller in range(weight.shape[-1] - 2, size - 1, -2):
        if (matrix := matrices.get(f"{prefix}to_{smaller}")) is not None:
            edge = (weight.shape[-1] - smaller) // 2
            centre = weight[:, :, edge : edge + smaller, edge : edge + smaller]
            flat = centre.reshape(-1, smaller**2)
            with _as_they_are(flat):
                weight = (flat + flat @ matrix.T).view(centre.shape)
    return weight


def _as_they_are(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which weights are computed in their own precision, as they are when a network is extracted.

    Autocast would round them once more, to bfloat16.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _run(part: Part, module: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return what `module`, the skeleton of `part`, makes of `x` with `tensors` in the place of its own.

    As `torch.func.functional_call`, which looks through the module each time: a twentieth of a step of small networks.
    """
    slots = _slots(part)
    empty = [store[attribute] for _, store, attribute in slots]
    try:
        for name, store, attribute in slots:
            store[attribute] = tensors[name]
        outputs: Tensor = module(x)
        return outputs
    finally:
        for (_, store, attribute), tensor in zip(slots, empty, strict=True):
            store[attribute] = tensor


@lru_cache(maxsize=8192)
def _slots(part: Part) -> list[tuple[str, dict[str, Any], str]]:
    """Return where the skeleton of `part` holds each parameter and buffer: the dictionary, and the name in it."""
    found = []
    for prefix, owner in skeleton(part).named_modules():
        for store in tensor_stores(owner):
            found += [
                (f"{prefix}.{name}" if prefix else name, store, name)
                for name, each in store.items()
                if each is not None
            ]
    return found


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
