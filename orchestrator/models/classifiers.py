"""Build classifiers of torchvision and timm by name, and load the weights that those packages publish for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.extras import extra
from orchestrator.randomness import one_thread, own_randomness, seed_all
from orchestrator.train_state import Tensors
from orchestrator.user_code import one_line
from orchestrator.validate import flag

_TWO_OUTPUTS = ("googlenet", "inception_v3")  # of torchvision, with two outputs in training
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # the tensors of their second outputs
_TIMM_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def torchvision_model(
    name: str, num_classes: int, input_shape: tuple[int, int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build torchvision's classifier `name` with random weights.

    `pretrained` builds the architecture that the published weights belong to, but does not load them.
    Raises ConfigError for an unknown name, options that do not fit, or images without 3 channels.
    """
    from torchvision import models

    names = models.list_models(module=models)  # the models of this module alone are classifiers
    if name not in names:
        raise ConfigError(f"torchvision has no classifier {name!r}: {_hint(name, names, ', '.join(names))}")
    if input_shape[0] != 3:
        raise ConfigError(f"torchvision's models take 3 channels, got images with {input_shape[0]}: write a function")
    flag("pretrained", pretrained)
    if name in _TWO_OUTPUTS:
        if options.get("aux_logits"):
            raise ConfigError(f"{name} must have aux_logits False: two classifiers cannot be trained by one loss")
        if pretrained:
            options = {"transform_input": True, **options}
        # aux_logits is True by default, and torchvision warns if init_weights is not given.
        options = {"init_weights": True, **options, "aux_logits": False}
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    except Exception as error:  # wrong options raise many types
        raise ConfigError(f"torchvision's {name} does not take the options {options}: {one_line(error)}") from error
    return model


def timm_model(
    name: str, num_classes: int, input_shape: tuple[int, int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build timm's model `name` with random weights, for images with any number of channels.

    `pretrained` has no effect here: the architecture is the same. A name may end with the tag of its published
    weights. Raises ConfigError if timm is not installed, for an unknown name, and for options that do not fit.
    """
    with extra("timm", f"model 'timm:{name}'"):
        import timm
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}: {_hint(name, timm.list_models(), 'in timm.list_models()')}")
    flag("pretrained", pretrained)
    if files := sorted(options.keys() & set(_TIMM_FILES)):
        raise ConfigError(
            f"the options of timm's {name} must not hold {', '.join(files)}: use pretrained or start_from"
        )
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **options
        )
    except Exception as error:
        raise ConfigError(f"timm's {name} does not take the options {options}: {one_line(error)}") from error
    return model


CLASSIFIERS: Mapping[str, Callable[..., nn.Module]] = {"torchvision": torchvision_model, "timm": timm_model}


def published_tensors(spec: str, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> Tensors:
    """Return the published weights of a classifier by tensor name, with their own number of classes.

    They are downloaded, unless torch's or Hugging Face's cache holds them. timm adapts the first convolution to
    images without 3 channels. Raises ConfigError if such weights do not exist or cannot be loaded.
    """
    package, _, name = spec.partition(":")
    others = {key: value for key, value in options.items() if key != "pretrained"}
    try:
        with own_randomness(), one_thread():
            seed_all(0)
            if package == "timm":
                module = _published_timm(name, arguments["input_shape"][0], others)
            else:
                module = _published_torchvision(name, others)
    except OrchestratorError:
        raise
    except Exception as error:  # from the network, the file, or an option that these weights do not allow
        raise ConfigError(
            f"the published weights of {spec} cannot be loaded ({one_line(error)}): start the job where there is a "
            "network, or give your own file by start_from"
        ) from error
    return {key: tensor for key, tensor in module.state_dict().items() if not key.startswith(_AUXILIARY)}


def _published_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    # torchvision's own loading unpickles. This call, which fills the cache, fails if the file holds more than tensors.
    weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    if name in _TWO_OUTPUTS:
        options = {key: value for key, value in options.items() if key not in ("aux_logits", "init_weights")}
    module: nn.Module = models.get_model(name, weights=weights, progress=False, **options)
    return module


def _published_timm(name: str, channels: int, options: dict[str, Any]) -> nn.Module:
    with extra("timm", f"model 'timm:{name}'"):
        import timm
    if not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no published weights for {name!r}: leave pretrained out, or give start_from")
    module: nn.Module = timm.create_model(name, pretrained=True, in_chans=channels, **options)
    return module


def _hint(name: str, names: Sequence[str], all_of_them: str) -> str:
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"the names are {all_of_them}"
