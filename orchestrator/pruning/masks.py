"""Find the prunable weights, and check and count masks. A mask is bool, of its weight's shape, True = kept."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import UnionType

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from orchestrator.errors import ConfigError
from orchestrator.layer_kinds import Convolution
from orchestrator.pruning.choices import DEFAULT_KINDS, Kind
from orchestrator.training.optimizer import is_normalisation
from orchestrator.user_code import called
from orchestrator.validate import texts

# The weights of each kind of layer, as patterns of its own parameters' names; the first line that fits a layer counts.
# Other names may be tensors from which a weight is computed, such as `weight_g` and `weight_v` of
# `torch.nn.utils.weight_norm`.
_WEIGHTS: tuple[tuple[Kind, tuple[type[nn.Module] | UnionType, ...], str], ...] = (
    ("attention", (nn.MultiheadAttention,), "(in|q|k|v)_proj_weight"),
    ("attention", (NonDynamicallyQuantizableLinear,), "weight"),  # the out_proj of MultiheadAttention, and only that
    ("convolution", (Convolution,), "weight"),
    ("linear", (nn.Linear,), "weight"),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase), r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?"),
    ("embedding", (nn.Embedding, nn.EmbeddingBag), "weight"),
)
_BIAS = re.compile("(^|_)bias(_|$)")


def prunable_weights(
    model: nn.Module, exclude: Sequence[str] = (), kinds: Sequence[Kind] = DEFAULT_KINDS
) -> dict[str, nn.Parameter]:
    """Return the weights of all layers of these `kinds`, in parameter order, the first and the last layer included.

    "attention" is `nn.MultiheadAttention`; attention that is built from linear layers is "linear". Biases and
    normalisation are never included. A shared (tied) weight is one tensor: it is returned once, under its first name,
    if any layer that uses it is of these kinds. So an output layer that shares its weight with an embedding is pruned
    although embeddings are not, unless `exclude` names either of the two.

    `exclude`, and the model's own `prune_exclude` if it has one, are patterns such as "fc", "layer1.*" or
    "*.downsample.0.weight". A pattern excludes a weight if it matches its name (any name of a shared one), or the name
    of a module around it.

    A frozen parameter (`requires_grad` False) is not prunable, because retraining cannot compensate for its losses.
    Neither is a weight that is computed from others (parametrizations, weight norm), nor are those others.
    `unpruned_weights` returns the weights that this function does not.

    Raises ConfigError for a pattern that matches no weight of any kind of layer.
    """
    names: dict[nn.Parameter, list[str]] = {}  # a parameter hashes by identity
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(weight, []).append(name)
    weights = list(_layer_weights(model))
    wanted = {weight for kind, weight in weights if kind in kinds and weight.requires_grad}
    prunable = {name: weight for name, weight in model.named_parameters() if weight in wanted}
    excluded: set[nn.Parameter] = set()
    with called(f"prune_exclude of model {type(model).__name__}"):  # it may be a property
        own = getattr(model, "prune_exclude", ())
    for pattern in (*texts("exclude", exclude), *texts("prune_exclude", own)):
        hits = {weight for _, weight in weights if matches(pattern, names[weight])}
        if not hits:
            raise ConfigError(
                f"exclude must match a prunable weight or its module, got {pattern!r}; "
                f"the prunable weights are: {', '.join(prunable) or 'none'}"
            )
        excluded |= hits
    return {name: weight for name, weight in prunable.items() if weight not in excluded}


def unpruned_weights(model: nn.Module, prunable: Container[str]) -> dict[str, nn.Parameter]:
    """Return the weights that are kept at every density: those whose names are not in `prunable`.

    A weight is a parameter of two or more dimensions. Parameters of normalisation layers (see `is_normalisation`) and
    biases are never weights. A bias has the word in its name (`bias_k`, `relative_position_bias_table`).
    """
    norms = {p for layer in model.modules() if is_normalisation(layer) for p in layer.parameters(recurse=False)}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1
        and name not in prunable
        and weight not in norms
        and not _BIAS.search(name.rpartition(".")[2])
    }


def count_kept(masks: Mapping[str, Tensor]) -> int:
    """Return how many weights all `masks` together keep."""
    return sum(count_true(mask) for mask in masks.values())


def count_true(mask: Tensor) -> int:
    """Return how many elements of a bool tensor are True."""
    return int(mask.count_nonzero())


def dead_layers(masks: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the layers that keep no weight: a signal can only pass around them."""
    return [name for name, mask in masks.items() if not mask.any()]


def check_tensors(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None, gradients: Mapping[str, Tensor] | None
) -> None:
    """Raise ConfigError unless `weights` can be pruned, and `masks` and `gradients` match them or are None."""
    if not weights:
        raise ConfigError("weights must hold at least one tensor to prune, got an empty dictionary")
    devices = {weight.device for weight in weights.values()}
    if len(devices) > 1:
        raise ConfigError(f"weights must all be on one device, got {', '.join(sorted(map(str, devices)))}")
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise ConfigError(f"weights must be floating point, got {weight.dtype} for {name}")
        if weight.dim() == 0 or weight.numel() == 0:
            shape = tuple(weight.shape)
            raise ConfigError(f"weights must have a dimension and an element, got shape {shape} for {name}")
    check_masks(masks, weights)
    check_matches("gradient", gradients, weights)


def check_masks(masks: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor]) -> None:
    """Raise ConfigError unless `masks` is None, or has exactly one bool mask of its shape for every weight."""
    check_matches("mask", masks, weights)
    for name, mask in (masks or {}).items():
        if name not in weights:
            raise ConfigError(f"mask {name!r} does not belong to a prunable weight: leave it out")
        if mask.dtype is not torch.bool:
            raise ConfigError(f"masks must be bool (True = kept), got {mask.dtype} for {name}: use mask.bool()")


def check_matches(what: str, others: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor]) -> None:
    """Raise ConfigError unless `others` is None or has a tensor of its shape for every weight.

    `what` names these tensors in messages: "mask", "gradient".
    """
    if others is None:
        return
    for name, weight in weights.items():
        if name not in others:
            raise ConfigError(f"every weight must have one {what}, but {name} has none")
        shape, wanted = tuple(others[name].shape), tuple(weight.shape)
        if shape != wanted:
            raise ConfigError(f"a {what} must have the shape of its weight {wanted}, got {shape} for {name}")


def matches(pattern: str, names: Sequence[str]) -> bool:
    """Return whether `pattern` matches one of a tensor's `names`, or the name of a module around it."""
    parts = [name.split(".") for name in names]
    return any(fnmatchcase(".".join(p[:end]), pattern) for p in parts for end in range(1, len(p) + 1))


def _layer_weights(model: nn.Module) -> Iterator[tuple[Kind, nn.Parameter]]:
    """Yield (kind of layer, weight) for every layer; a shared weight is yielded once for each layer."""
    for module in model.modules():
        found = next(((kind, pattern) for kind, types, pattern in _WEIGHTS if isinstance(module, types)), None)
        if found is None:
            continue
        kind, pattern = found
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if re.fullmatch(pattern, name):
                yield kind, parameter
