"""What may be pruned, and what masks say. A mask is a boolean tensor of its weight's shape, True = kept."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from orchestrator.errors import ConfigError
from orchestrator.validate import texts

# The weights that each kind of layer multiplies by, as patterns of the names of its own parameters. Other names belong
# to what weights are computed from, such as `weight_g` and `weight_v` of `torch.nn.utils.weight_norm`.
_WEIGHTS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((_ConvNd, nn.Linear), "weight"),
    ((nn.MultiheadAttention,), "(in|q|k|v)_proj_weight"),  # its out_proj is an nn.Linear
    ((nn.RNNBase, nn.RNNCellBase), r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?"),
)


def prunable_weights(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Weights of every convolution, linear, attention projection and recurrent layer, in parameter order.

    First and last layer included; never biases or normalisation. A shared (tied) parameter stands once, under its first
    name. `exclude`, and the model's own `prune_exclude` if it has one, are patterns such as "fc", "layer1.*" or
    "*.downsample.0.weight": one that matches a parameter's name, or the name of a module around it, leaves it out (of
    a shared one, any name).

    A frozen parameter (`requires_grad` False) is not prunable, because no retraining can make up for what it loses.
    Neither is a weight that is computed from others (parametrizations, weight norm), nor what it is computed from.
    `unpruned_weights` has what this leaves out.

    Raises ConfigError for a pattern that matches none of these weights.
    """
    names: dict[nn.Parameter, list[str]] = {}  # a parameter hashes by identity
    for name, weight in _linear_weights(model):
        if weight.requires_grad:
            names.setdefault(weight, []).append(name)
    prunable = {name: weight for name, weight in model.named_parameters() if weight in names}
    excluded: set[str] = set()
    for pattern in (*texts("exclude", exclude), *texts("prune_exclude", getattr(model, "prune_exclude", ()))):
        hits = {name for name, weight in prunable.items() if _matches(pattern, {name, *names[weight]})}
        if not hits:
            raise ConfigError(
                f"exclude must match a prunable weight or its module, got {pattern!r}; "
                f"the prunable weights are: {', '.join(prunable) or 'none'}"
            )
        excluded |= hits
    return {name: weight for name, weight in prunable.items() if name not in excluded}


def unpruned_weights(model: nn.Module, prunable: Container[str]) -> dict[str, nn.Parameter]:
    """Parameters of two or more dimensions whose names are not in `prunable`: weights that stay at every density."""
    return {name: weight for name, weight in model.named_parameters() if weight.dim() > 1 and name not in prunable}


def count_kept(masks: Mapping[str, Tensor]) -> int:
    """How many weights all `masks` together keep."""
    return sum(count_true(mask) for mask in masks.values())


def count_true(mask: Tensor) -> int:
    """How many of a bool tensor are True, four times as fast as `count_nonzero`.

    Eight bytes are added as one integer, which is exact up to 255 of them: no byte then carries into the next.
    """
    flat = mask.contiguous().view(-1)
    if flat.storage_offset() % 8:
        return int(flat.count_nonzero())
    columns = flat.numel() // (255 * 8)
    whole = columns * 255 * 8
    bytes_added = flat[:whole].view(torch.int64).view(255, columns).sum(0).view(torch.uint8)
    return int(bytes_added.sum()) + int(flat[whole:].count_nonzero())


def dead_layers(masks: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers of which nothing is kept: no signal passes them any more, except around them."""
    return [name for name, mask in masks.items() if not mask.any()]


def check_masks(masks: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor]) -> None:
    """ConfigError unless there is one bool mask for every weight, of its shape, and no other; or None at all."""
    check_matches("mask", masks, weights)
    for name, mask in (masks or {}).items():
        if name not in weights:
            raise ConfigError(f"every mask must be of a weight that is pruned, but {name} is none")
        if mask.dtype is not torch.bool:
            raise ConfigError(f"masks must be bool (True = kept), got {mask.dtype} for {name}: use mask.bool()")


def check_matches(what: str, others: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor]) -> None:
    """ConfigError unless every weight has one of `others` (each a `what`: "mask", "gradient"), of its shape."""
    if others is None:
        return
    for name, weight in weights.items():
        if name not in others:
            raise ConfigError(f"every weight must have one {what}, but {name} has none")
        shape, wanted = tuple(others[name].shape), tuple(weight.shape)
        if shape != wanted:
            raise ConfigError(f"a {what} must have the shape of its weight {wanted}, got {shape} for {name}")


def _linear_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every (name, parameter) that multiplies activations; a shared one comes once for each of its names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        pattern = next((pattern for kinds, pattern in _WEIGHTS if isinstance(module, kinds)), None)
        if pattern is None:
            continue
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if re.fullmatch(pattern, name):
                yield f"{prefix}.{name}".lstrip("."), parameter


def _matches(pattern: str, names: set[str]) -> bool:
    """Whether `pattern` is, in any of the names, the parameter's own or that of a module around it."""
    parts = [name.split(".") for name in names]
    return any(fnmatchcase(".".join(p[:end]), pattern) for p in parts for end in range(1, len(p) + 1))
