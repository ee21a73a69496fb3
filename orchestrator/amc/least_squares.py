"""Reconstruct outputs: let the channels that stay take over from those that go, by least squares.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1, as AMC uses it:
the weights that read the channels are changed so that the layer's outputs stay as close as they can to those of the
network before. Its inputs X split into those kept, X_k, and those that go, X_r. The outputs are X_k W_k + X_r W_r, so
the best change of W_k is the D that minimises |X_k D - X_r W_r|, which needs only the matrix of products X^T X. That is
measured once for all candidates of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.amc.forward_shapes import padding_of
from orchestrator.layer_kinds import Convolution, TransposedConvolution
from orchestrator.pruning.channels.graph import Kept
from orchestrator.randomness import derive

T = TypeVar("T")
CUTOFF = 1e-10  # of the largest eigenvalue of X^T X: below it, inputs count as combinations of the others


@torch.no_grad()
def input_products(
    module: nn.Module,
    batches: Iterable[T],
    *,
    points: int = 10,
    seed: int = 0,
    call: Callable[[nn.Module, T], object] = lambda module, batch: module(batch),
) -> dict[str, Tensor]:
    """Return X^T X (inputs, inputs) in float64 of each layer that can be reconstructed, by the layer's name.

    These are linear layers and convolutions in one group with zero padding. A row of X is what one output position
    reads: (C,) or (C * kernel,). Of every sample, `points` random positions are taken, or all if they are fewer. The
    module is in evaluation mode meanwhile, and left as it was.
    """
    layers = {part: name for name, part in module.named_modules() if _is_supported(part)}
    products: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name = layers[layer]
        calls[name] = calls.get(name, 0) + 1
        generator = torch.Generator().manual_seed(derive(seed, name, calls[name]))
        rows = sampled_rows(layer, inputs[0], points, generator).double()
        products[name] = products.get(name, 0) + rows.T @ rows

    modes = {part: part.training for part in module.modules()}
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        module.eval()
        for batch in batches:
            call(module, batch)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return products


def _is_supported(layer: nn.Module) -> bool:
    if isinstance(layer, Convolution):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer, TransposedConvolution)
    return isinstance(layer, nn.Linear)


def sampled_rows(layer: Any, inputs: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """Return what some output positions of each sample read, (n * positions, C * kernel): `points`, or all if fewer."""
    if not isinstance(layer, Convolution):
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return rows[:, _positions(rows.shape[1], points, generator)].flatten(0, 1)
    padding = padding_of(layer)
    padded = F.pad(inputs, [places for pair in reversed(padding) for places in pair])
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    sizes = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, layer.stride, strict=True)]
    total = int(torch.tensor(sizes).prod())
    patches = []
    for position in _positions(total, points, generator):
        starts = [int(at) * s for at, s in zip(torch.unravel_index(position, sizes), layer.stride, strict=True)]
        window = [slice(a, a + span, d) for a, span, d in zip(starts, spans, layer.dilation, strict=True)]
        patches.append(padded[(slice(None), slice(None), *window)].flatten(1))
    return torch.stack(patches, 1).flatten(0, 1)


def _positions(total: int, points: int, generator: torch.Generator) -> Tensor:
    return torch.arange(total) if total <= points else torch.randperm(total, generator=generator)[:points]


@torch.no_grad()
def reconstructed(
    weights: Mapping[str, Tensor], products: Mapping[str, Tensor], kept: Kept, base: Kept | None = None
) -> dict[str, Tensor]:
    """Return the weights of the smaller network that change, by name, in its shapes.

    `weights` and `products` are of the network that `base` leaves, `kept` is what stays of it. Only layers that lose
    inputs change.
    """
    changed = {}
    for layer, product in products.items():
        before, after = (base or {}).get(layer, {}), kept.get(layer, {})
        if "in" not in after or after["in"] == before.get("in"):
            continue
        weight = weights[f"{layer}.weight"]
        outputs = _places(after.get("out"), before.get("out"), weight.shape[0])
        inputs = _places(after["in"], before.get("in"), weight.shape[1])
        matrix = weight[outputs].double().reshape(len(outputs), weight.shape[1], -1)
        new = _solved(matrix, product.to(weight.device), inputs)
        changed[f"{layer}.weight"] = new.reshape(len(outputs), len(inputs), *weight.shape[2:]).to(weight.dtype)
    return changed


def _solved(matrix: Tensor, product: Tensor, kept: Tensor) -> Tensor:
    """Return weights (outputs, kept inputs * kernel), from those of all inputs (outputs, inputs, kernel)."""
    outputs, inputs, kernel = matrix.shape
    stays = torch.zeros(inputs, kernel, dtype=torch.bool)
    stays[kept] = True
    stay, go = stays.flatten().nonzero()[:, 0], (~stays).flatten().nonzero()[:, 0]
    flat = matrix.reshape(outputs, -1)
    inverse = torch.linalg.pinv(product[stay][:, stay], rtol=CUTOFF, hermitian=True)
    change: Tensor = inverse @ (product[stay][:, go] @ flat[:, go].T)
    return flat[:, stay] + change.T


def _places(kept: Sequence[int] | None, base: Sequence[int] | None, size: int) -> Tensor:
    """Return where the channels of `kept` are among those of `base`; None means all of `size` channels."""
    if kept is None:
        return torch.arange(size)
    place = {channel: at for at, channel in enumerate(base if base is not None else range(size))}
    return torch.tensor([place[channel] for channel in kept])
