"""Small networks with what exports stumble over."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from orchestrator.data.dataset import About
from orchestrator.decode import decode, parse
from orchestrator.export import ExampleInputs
from orchestrator.export.packed_file import Network
from orchestrator.pruning import prunable_weights, prune_globally

SHAPE = (3, 8, 8)
ABOUT = About(("cat", "dog", "owl", "a name, with ünïcode"), (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


GREY = ExampleInputs(images(3, seed=0), about=ABOUT)
ARGUMENTS = {"num_classes": 4, "input_shape": SHAPE}


def described_in(path: Path) -> Network:
    """Return what the header of a packed file says of its network."""
    with safe_open(path, "pt") as file:
        return decode(Network, parse(file.metadata()["packed"]), more_fields=True)


class Flow(nn.Module):
    """Convolutions and batch norms in every relation that folding must tell apart."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)  # folds
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, affine=False)  # folds
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)  # the convolution's output is read twice
        self.conv4, self.bn4 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)  # used twice
        self.twin1, self.bn5 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)  # shares its weight
        self.twin2 = nn.Conv2d(8, 8, 1, bias=False)
        self.twin2.weight = self.twin1.weight
        self.bn6 = nn.BatchNorm2d(8)  # after no convolution
        self.conv7, self.bn7 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)  # no statistics
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        y = self.conv3(x)
        x = self.bn3(y) + y
        x = self.bn4(self.conv4(self.bn4(self.conv4(x))))
        x = self.bn6(self.twin2(self.bn5(self.twin1(x))).relu())
        x = self.bn7(self.conv7(x))
        return self.fc(x.mean(dim=(2, 3)))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, num_classes)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


class DataFlow(nn.Module):
    """Its way depends on the image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        x = self.head(x.flatten(1))
        return x if x.sum() > 0 else -x


class NoChannels(nn.Module):
    """A layer of which every channel was removed, beside a shortcut."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 0, 1), nn.Conv2d(0, 3, 1)
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        return self.head((x + self.after(self.before(x))).flatten(1))


def flow(num_classes: int) -> nn.Module:
    return Flow(num_classes)


def tied(num_classes: int) -> nn.Module:
    return Tied(num_classes)


def data_flow(num_classes: int) -> nn.Module:
    return DataFlow(num_classes)


def no_channels(num_classes: int) -> nn.Module:
    return NoChannels(num_classes)


def mixed(num_classes: int) -> nn.Module:
    """Types other than float32, and an odd number of everything."""
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(180, num_classes))
    module.register_buffer("table", torch.arange(7) % 3)
    module.register_buffer("short", torch.linspace(-1, 1, 9).half())
    module.register_buffer("brief", torch.linspace(-1, 1, 9).bfloat16())
    module.register_buffer("long_one", torch.linspace(-1, 1, 9).double())
    module.register_buffer("flags", torch.tensor([True, False, True]))
    module.register_buffer("number", torch.tensor(7))
    module.register_buffer("nothing", torch.empty(0, 3))
    return module


@torch.no_grad()
def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` with norm statistics and parameters as training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                if tensor is not None:
                    tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (part.bias, part.running_mean):
                if tensor is not None:
                    tensor.normal_(std=0.3, generator=generator)
    return module.eval()


@torch.no_grad()
def pruned(module: nn.Module, density: float) -> nn.Module:
    """`module` with its smallest weights, over all layers, set to zero."""
    weights = prunable_weights(module)
    for name, mask in prune_globally({n: w.detach() for n, w in weights.items()}, density).items():
        weights[name].masked_fill_(~mask, 0)
    return module


def in_16_bits(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_classes, 8, bias=False), nn.Flatten()).bfloat16()
