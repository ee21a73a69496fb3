"""Build models by name: CIFAR ResNets, text models, classifiers of torchvision and timm, or the user's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn
from torch.nn.parameter import is_lazy

from orchestrator.errors import ConfigError
from orchestrator.lookup import call, lookup
from orchestrator.models.classifiers import CLASSIFIERS
from orchestrator.models.language import CausalTransformer, RecurrentLanguageModel
from orchestrator.models.ofa_networks import build_alone
from orchestrator.models.resnet import DEPTHS, CifarResNet
from orchestrator.models.seq2seq import AttentionTranscriber
from orchestrator.models.spec import OFA, is_classifier
from orchestrator.modules import own_memory
from orchestrator.pruning import KINDS, prunable_weights
from orchestrator.randomness import one_thread, own_randomness, seed_all
from orchestrator.validate import did_you_mean

BUILTIN: Mapping[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in DEPTHS},
    "char_gru": RecurrentLanguageModel,
    "char_transformer": CausalTransformer,
    "g2p_gru": AttentionTranscriber,
}


def build_model(
    spec: str,
    options: Mapping[str, object],
    arguments: Mapping[str, object],
    *,
    seed: int,
) -> nn.Module:
    """Build the model `spec` on the CPU, initialised by `seed`, without touching the process's random state.

    It never downloads anything: `load_start_weights` puts trained weights into the model.

    `spec` is a short name (resnet20), "torchvision:NAME", "timm:NAME", "ofa:SPACE" (with the option `architecture`, as
    `Architecture.to_json` gives it, that network; without it the largest), or "package.module:function": a function
    that is called with the options, and with those of `arguments`, the data's `model_arguments`, that it takes.
    Raises ConfigError for an unknown name, options that do not fit, or a model that cannot be pruned.
    """
    what = f"model {spec!r}"
    function: Callable[..., object]
    if is_classifier(spec):
        package, _, name = spec.partition(":")
        function = partial(CLASSIFIERS[package], name)
    elif spec.startswith(OFA):
        function = partial(build_alone, spec.removeprefix(OFA))
    else:
        function = _function(spec)
    with own_randomness(), one_thread():  # another number of threads changes the last bits of a sum
        seed_all(seed)
        model = call(function, what, options, arguments, ConfigError)
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


def _function(spec: str) -> Callable[..., object]:
    """Find a model that is not of a library's. A mistyped name of a library is answered with the right one."""
    try:
        return lookup(spec, BUILTIN, "model")
    except ConfigError as error:
        package, colon, _ = spec.partition(":")
        guess = did_you_mean(f"{package}:", [*(f"{known}:" for known in CLASSIFIERS), OFA]) if colon else ""
        if not guess:
            raise
        raise ConfigError(f"{error}: {guess}") from error


def gpu_only(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that several workers cannot train on CPUs (SyncBatchNorm)."""
    return tuple(name for name, layer in model.named_modules() if isinstance(layer, nn.SyncBatchNorm))
