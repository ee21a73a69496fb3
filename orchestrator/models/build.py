"""Models by name: CIFAR ResNets, classifiers of torchvision and timm, the user's own by "package.module:function"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from orchestrator.data.dataset import Data
from orchestrator.errors import ConfigError
from orchestrator.lookup import call, lookup
from orchestrator.models.classifiers import CLASSIFIERS, is_classifier
from orchestrator.models.resnet import DEPTHS, CifarResNet
from orchestrator.modules import copy_module, own_memory, tensor_answer
from orchestrator.pruning import KINDS, prunable_weights
from orchestrator.randomness import one_thread, own_randomness, seed_all
from orchestrator.user_code import ERRORS, described

BUILTIN: Mapping[str, Callable[..., nn.Module]] = {f"resnet{depth}": partial(CifarResNet, depth) for depth in DEPTHS}


def build_model(
    spec: str,
    options: Mapping[str, object],
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    seed: int,
) -> nn.Module:
    """The model named `spec` on the CPU, initialised by `seed`; the process's own randomness stays untouched.

    Nothing is downloaded, whatever the options: `load_start_weights` puts trained weights into the model.

    `spec` is a short name (resnet20), "torchvision:NAME", "timm:NAME", or "package.module:function": a function that is
    called with the options and with those of num_classes and input_shape (channels, height, width) that it takes.
    Raises ConfigError for an unknown name, options that do not fit, or a model that cannot be pruned.
    """
    what = f"model {spec!r}"
    given = {"num_classes": num_classes, "input_shape": input_shape}
    function: Callable[..., object]
    if is_classifier(spec):
        package, _, name = spec.partition(":")
        function = partial(CLASSIFIERS[package], name)
    else:
        function = lookup(spec, BUILTIN, "model")
    with own_randomness(), one_thread():  # a sum over other threads has other bits
        seed_all(seed)
        model = call(function, what, options, given, ConfigError)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{what} must return a torch.nn.Module, got {type(model).__name__}")
    if any(map(is_lazy, model.parameters())):
        raise ConfigError(f"{what} has lazy layers, whose weights do not exist yet: give each layer its input size")
    if not prunable_weights(model, kinds=KINDS):
        raise ConfigError(
            f"{what} has nothing to prune: it needs at least one layer of these kinds, {', '.join(KINDS)}, "
            "with a weight that is trained (requires_grad True) and not computed from other parameters"
        )
    return own_memory(model.cpu())


def check_model(model: nn.Module, data: Data, smallest_batch: int = 2) -> None:
    """Raises ConfigError unless two samples give `model`, in evaluation mode, (2, num_classes) logits from all weights.

    And unless a copy of it, in training mode, gives every parameter a gradient, from `smallest_batch` samples (what
    a worker trains on at once) if those are fewer than two.
    """
    name, shape = type(model).__name__, (2, *data.input_shape)
    was_training = model.training
    try:
        with torch.no_grad(), own_randomness():
            logits: object = model.eval()(torch.zeros(shape))
    except ERRORS as error:
        raise ConfigError(f"model {name} cannot take images of shape {shape}: {described(error)}") from error
    finally:
        model.train(was_training)
    logits = tensor_answer(model, logits)
    if logits.shape != (2, data.num_classes) or not logits.is_floating_point():
        raise ConfigError(
            f"model {name} must turn {shape} into float logits of shape (2, {data.num_classes}), got "
            f"{tuple(logits.shape)} of {logits.dtype}"
        )
    _check_training(copy_module(model).train(), name, (min(2, smallest_batch), *data.input_shape))


def _check_training(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """One step's forward and backward: raises ConfigError for what would fail on the workers, minutes later."""
    try:
        with own_randomness():
            model(torch.zeros(shape)).sum().backward()
    except ERRORS as error:
        way_out = (
            ""
            if shape[0] > 1
            else "; a worker's share of the batch is one image: raise batch_size, or lower workers or accumulate"
        )
        raise ConfigError(
            f"model {name} cannot be trained on images of shape {shape}: {described(error)}{way_out}"
        ) from error
    if sparse := [n for n, p in model.named_parameters() if p.grad is not None and p.grad.is_sparse]:
        raise ConfigError(
            f"every gradient of model {name} must be dense, as masks and workers' averages are; these are sparse: "
            f"{', '.join(sparse[:5])}; build the embedding with sparse=False"
        )
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise ConfigError(
            f"every parameter of model {name} must take part in its output, as workers average all gradients; these do "
            f"not: {', '.join(unused[:5])}; remove them, or set requires_grad to False"
        )


def gpu_only(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers that torch refuses to train on CPUs when there are workers."""
    return tuple(name for name, layer in model.named_modules() if isinstance(layer, nn.SyncBatchNorm))
