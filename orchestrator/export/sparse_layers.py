"""Compute linear layers and convolutions without their removed weights, by torch's own sparse kernels.

The weight (out, places of the kernel * in) is stored by its rows (CSR) with 32-bit indices: with torch's default of 64
bits the kernels first convert them at every call. A convolution is a product with the pixels below each place.
"""

from __future__ import annotations

import warnings
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.private_apis import has_forward_hooks

WIDE = 128  # columns from which on torch's own kernel is faster than MKL's


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

    @torch.no_grad()
    def product(self, columns: Tensor) -> Tensor:
        """Return weight @ `columns` + bias, (out, n) for (in, n)."""
        weight = torch.sparse_csr_tensor(self.rows, self.columns, self.values, self.size, check_invariants=False)
        if columns.shape[1] >= WIDE:
            found: Tensor = torch.sparse.mm(weight, columns, "sum")  # the reduction chooses torch's own kernel
            return found if self.bias is None else found.add_(self.bias.unsqueeze(1))
        return weight @ columns if self.bias is None else torch.addmm(self.bias.unsqueeze(1), weight, columns)

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
        super().__init__(layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias)
        assert not isinstance(layer.padding, str)
        self.kernel, self.stride, self.padding, self.dilation = (
            (int(pair[0]), int(pair[1])) for pair in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )

    def forward(self, x: Tensor) -> Tensor:
        pixels = self._pixels(x.transpose(0, 1))
        found = self.product(pixels.reshape(self.size[1], -1)).view(self.size[0], *pixels.shape[1:])
        return found.transpose(0, 1).contiguous()

    def _pixels(self, x: Tensor) -> Tensor:
        """Return the pixels (places * in, n, height, width) below each place of the kernel, of (in, n, ...).

        They are copied place by place, which is faster than `unfold`; the only place of a 1x1 kernel is a view.
        """
        down, right = self.padding
        if down or right:
            x = F.pad(x, (right, right, down, down))
        reach = [dilation * (kernel - 1) for dilation, kernel in zip(self.dilation, self.kernel, strict=True)]
        height, width = x.shape[2] - reach[0], x.shape[3] - reach[1]
        starts = product(*(range(0, end + 1, dilation) for end, dilation in zip(reach, self.dilation, strict=True)))
        places = [
            x[:, :, row : row + height : self.stride[0], column : column + width : self.stride[1]]
            for row, column in starts
        ]
        return torch.cat(places) if len(places) > 1 else places[0]


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
