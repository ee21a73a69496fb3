"""Make the example of a classifier for ImageNet's images, so that its users need not give one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.dataset import About
from orchestrator.errors import ExportError
from orchestrator.randomness import own_randomness
from orchestrator.user_code import one_line

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue
SHAPE = (3, 224, 224)


def imagenet_example(module: nn.Module) -> tuple[Tensor, About, dict[str, Any]]:
    """Return two black images, normalised as torchvision does, numbered classes, and the arguments of the model.

    Raises ExportError for a network that cannot take them, or returns something else than logits (n, classes).
    """
    images = -torch.tensor(MEAN).div(torch.tensor(STD)).view(3, 1, 1).expand(2, *SHAPE).contiguous()
    was_training, parameter = module.training, next(module.parameters(), None)
    try:
        with torch.no_grad(), own_randomness():
            logits: object = module.eval()(images if parameter is None else images.to(parameter))
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot take images of shape {SHAPE}, say what it takes in `example`: "
            f"{one_line(error)}"
        ) from error
    finally:
        module.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ExportError(f"{type(module).__name__} must turn images into logits (n, classes), got {type(logits)}")
    classes = logits.shape[1]
    about = About(tuple(map(str, range(classes))), MEAN, STD)
    return images, about, {"num_classes": classes, "input_shape": SHAPE}
