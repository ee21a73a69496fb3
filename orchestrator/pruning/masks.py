"""What may be pruned, and what masks say. A mask is a boolean tensor of its weight's shape, True = kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from orchestrator.errors import ConfigError

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def prunable_weights(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Weights of every convolution, linear and attention projection, first and last included, in parameter order.

    Never biases or normalisation. A shared (tied) parameter stands once, under its first name. `exclude`, and the
    model's own `prune_exclude` if it has one, are patterns such as "fc", "layer1.*" or "*.downsample.0.weight": one
    that matches a parameter's name, or the name of a module around it, leaves it out (of a shared one, any name).
    A weight that is computed from others (`torch.nn.utils.parametrize`) is no parameter, and is not pruned.

    Raises ConfigError for a pattern that matches none of these weights.
    """
    names: dict[nn.Parameter, list[str]] = {}  # a parameter hashes by identity
    for name, weight in _linear_weights(model):
        names.setdefault(weight, []).append(name)
    prunable = {name: weight for name, weight in model.named_parameters() if weight in names}
    excluded: set[str] = set()
    for pattern in (*_patterns(exclude, "exclude"), *_patterns(getattr(model, "prune_exclude", ()), "prune_exclude")):
        hits = {name for name, weight in prunable.items() if _matches(pattern, {name, *names[weight]})}
        if not hits:
            raise ConfigError(
                f"exclude must match a prunable weight or its module, got {pattern!r}; "
                f"the prunable weights are: {', '.join(prunable) or 'none'}"
            )
        excluded |= hits
    return {name: weight for name, weight in prunable.items() if name not in excluded}


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
        if isinstance(module, (_ConvNd, nn.Linear)):
            attributes: tuple[str, ...] = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            attributes = _ATTENTION_WEIGHTS  # bare parameters of the module; its out_proj is an nn.Linear
        else:
            continue
        for attribute in attributes:
            weight = getattr(module, attribute, None)
            if isinstance(weight, nn.Parameter):
                yield f"{prefix}.{attribute}".lstrip("."), weight


def _matches(pattern: str, names: set[str]) -> bool:
    """Whether `pattern` is, in any of the names, the parameter's own or that of a module around it."""
    parts = [name.split(".") for name in names]
    return any(fnmatchcase(".".join(p[:end]), pattern) for p in parts for end in range(1, len(p) + 1))


def _patterns(value: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(value, str):
        raise ConfigError(f"{what} must be a list of patterns, got the text {value!r}: write [{value!r}]")
    if wrong := [pattern for pattern in value if not isinstance(pattern, str)]:
        raise ConfigError(f"{what} must hold patterns as text, got {wrong[0]!r}")
    return value
