"""Compute linear layers and convolutions without their removed weights, by torch's own sparse kernels.

The weight (C_out, C_in * kernel) is stored by its rows (CSR) with 32-bit indices: with torch's default of 64 bits the
kernels first convert them at every call. A convolution is a product with the pixels below each place of its kernel.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.private_apis import has_forward_hooks


class SparseRows(nn.Module):
    """Store the nonzero values of a weight (out, in), as buffers, which are its state."""

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the format a beta
            compressed = weight.detach().to_sparse_csr()
        self.size = (int(weight.shape[0]), int(weight.shape[1]))
        self.register_buffer("rows", compressed.crow_indices().int())
        self.register_buffer("columns", compressed.col_indices().int())
        self.register_buffer("values", compressed.values())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def product(self, columns: Tensor) -> Tensor:
        """Return weight @ `columns` + bias, (out, n) for (in, n)."""
        weight = torch.sparse_csr_tensor(self.rows, self.columns, self.values, self.size, check_invariants=False)
        if self.bias is None:
            return weight @ columns
        return torch.addmm(self.bias.unsqueeze(1), weight, columns)

    def extra_repr(self) -> str:
        return f"{self.size[1]} -> {self.size[0]}, {self.values.numel()} weights"


class SparseLinear(SparseRows):
    """Compute a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.reshape(-1, self.size[1]).t()).t().reshape(*x.shape[:-1], self.size[0])


class SparseConv2d(SparseRows):
    """Compute a convolution of one group."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight.flatten(1), layer.bias)
        assert not isinstance(layer.padding, str)
        self.kernel, self.stride, self.padding, self.dilation = (
            (int(pair[0]), int(pair[1])) for pair in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == (1, 1) and self.padding == (0, 0):
            pixels = x[:, :, :: self.stride[0], :: self.stride[1]]
            height, width = pixels.shape[2:]
            pixels = pixels.flatten(2)
        else:
            height, width = (
                (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
                for size, kernel, stride, padding, dilation in zip(
                    x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
                )
            )
            pixels = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        if len(x) == 1:  # without a copy
            return self.product(pixels[0]).view(1, -1, height, width)
        together = self.product(pixels.transpose(0, 1).flatten(1))
        return together.view(self.size[0], len(x), height, width).transpose(0, 1).contiguous()


def as_sparse(layer: nn.Module) -> SparseRows | None:
    """Return the layer as one that leaves zeros out; None if torch has no such kernel for it."""
    if has_forward_hooks(layer) or hasattr(layer, "parametrizations"):
        return None
    if type(layer) is nn.Linear and layer.weight.dtype is torch.float32:
        return SparseLinear(layer)
    if type(layer) is nn.Conv2d and layer.weight.dtype is torch.float32:
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return SparseConv2d(layer) if plain else None
    return None
