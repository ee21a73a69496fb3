"""Small networks whose channels are chained, added, concatenated, filtered one by one, and mixed by attention."""

from __future__ import annotations

import functools

import torch
from torch import nn

from orchestrator.models.build import build_model
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.channels.trace import trace_channels

SHAPE = (1, 8, 8)


class Chain(nn.Sequential):
    """Three convolutions of 8, 16 and 24 channels, and a classifier."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 10),
        )


class Joined(nn.Module):
    """Features side by side, read by a norm over both; then flattened, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.norm, self.conv3 = nn.BatchNorm2d(28), nn.Conv2d(28, 16, 3, stride=2)
        self.hidden, self.fc = nn.Linear(16 * 9, 32), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.conv1(images)
        both = torch.cat([first, self.conv2(torch.relu(first))], dim=1)
        features = torch.relu(self.conv3(torch.relu(self.norm(both))))
        return self.fc(torch.relu(self.hidden(features.flatten(1))))


class Depthwise(nn.Module):
    """An inverted residual: widen, filter each channel by itself, narrow, and add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.widen = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 24, 1)
        self.depthwise, self.narrow = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 8, 1)
        self.norm, self.fc = nn.BatchNorm2d(24), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        wide = torch.relu(self.norm(self.depthwise(torch.relu(self.widen(features)))))
        return self.fc((features + self.narrow(wide)).mean((2, 3)))


class Attention(nn.Module):
    """Convolutions, attention over their pixels, whose channels stay, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.widen = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden, self.fc = nn.Linear(16, 24), nn.Linear(24, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.widen(torch.relu(self.stem(images))).flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0] + tokens
        return self.fc(torch.relu(self.hidden(mixed)).mean(1))


def residual() -> nn.Module:
    return build_model("resnet8", {"width": 8}, {"num_classes": 10, "input_shape": SHAPE}, seed=0)


NETWORKS = {
    "chain": Chain,
    "residual": residual,
    "concatenating": Joined,
    "depthwise": Depthwise,
    "attention": Attention,
}


@functools.cache
def traced(name: str) -> tuple[nn.Module, ChannelGraph, dict[str, int]]:
    """Return a network in evaluation mode, its graph, and the elements of its prunable weights."""
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    prunable = {name: weight.numel() for name, weight in module.named_parameters() if weight.dim() > 1}
    return module, trace_channels(module, torch.zeros(1, *SHAPE)), prunable
