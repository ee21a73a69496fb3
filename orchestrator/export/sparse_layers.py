"""Compute linear layers and convolutions without their removed weights, by torch's own sparse kernels.

A weight is stored by its rows (CSR) with 32-bit indices: with torch's default of 64 bits the kernels first convert them
at every call. A convolution is a sum of products, one for each place of its kernel, with the pixels below that place.
They need no copy of their own: in a padded picture, whose rows lie one behind the other, they only begin elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SparseRows(nn.Module):
    """Store the nonzero values of a weight (places, out, in), as buffers, which are its state."""

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the format a beta
            compressed = [place.to_sparse_csr() for place in weight.detach()]
        self.size = (int(weight.shape[1]), int(weight.shape[2]))
        self.counts = [int(place.values().numel()) for place in compressed]
        self.register_buffer("rows", torch.stack([place.crow_indices() for place in compressed]).int())
        self.register_buffer("columns", torch.cat([place.col_indices() for place in compressed]).int())
        self.register_buffer("values", torch.cat([place.values() for place in compressed]))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def weights(self) -> Iterator[Tensor]:
        """Yield the weight (out, in) of each place."""
        parts = zip(self.rows, self.columns.split(self.counts), self.values.split(self.counts), strict=True)
        for rows, columns, values in parts:
            yield torch.sparse_csr_tensor(rows, columns, values, self.size, check_invariants=False)

    def start(self, count: int) -> Tensor:
        """Return what products are added to: the bias of each output, (out, count)."""
        made = self.values.new_empty(self.size[0], count)
        return made.zero_() if self.bias is None else made.copy_(self.bias.unsqueeze(1))

    def extra_repr(self) -> str:
        return f"{self.size[1]} -> {self.size[0]}, {self.values.numel()} weights"


class SparseLinear(SparseRows):
    """Compute a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight.unsqueeze(0), layer.bias)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        inputs = x.reshape(-1, self.size[1]).t()
        (weight,) = self.weights()
        return self.start(inputs.shape[1]).addmm_(weight, inputs).t().reshape(*x.shape[:-1], self.size[0])


class SparseConv2d(SparseRows):
    """Compute a convolution of one group."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight.permute(2, 3, 0, 1).flatten(0, 1), layer.bias)
        assert not isinstance(layer.padding, str)
        self.kernel, self.stride, self.padding, self.dilation = (
            (int(pair[0]), int(pair[1])) for pair in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Compute each output pixel where its place is in the padded picture, of every `stride`-th pixel.

        What is computed for pixels between two rows or pictures is left out at the end.
        """
        (height, tall), (width, wide) = (self._sizes(axis, size) for axis, size in enumerate(x.shape[2:]))
        pixels = self._padded(x.transpose(0, 1), tall, wide).contiguous()  # the pictures of a channel behind each other

        @cache
        def every(row: int, column: int) -> Tensor:
            return pixels[:, :, row :: self.stride[0], column :: self.stride[1]].reshape(self.size[1], -1)

        found = self.start(len(x) * tall * wide)
        used = ((len(x) - 1) * tall + height - 1) * wide + width
        for (row, column), weight in zip(product(*map(range, self.kernel)), self.weights(), strict=True):
            down, skipped_rows = divmod(row * self.dilation[0], self.stride[0])
            right, skipped_columns = divmod(column * self.dilation[1], self.stride[1])
            first = down * wide + right
            found[:, :used].addmm_(weight, every(skipped_rows, skipped_columns)[:, first : first + used])
        pictures = found.view(self.size[0], len(x), tall, wide)[:, :, :height, :width]
        return pictures.transpose(0, 1).contiguous()

    def _sizes(self, axis: int, size: int) -> tuple[int, int]:
        """Return the size of an output, and of the part of a padded input that each place of the kernel begins in."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        output = (size + 2 * self.padding[axis] - reach - 1) // self.stride[axis] + 1
        return output, output + reach // self.stride[axis]

    def _padded(self, x: Tensor, tall: int, wide: int) -> Tensor:
        """Return pictures of (tall, wide) times the stride: padded where they begin, padded or cut where they end."""
        above, left = self.padding
        below = tall * self.stride[0] - x.shape[2] - above
        right = wide * self.stride[1] - x.shape[3] - left
        return F.pad(x, (left, right, above, below)) if (left, right, above, below) != (0, 0, 0, 0) else x


def as_sparse(layer: nn.Module) -> SparseRows | None:
    """Return the layer as one that leaves zeros out; None if torch has no such kernel for it."""
    if layer._forward_hooks or layer._forward_pre_hooks or hasattr(layer, "parametrizations"):
        return None
    if type(layer) is nn.Linear and layer.weight.dtype is torch.float32:
        return SparseLinear(layer)
    if type(layer) is nn.Conv2d and layer.weight.dtype is torch.float32:
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return SparseConv2d(layer) if plain else None
    return None
