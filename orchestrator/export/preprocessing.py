"""What an image goes through before a network sees it, and what the network's outputs mean."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError, ExportError
from orchestrator.randomness import own_randomness
from orchestrator.user_code import one_line
from orchestrator.validate import finite, texts, tuple_of, whole

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation, red green blue


@dataclass(frozen=True)
class Preprocessing:
    """Scale pixels to [0, 1], subtract `mean`, divide by `std` (one number a channel): the network's input.

    `input_shape` is (channels, height, width); `labels` names the outputs, in order.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = tuple_of("input_shape", self.input_shape, partial(whole, minimum=1), length=3)
        mean = tuple_of("mean", self.mean, finite, length=shape[0])
        std = tuple_of("std", self.std, partial(finite, above=0), length=shape[0])
        labels = texts("labels", self.labels)
        if not labels:
            raise ConfigError("labels must name at least one output, got none")
        for name, value in (("input_shape", shape), ("mean", mean), ("std", std), ("labels", labels)):
            object.__setattr__(self, name, value)

    @staticmethod
    def of(data: Data) -> Preprocessing:
        """As `data` has it, which must be labelled images. Raises ExportError for other data."""
        if "input_shape" not in data.model_arguments:
            raise ExportError("only networks for labelled images can be exported: make the data with image_data")
        return Preprocessing(data.model_arguments["input_shape"], data.about.mean, data.about.std, data.about.labels)

    @staticmethod
    def imagenet(module: nn.Module) -> Preprocessing:
        """Of a classifier of 3 x 224 x 224 images that are normalised as torchvision does; its outputs numbered.

        Raises ExportError for a network that cannot take them.
        """
        shape = (3, 224, 224)
        return Preprocessing(shape, *IMAGENET, numbered(outputs(module, shape)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def metadata(self) -> dict[str, str]:
        """As texts, for a format whose metadata are texts."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}


def numbered(count: int) -> tuple[str, ...]:
    """Names of outputs that have none."""
    return tuple(map(str, range(count)))


def outputs(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many logits an image of `shape` gives. Raises ExportError."""
    was_training = module.training
    device = next((parameter.device for parameter in module.parameters()), None)
    try:
        with torch.no_grad(), own_randomness():
            logits: object = module.eval()(torch.zeros((1, *shape), device=device))
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot take images of shape {shape}, say which it takes in `preprocessing`: "
            f"{one_line(error)}"
        ) from error
    finally:
        module.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ExportError(f"{type(module).__name__} must turn images into logits (n, classes), got {type(logits)}")
    return logits.shape[1]
