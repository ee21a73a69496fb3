"""Prune any module, and keep what was removed at zero in a training loop of your own: no experiment, no storage.

`prune` leaves its masks on the layers, in an attribute that no state dict holds and that copies of the module take
along. The masks say what is removed. Zeros alone could not: a layer may begin at zero, and removed weights are not zero
any more once other weights are loaded, as weight rewinding does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from orchestrator.errors import ConfigError
from orchestrator.pruning import (
    DEFAULT_KINDS,
    KINDS,
    Criterion,
    Kind,
    dead_layers,
    magnitude,
    needs_gradients,
    prunable_weights,
    prune_globally,
    resolve_criterion,
)
from orchestrator.pruning.masks import count_true
from orchestrator.validate import one_of, texts

MASKS = "kept_weights"  # attribute of a layer: {name of its parameter: mask, True = kept}
Module = TypeVar("Module", bound=nn.Module)


def prune(
    module: Module,
    density: float,
    *,
    criterion: str | Criterion = magnitude,
    kinds: Sequence[Kind] = DEFAULT_KINDS,
    exclude: Sequence[str] = (),
    min_kept_per_layer: int = 0,
) -> Module:
    """Set the weights that matter least, over all layers of `module` together, to zero in place; return `module`.

    Exactly round(density * N) of the N prunable weights stay. `density` is counted against the dense module: 0.5 and
    then 0.25 keep a quarter. What an earlier call removed stays removed, whatever its value is now. As with
    `torch.nn.utils.prune` the module itself changes; its parameters keep their names. Call `hold` to train it.

    A module that is loaded from a file comes without masks. By magnitude, the density that it was pruned to finds the
    same weights again, because zeros go first.

    `criterion` is a function, its "package.module:name", or "magnitude", "random" or "gradient_magnitude"; the last one
    reads the `.grad` of a backward pass. `kinds` and `exclude` choose the weights (see `prunable_weights`). A layer of
    which nothing is left is a warning. Raises ConfigError, before anything changes, as `prunable_weights` and
    `prune_globally` do.
    """
    inner = _uncompiled(module)
    for kind in texts("kinds", kinds):
        one_of("kinds", kind, KINDS)
    weights = _weights(inner, kinds, exclude)
    score = resolve_criterion(criterion) if isinstance(criterion, str) else criterion
    earlier: dict[nn.Parameter, Tensor] = {}
    for held in _held(inner):
        earlier[held.weight] = held.mask & earlier.get(held.weight, held.mask)
    masks = prune_globally(
        weights,
        density,
        masks={name: earlier.get(weight, _all_kept(weight)) for name, weight in weights.items()} if earlier else None,
        criterion=score,
        gradients=_gradients(weights) if needs_gradients(score) else None,
        min_kept_per_layer=min_kept_per_layer,
    )
    for name, mask in masks.items():
        _zero(weights[name], mask)
    _leave(inner, {weights[name]: mask for name, mask in masks.items()})
    if dead := dead_layers(masks):
        warnings.warn(f"nothing is left of {', '.join(dead)}: min_kept_per_layer=1 keeps a weight each", stacklevel=2)
    return module


def hold(module: nn.Module, *optimizers: Optimizer) -> Hold:
    """Keep the removed weights of `module` at exactly zero while `optimizers` train it, until `remove()` is called.

    This is training of `weight * mask`. Gradients are masked as soon as a backward pass has left them, so that clipping
    sees the masked ones; before each step once more; and after it the weights and the optimizer's state, such as
    momentum. It does not matter who calls the optimizers: a loop, a gradient scaler, Lightning or Hugging Face's
    Trainer; nor whether the module is compiled before or after. Give all optimizers that train it.

    Removed is what the masks of `prune` say, also those of later calls. In a module without masks, such as one from a
    file, it is every weight of the default kinds that is exactly zero at this call. Call `prune` first if a layer of it
    only begins at zero.

    Raises ConfigError for a module of which nothing is removed, and for a weight that none of `optimizers` trains.
    """
    module = _uncompiled(module)
    inner = [_unwrapped(optimizer) for optimizer in optimizers]
    held = list(_held(module)) or _zeros_as_masks(module)
    trained = {weight for optimizer in inner for group in optimizer.param_groups for weight in group["params"]}
    for each in held:
        if each.weight.requires_grad and each.weight not in trained:
            raise ConfigError(
                f"optimizers must train every pruned weight, but {each.name} is in none of the {len(inner)} given: "
                "give all optimizers of the module, or set requires_grad of what is not trained to False"
            )
    return Hold(module, inner)


class Hold:
    """What keeps the removed weights of a module at zero (see `hold`)."""

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._module = module
        self._gradient_hooks: dict[nn.Parameter, RemovableHandle] = {}
        self._step_hooks: list[RemovableHandle] = []
        self._before_step()
        for optimizer in optimizers:
            self._after_step(optimizer)
            self._step_hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._step_hooks.append(optimizer.register_step_post_hook(self._after_step))

    @property
    def density(self) -> float:
        """Fraction of the prunable weights that is kept."""
        masks = {held.weight: held.mask for held in _held(self._module)}
        return sum(map(count_true, masks.values())) / sum(weight.numel() for weight in masks)

    def remove(self) -> None:
        """Hold no longer: training then moves the removed weights too."""
        for handle in (*self._step_hooks, *self._gradient_hooks.values()):
            handle.remove()

    def _before_step(self, *_: object) -> None:
        for held in _held(self._module):
            _mask_gradient(held.layer, held.attribute)
            # Again in every step, because a parameter may have been replaced, or pruned for the first time.
            if held.weight.requires_grad and held.weight not in self._gradient_hooks:
                hook = partial(_mask_gradient, held.layer, held.attribute)
                self._gradient_hooks[held.weight] = held.weight.register_post_accumulate_grad_hook(hook)

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        for held in _held(self._module):
            _zero(held.weight, held.mask)
            for slot in optimizer.state.get(held.weight, {}).values():
                if isinstance(slot, Tensor) and slot.shape == held.weight.shape:
                    _zero(slot, held.mask)


class _Held(NamedTuple):
    """A weight with a mask: the parameter `attribute` of `layer`."""

    name: str
    layer: nn.Module
    attribute: str
    weight: nn.Parameter
    mask: Tensor


def _held(module: nn.Module) -> Iterator[_Held]:
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
            yield _Held(full_name, layer, attribute, weight, mask)


def _leave(module: nn.Module, masks: dict[nn.Parameter, Tensor]) -> None:
    """Put the mask of each weight on every layer that has the weight."""
    for layer in module.modules():
        for attribute, weight in layer.named_parameters(recurse=False, remove_duplicate=False):
            if weight in masks:
                vars(layer).setdefault(MASKS, {})[attribute] = masks[weight]


def _zeros_as_masks(module: nn.Module) -> list[_Held]:
    """Leave masks that keep every prunable weight that is not zero, and return them with their weights."""
    weights = _weights(module, DEFAULT_KINDS, ())
    if all(bool(weight.all()) for weight in weights.values()):
        raise ConfigError(
            f"module must be pruned before it is held, but {type(module).__name__} has no removed weight: "
            "call orchestrator.prune(module, density) first"
        )
    _leave(module, {weight: weight.detach() != 0 for weight in weights.values()})
    return list(_held(module))


def _weights(module: nn.Module, kinds: Sequence[Kind], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the prunable weights. Raise ConfigError if there are none."""
    weights = prunable_weights(module, exclude, kinds)
    if not weights:
        raise ConfigError(
            f"module must have trainable weights in layers of {', '.join(kinds)}, but {type(module).__name__} has none"
        )
    return weights


def _gradients(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the `.grad` of each weight; zeros for one that took no part in the loss."""
    if all(weight.grad is None for weight in weights.values()):
        raise ConfigError("the criterion reads gradients, but no weight has one: call loss.backward() before prune")
    return {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()}


def _all_kept(weight: Tensor) -> Tensor:
    return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)


def _mask_gradient(layer: nn.Module, attribute: str, *_: object) -> None:
    gradient = getattr(layer, attribute).grad
    if gradient is not None and gradient.layout is torch.strided:  # of a sparse one, the step's end takes care
        _zero(gradient, vars(layer)[MASKS][attribute])


@torch.no_grad()
def _zero(tensor: Tensor, mask: Tensor) -> None:
    """Set what `mask` does not keep to zero, also where it is NaN or infinite."""
    tensor.masked_fill_(~mask.to(tensor.device), 0)


def _uncompiled(module: nn.Module) -> nn.Module:
    """Return the module inside one that `torch.compile` has wrapped, whose parameters have longer names."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    inner = getattr(module, "_orig_mod", module)
    assert isinstance(inner, nn.Module)
    return inner


def _unwrapped(optimizer: object) -> Optimizer:
    """Return torch's optimizer inside one that Lightning or Accelerate has wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, Optimizer):
        raise ConfigError(f"optimizers must be of torch.optim, got {type(inner).__name__}")
    return inner
