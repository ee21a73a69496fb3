"""Keep masks on the layers of a module, in an attribute that no state dict holds and that copies take along.

The masks say what is removed. Zeros alone could not: a layer may begin at zero, and removed weights are not zero any
more once other weights are loaded, as weight rewinding does.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.private_apis import multiply_each, version_of

MASKS = "kept_weights"  # attribute of a layer: {name of its parameter: mask, True = kept}


class Held(NamedTuple):
    """A weight with a mask: the parameter `attribute` of `layer`."""

    name: str
    layer: nn.Module
    attribute: str
    weight: nn.Parameter
    mask: Tensor


def masks_on(module: nn.Module) -> Iterator[Held]:
    """Yield every weight with a mask; a shared one for each layer that has it.

    Raises ConfigError for a weight that its mask does not fit.
    """
    for name, layer in module.named_modules():
        for attribute, mask in vars(layer).get(MASKS, {}).items():
            weight, full_name = getattr(layer, attribute, None), f"{name}.{attribute}".lstrip(".")
            if not isinstance(weight, nn.Parameter) or weight.shape != mask.shape:
                got = type(weight).__name__ if not isinstance(weight, Tensor) else tuple(weight.shape)
                raise ConfigError(
                    f"{full_name} must still be a parameter of the shape {tuple(mask.shape)} that it was pruned in, "
                    f"got {got}: put a new layer in its place, or delete the layer's attribute {MASKS}"
                )
            yield Held(full_name, layer, attribute, weight, mask)


def leave_masks(module: nn.Module, masks: dict[nn.Parameter, Tensor]) -> None:
    """Put the mask of each weight on every layer that has the weight."""
    for layer in module.modules():
        for attribute, weight in layer.named_parameters(recurse=False, remove_duplicate=False):
            if weight in masks:
                vars(layer).setdefault(MASKS, {})[attribute] = masks[weight]


def combined_masks(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Return the mask of every weight with one; a shared weight keeps what the masks of all its layers keep."""
    return {weight: _combined([held.mask for held in places]) for weight, places in places_of(module).items()}


def places_of(module: nn.Module) -> dict[nn.Parameter, list[Held]]:
    """Return every weight with a mask, and the layers that have it."""
    places: dict[nn.Parameter, list[Held]] = {}
    for held in masks_on(module):
        places.setdefault(held.weight, []).append(held)
    return places


class Factor:
    """What a weight is multiplied with, so that it is zero where it is removed; it follows the weight and its masks.

    It has integers of the size of the weight's elements. Their product is exact, is zero where the weight is NaN or
    infinite (times 0.0 it would be NaN), and takes a seventh of the time of `masked_fill_`.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        self.places: Sequence[Held] = ()
        self._weight = weight
        self._masks: list[Tensor] = []
        self._values: Tensor | None = None
        self._masked: dict[str, tuple[weakref.ref[Tensor], int]] = {}  # by role

    def values(self) -> Tensor:
        """Return the factor, made anew if a later `prune` has left other masks, or the weight's type has changed."""
        masks = [vars(held.layer).get(MASKS, {}).get(held.attribute, held.mask) for held in self.places]
        kind, made = _integers(self._weight), self._values
        same = made is not None and (made.dtype, made.device) == (kind, self._weight.device)
        if made is None or not same or list(map(id, masks)) != list(map(id, self._masks)):
            made = torch.empty_like(self._weight, dtype=kind).copy_(_combined(masks))
            self._masks, self._values, self._masked = masks, made, {}
        return made

    def has_masked(self, role: str, tensor: Tensor, *, as_it_is: bool) -> bool:
        """Return whether `tensor` was multiplied as `role` by these masks, and, if `as_it_is`, is unchanged since."""
        self.values()
        last, version = self._masked.get(role, (None, None))
        return last is not None and last() is tensor and (version == version_of(tensor) or not as_it_is)

    def note(self, role: str, tensor: Tensor) -> None:
        """Remember that `tensor` was multiplied."""
        self._masked[role] = weakref.ref(tensor), version_of(tensor)


@torch.no_grad()
def multiply(parts: Sequence[tuple[Factor, str, Tensor]]) -> None:
    """Multiply tensors by their factors in place. Each has a role: "gradient", "weight", "momentum_buffer", ..."""
    if parts:
        bits = [tensor.view(_integers(tensor)) for _, _, tensor in parts]
        values = [factor.values().to(b.device, b.dtype) for b, (factor, _, _) in zip(bits, parts, strict=True)]
        multiply_each(bits, tuple(values))
        for factor, role, tensor in parts:
            factor.note(role, tensor)


def _combined(masks: Sequence[Tensor]) -> Tensor:
    first, *others = masks
    for other in others:
        first = first & other.to(first.device)
    return first


def _integers(tensor: Tensor) -> torch.dtype:
    """Return the type of integers as large as the elements of `tensor`."""
    return {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
