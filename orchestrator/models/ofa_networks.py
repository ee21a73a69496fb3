"""Build the plain network of an architecture: a chain of parts, each of which is a value that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.ofa_blocks import (
    Bottleneck,
    MeanHead,
    MobileBlock,
    MobileHead,
    NormedConv,
    PooledConv,
    ResidualConv,
    Size,
    divisible,
)
from orchestrator.ofa.architecture import Architecture, StageChoice
from orchestrator.ofa.spaces import find_space


class ImageArguments(NamedTuple):
    """Hold what networks take from the data: how many classes there are, and the (channels, H, W) of the images."""

    num_classes: int
    input_shape: tuple[int, int, int]

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> ImageArguments:
        """Return those among the `model_arguments` of data."""
        return ImageArguments(arguments["num_classes"], tuple(arguments["input_shape"]))

    def __str__(self) -> str:
        return f"images of {self.input_shape} in {self.num_classes} classes"

    @property
    def channels(self) -> int:
        return self.input_shape[0]

    def size_at(self, resolution: int | None) -> Size:
        """Return the (H, W) that a network of `resolution` works on."""
        _, height, width = self.input_shape
        if resolution is not None and _is_resized((height, width), resolution):
            return resolution, resolution
        return height, width


class Part(NamedTuple):
    """A module that is not built yet. Equal parts have tensors of equal names and shapes."""

    kind: Callable[..., nn.Module]
    options: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(kind: Callable[..., nn.Module], **options: Any) -> Part:
        return Part(kind, tuple(options.items()))

    def build(self) -> nn.Module:
        return self.kind(**dict(self.options))


class Family(Protocol):
    """What the networks of a family have in common. `inputs`: the channels that come from the part before."""

    def stem(self, arguments: ImageArguments) -> tuple[tuple[Part, ...], int]:
        """Return the parts before the first stage, and the channels that they give."""
        ...

    def stage(self, place: int, choice: StageChoice, inputs: int) -> tuple[tuple[Part, ...], int]:
        """Return the parts of the stage number `place`, and the channels that it gives."""
        ...

    def head(self, inputs: int, arguments: ImageArguments) -> Part: ...


@dataclass(frozen=True)
class MobileNetV3:
    """MobileNetV3 with elastic stages; the defaults are those of the Once-for-All paper's code."""

    stem_width: int = 16
    stem_stride: int = 2
    widths: tuple[int, ...] = (24, 40, 80, 112, 160)
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    activations: tuple[str, ...] = ("relu", "relu", "h_swish", "h_swish", "h_swish")
    squeezes: tuple[bool, ...] = (False, True, False, True, True)
    head_widths: tuple[int, int] = (960, 1280)
    dropout: float = 0.1

    def stem(self, arguments: ImageArguments) -> tuple[tuple[Part, ...], int]:
        channels, width = arguments.channels, self.stem_width
        conv = Part.of(
            NormedConv, inputs=channels, outputs=width, kernel=3, stride=self.stem_stride, activation="h_swish"
        )
        block = Part.of(
            MobileBlock, inputs=width, inner=None, outputs=width, kernel=3, stride=1, activation="relu", squeeze=False
        )
        return (conv, block), width

    def stage(self, place: int, choice: StageChoice, inputs: int) -> tuple[tuple[Part, ...], int]:
        outputs, parts = divisible(self.widths[place] * choice.width), []
        for number, block in enumerate(choice.blocks):
            part = Part.of(
                MobileBlock,
                inputs=outputs if number else inputs,
                inner=divisible((outputs if number else inputs) * block.expand),
                outputs=outputs,
                kernel=block.kernel,
                stride=1 if number else self.strides[place],
                activation=self.activations[place],
                squeeze=self.squeezes[place],
            )
            parts.append(part)
        return tuple(parts), outputs

    def head(self, inputs: int, arguments: ImageArguments) -> Part:
        (expanded, mixed), num_classes = self.head_widths, arguments.num_classes
        return Part.of(
            MobileHead, inputs=inputs, expanded=expanded, mixed=mixed, num_classes=num_classes, dropout=self.dropout
        )


@dataclass(frozen=True)
class ResNet50D:
    """ResNet-50-D with two elastic stages as its stem and four of bottleneck blocks, as the paper's code has them."""

    widths: tuple[int, ...] = (32, 64, 256, 512, 1024, 2048)
    strides: tuple[int, ...] = (2, 1, 1, 2, 2, 2)

    def stem(self, arguments: ImageArguments) -> tuple[tuple[Part, ...], int]:
        return (), arguments.channels

    def stage(self, place: int, choice: StageChoice, inputs: int) -> tuple[tuple[Part, ...], int]:
        outputs = divisible(self.widths[place] * choice.width)
        if place == 0:
            conv = Part.of(NormedConv, inputs=inputs, outputs=outputs, kernel=3, stride=2, activation="relu")
            return (conv, *(Part.of(ResidualConv, channels=outputs) for _ in choice.blocks)), outputs
        if place == 1:
            return (Part.of(PooledConv, inputs=inputs, outputs=outputs),), outputs
        blocks = (
            Part.of(
                Bottleneck,
                inputs=outputs if number else inputs,
                inner=divisible(outputs * block.expand),
                outputs=outputs,
                stride=1 if number else self.strides[place],
                is_first=number == 0,
            )
            for number, block in enumerate(choice.blocks)
        )
        return tuple(blocks), outputs

    def head(self, inputs: int, arguments: ImageArguments) -> Part:
        return Part.of(MeanHead, inputs=inputs, num_classes=arguments.num_classes)


FAMILIES: Mapping[str, Family] = {
    "mobilenetv3": MobileNetV3(),
    "resnet50d": ResNet50D(),
    "small": MobileNetV3(
        stem_stride=1,
        widths=(16, 32),
        strides=(1, 2),
        activations=("relu", "h_swish"),
        squeezes=(False, True),
        head_widths=(96, 128),
    ),
}


def chain(architecture: Architecture, arguments: ImageArguments) -> dict[str, Part]:
    """Return the parts of a network in the order of its forward pass, by their names in the built network."""
    family = FAMILIES[architecture.family]
    stem, width = family.stem(arguments)
    named = {f"stem.{number}": part for number, part in enumerate(stem)}
    for place, choice in enumerate(architecture.stages):
        parts, width = family.stage(place, choice, width)
        named.update({f"stages.{place}.{number}": part for number, part in enumerate(parts)})
    return {**named, "head": family.head(width, arguments)}


class StagedNetwork(nn.Module):
    """A stem, stages and a head, one after another. Its blocks have the names that they have in larger networks.

    `resolution`: the pixels that larger images are made smaller to; None: images are used as they are.
    """

    head: nn.Module

    def __init__(self, modules: Mapping[str, nn.Module], resolution: int | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        stages = 1 + max(int(name.split(".")[1]) for name in modules if name.startswith("stages."))
        self.stem = nn.Sequential()
        self.stages = nn.ModuleList(nn.Sequential() for _ in range(stages))
        for name, module in modules.items():
            owner, _, own = name.rpartition(".")
            self.get_submodule(owner).add_module(own, module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of images (n, channels, H, W)."""
        x = self.stem(resized(x, self.resolution))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits


def _is_resized(size: Size, resolution: int | None) -> bool:
    """Return whether images of `size` pixels are made smaller for networks of `resolution`. None is enlarged."""
    return resolution is not None and min(size) > resolution


def resized(images: Tensor, resolution: int | None) -> Tensor:
    """Return `images` (n, channels, H, W) with H = W = `resolution` where they are larger, otherwise as they are."""
    if resolution is None or not _is_resized((images.shape[-2], images.shape[-1]), resolution):
        return images
    return F.interpolate(images, (resolution, resolution), mode="bilinear", antialias=True)


def build_network(architecture: Architecture, arguments: ImageArguments) -> StagedNetwork:
    """Return the plain network of `architecture`, initialised from torch's own generator: He's normal by outputs."""
    parts = chain(architecture, arguments)
    network = StagedNetwork({name: part.build() for name, part in parts.items()}, architecture.resolution)
    if next(network.parameters()).is_meta:
        return network  # nothing to fill, and for such a tensor torch would load its compiler, in more than a second
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def build_alone(
    space: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    architecture: Mapping[str, Any] | None = None,
) -> StagedNetwork:
    """Return the plain network of `space` with `architecture`, as `Architecture.to_json` gives it; None: the largest.

    Raises ConfigError for an unknown space, and for an architecture outside it.
    """
    found = find_space(space)
    wanted = found.largest() if architecture is None else found.check(Architecture.from_json(architecture))
    return build_network(wanted, ImageArguments(num_classes, input_shape))
