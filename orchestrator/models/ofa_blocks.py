"""The parts of Once-for-All networks, as plain modules: each takes (n, channels, H, W).

A part knows its multiply-accumulates: `macs(size)` takes the (H, W) of its input and returns them with the (H, W) of
its output. A block whose width is elastic knows its inner channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "h_swish": lambda: nn.Hardswish(inplace=True),
}


class InnerChannels(NamedTuple):
    """Channels that only one block sees: in another order, with its tensors in that order, it is the same function.

    `sides`: each tensor of the block, by name, with the dimension that numbers these channels. `reader` is the weight
    that reads them, along its dimension 1: it says how much each channel matters.
    """

    reader: str
    sides: tuple[tuple[str, int], ...]


class NormedConv(nn.Module):
    """A convolution that keeps the size of the image divided by `stride`, batch norm, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "none",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y

    def macs(self, size: Size) -> tuple[int, Size]:
        height, width = _divided(size, self.conv.stride[0])
        return self.conv.weight.numel() * height * width, (height, width)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of all channels' means (Hu, Shen, Sun 2018), with a quarter of them inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = divisible(channels // 4)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.restore = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.restore(F.relu(self.reduce(means))))


class MobileBlock(nn.Module):
    """Expand to `inner` channels, convolve each of them, project to `outputs`; plus the input where the shapes agree.

    The inverted residual of Sandler et al. 2018, with squeeze-excitation as in MobileNetV3 (Howard et al. 2019). With
    `inner` None there is no expansion.
    """

    def __init__(
        self, inputs: int, inner: int | None, outputs: int, kernel: int, stride: int, activation: str, squeeze: bool
    ) -> None:
        super().__init__()
        self.expand = NormedConv(inputs, inner, activation=activation) if inner else nn.Identity()
        inner = inner or inputs
        self.depthwise = NormedConv(inner, inner, kernel, stride, groups=inner, activation=activation)
        self.squeeze = SqueezeExcitation(inner) if squeeze else nn.Identity()
        self.project = NormedConv(inner, outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.is_residual else y

    def macs(self, size: Size) -> tuple[int, Size]:
        expand = self.expand.macs(size)[0] if isinstance(self.expand, NormedConv) else 0
        depthwise, size = self.depthwise.macs(size)
        squeeze = sum(weight.numel() for weight in self.squeeze.parameters() if weight.dim() == 4)
        return expand + depthwise + squeeze + self.project.macs(size)[0], size

    def inner_channels(self) -> tuple[InnerChannels, ...]:
        if isinstance(self.expand, nn.Identity):
            return ()  # the channels inside are those of the block before
        sides = [*_outputs("expand"), *_outputs("depthwise"), ("project.conv.weight", 1)]
        if isinstance(self.squeeze, nn.Identity):
            return (InnerChannels("project.conv.weight", tuple(sides)),)
        sides += [("squeeze.reduce.weight", 1), ("squeeze.restore.weight", 0), ("squeeze.restore.bias", 0)]
        hidden = (("squeeze.reduce.weight", 0), ("squeeze.reduce.bias", 0), ("squeeze.restore.weight", 1))
        return InnerChannels("project.conv.weight", tuple(sides)), InnerChannels("squeeze.restore.weight", hidden)


class MobileHead(nn.Module):
    """Expand, mean over the image, mix, classify: the end of MobileNetV3, with dropout before the linear layer."""

    def __init__(self, inputs: int, expanded: int, mixed: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.expand = NormedConv(inputs, expanded, activation="h_swish")
        self.mix = nn.Conv2d(expanded, mixed, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(mixed, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.mix(self.expand(x).mean((2, 3), keepdim=True)))
        logits: Tensor = self.classify(self.dropout(y.flatten(1)))
        return logits

    def macs(self, size: Size) -> tuple[int, Size]:
        return self.expand.macs(size)[0] + self.mix.weight.numel() + self.classify.weight.numel(), (1, 1)


class ResidualConv(NormedConv):
    """A 3 x 3 convolution with batch norm and ReLU, plus its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class PooledConv(NormedConv):
    """A 3 x 3 convolution with batch norm and ReLU, then a maximum over 3 x 3 pixels at every second one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 3, stride=2, padding=1)

    def macs(self, size: Size) -> tuple[int, Size]:
        macs, size = super().macs(size)
        return macs, _divided(size, 2)


class Bottleneck(nn.Module):
    """The bottleneck block of ResNet-D (He, Zhang, Zhang, Zhang, Xie, Li 2019): its shortcut averages, then projects.

    `is_first`: the first block of a stage, whose shortcut projects. All others have their input's shape.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, is_first: bool) -> None:
        super().__init__()
        self.reduce = NormedConv(inputs, inner, activation="relu")
        self.convolve = NormedConv(inner, inner, 3, stride, activation="relu")
        self.restore = NormedConv(inner, outputs)
        pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = nn.Sequential(pool, NormedConv(inputs, outputs)) if is_first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.restore(self.convolve(self.reduce(x))) + self.shortcut(x))

    def macs(self, size: Size) -> tuple[int, Size]:
        reduce, _ = self.reduce.macs(size)
        convolve, size = self.convolve.macs(size)
        projected = (layer for layer in self.shortcut.children() if isinstance(layer, NormedConv))
        return reduce + convolve + sum(layer.macs(size)[0] for layer in (self.restore, *projected)), size

    def inner_channels(self) -> tuple[InnerChannels, ...]:
        return (
            InnerChannels("convolve.conv.weight", (*_outputs("reduce"), ("convolve.conv.weight", 1))),
            InnerChannels("restore.conv.weight", (*_outputs("convolve"), ("restore.conv.weight", 1))),
        )


class MeanHead(nn.Module):
    """The mean over the image, then a linear layer."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits

    def macs(self, size: Size) -> tuple[int, Size]:
        return self.classify.weight.numel(), (1, 1)


def divisible(width: float, by: int = 8) -> int:
    """Return the multiple of `by` nearest to `width`, and not below 90 % of it (the rule of MobileNetV2's authors)."""
    nearest = max(by, int(width + by / 2) // by * by)
    return nearest if nearest >= 0.9 * width else nearest + by


def _divided(size: Size, stride: int) -> Size:
    """Return the size of every `stride`-th pixel of an image, the first included."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _outputs(layer: str) -> list[tuple[str, int]]:
    """Return the sides of the output channels of a `NormedConv`."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return [(f"{layer}.conv.weight", 0), *((f"{layer}.norm.{name}", 0) for name in norm)]
