"""Describe a convolution or a linear layer. Imports nothing heavy: a process that measures times reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerShape:
    """A convolution or a linear layer for one sample.

    `size`: spatial extent of its input, (h, w) for 2-D; () for a linear layer. `kernel`, `stride`, `dilation` and
    `padding` (before, after) have one entry for each spatial dimension. `rows`: how often a linear layer is applied.
    """

    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1
    transposed: bool = False
    rows: int = 1
