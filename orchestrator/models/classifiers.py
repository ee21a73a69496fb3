"""Classifiers of torchvision and timm by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.extras import extra
from orchestrator.user_code import one_line

_TWO_OUTPUTS = ("googlenet", "inception_v3")  # of torchvision, when they are trained
_TIMM_FILES = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def torchvision_model(name: str, num_classes: int, input_shape: tuple[int, int, int], **options: Any) -> nn.Module:
    """Build torchvision's classifier `name` with weights that are drawn.

    Raises ConfigError for an unknown name, options that do not fit, or images without 3 channels.
    """
    from torchvision import models

    names = models.list_models(module=models)  # of this module alone: the classifiers
    if name not in names:
        raise ConfigError(f"torchvision has no classifier {name!r}: {_hint(name, names, ', '.join(names))}")
    if input_shape[0] != 3:
        raise ConfigError(f"torchvision's models take 3 channels, got images with {input_shape[0]}: write a function")
    if name in _TWO_OUTPUTS:
        if options.get("aux_logits"):
            raise ConfigError(f"{name} must have aux_logits False: two classifiers cannot be trained by one loss")
        # The default would be True; and leaving init_weights unsaid is warned about.
        options = {"init_weights": True, **options, "aux_logits": False}
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except Exception as error:  # as many kinds as there are ways to get an option wrong
        raise ConfigError(f"torchvision's {name} does not take the options {options}: {one_line(error)}") from error
    return model


def timm_model(name: str, num_classes: int, input_shape: tuple[int, int, int], **options: Any) -> nn.Module:
    """Build timm's model `name`, with weights that are drawn, for images with any number of channels.

    A name may end with the tag of its published weights.
    Raises ConfigError if timm is not installed, for an unknown name, and for options that do not fit.
    """
    with extra("timm", f"model 'timm:{name}'"):
        import timm
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}: {_hint(name, timm.list_models(), 'in timm.list_models()')}")
    if files := sorted(options.keys() & set(_TIMM_FILES)):
        raise ConfigError(f"the options of timm's {name} must not hold {', '.join(files)}")
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **options
        )
    except Exception as error:
        raise ConfigError(f"timm's {name} does not take the options {options}: {one_line(error)}") from error
    return model


CLASSIFIERS: Mapping[str, Callable[..., nn.Module]] = {"torchvision": torchvision_model, "timm": timm_model}


def is_classifier(spec: str) -> bool:
    """Return whether `spec` is "torchvision:NAME" or "timm:NAME", and not a function of the user's."""
    package, colon, _ = spec.partition(":")
    return bool(colon) and package in CLASSIFIERS


def _hint(name: str, names: Sequence[str], all_of_them: str) -> str:
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"the names are {all_of_them}"
