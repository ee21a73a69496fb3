"""Define the residual networks for small images of He, Zhang, Ren, Sun, "Deep Residual Learning" (2016), sec. 4.2."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.validate import one_of, whole

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
Shortcut = Literal["projection", "padding"]


class CifarResNet(nn.Module):
    """A convolution, three stages of `(depth - 2) / 6` blocks with 1, 2 and 4 times `width` channels, a linear layer.

    `shortcut` is the shortcut of a block that halves the image: a strided 1 x 1 convolution ("projection", the paper's
    option B, as in the experiments of Renda et al.), or the strided image with zero channels ("padding", option A,
    without weights). ResNet-20 of width 16 for 3 channels and 10 classes has 270,896 or 268,336 prunable weights.
    Raises ConfigError for an unknown depth or shortcut, or a width below 1.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        input_shape: tuple[int, int, int],
        width: int = 16,
        shortcut: Shortcut = "projection",
    ) -> None:
        one_of("depth", depth, DEPTHS)
        whole("width", width, minimum=1)
        one_of("shortcut", shortcut, ["projection", "padding"])
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(input_shape[0], width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(_Block(width) for _ in range(blocks)))
        self.layer2 = nn.Sequential(_Block(width, shortcut), *(_Block(2 * width) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(_Block(2 * width, shortcut), *(_Block(4 * width) for _ in range(blocks - 1)))
        self.fc = nn.Linear(4 * width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, H, W) to logits (n, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; a `shortcut` kind halves the image and doubles the channels."""

    def __init__(self, channels: int, shortcut: Shortcut | None = None) -> None:
        super().__init__()
        stride, out = (2, 2 * channels) if shortcut else (1, channels)
        self.conv1 = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "projection":
            conv = nn.Conv2d(channels, out, kernel_size=1, stride=2, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out))
        elif shortcut == "padding":
            self.shortcut = _Padding(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class _Padding(nn.Module):
    """Take every second row and column, and add zero channels: (n, C, H, W) to (n, 2 C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.amount = (0, 0, 0, 0, channels // 2, channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.amount)
