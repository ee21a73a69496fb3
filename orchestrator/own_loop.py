"""Prune any module, and keep what was removed at zero in a training loop of your own: no experiment, no storage."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from orchestrator.errors import ConfigError
from orchestrator.layer_masks import Factor, combined_masks, leave_masks, masks_on, multiply, places_of
from orchestrator.private_apis import uncompiled
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
    then 0.25 keep a quarter. Weights that an earlier call removed stay removed, even if they have changed since. As
    with `torch.nn.utils.prune` the module itself changes; its parameters keep their names. Call `hold` to train it.

    A module that is loaded from a file comes without masks. By magnitude, the density that it was pruned to finds the
    same weights again, because zeros go first.

    `criterion` is a function, its "package.module:name", or "magnitude", "random" or "gradient_magnitude"; the last one
    reads the `.grad` of a backward pass. `kinds` and `exclude` choose the weights (see `prunable_weights`). A layer of
    which nothing is left is a warning. Raises ConfigError, before anything changes, as `prunable_weights` and
    `prune_globally` do.
    """
    inner = _inner_module(module)
    for kind in texts("kinds", kinds):
        one_of("kinds", kind, KINDS)
    weights = _weights(inner, kinds, exclude)
    score = resolve_criterion(criterion) if isinstance(criterion, str) else criterion
    earlier = combined_masks(inner)
    masks = prune_globally(
        weights,
        density,
        masks={name: earlier.get(weight, _all_kept(weight)) for name, weight in weights.items()} if earlier else None,
        criterion=score,
        gradients=_gradients(weights) if needs_gradients(score) else None,
        min_kept_per_layer=min_kept_per_layer,
    )
    for name, mask in masks.items():
        weights[name].detach().masked_fill_(~mask, 0)
    leave_masks(inner, {weights[name]: mask for name, mask in masks.items()})
    if dead := dead_layers(masks):
        warnings.warn(f"nothing is left of {', '.join(dead)}: min_kept_per_layer=1 keeps a weight each", stacklevel=2)
    return module


def hold(module: nn.Module, *optimizers: Optimizer) -> Hold:
    """Keep the removed weights of `module` at exactly zero while `optimizers` train it, until `remove()` is called.

    This is training of `weight * mask`. Gradients are masked as soon as a backward pass has left them, so that clipping
    sees the masked ones; before each step once more if they have changed; and after it the weights, and what is new in
    the optimizer's state, such as momentum. It does not matter who calls the optimizers: a loop, a gradient scaler,
    Lightning or Hugging Face's Trainer; nor whether the module is compiled before or after. Give all optimizers that
    train it.

    Removed is what the masks of `prune` say, also those of later calls. In a module without masks, such as one from a
    file, it is every weight of the default kinds that is exactly zero at this call. Call `prune` first if a layer of it
    only begins at zero.

    Raises ConfigError for a module of which nothing is removed, and for a weight that none of `optimizers` trains.
    """
    module = _inner_module(module)
    inner = [_unwrapped(optimizer) for optimizer in optimizers]
    if not any(masks_on(module)):
        _leave_zeros_as_masks(module)
    trained = {weight for optimizer in inner for group in optimizer.param_groups for weight in group["params"]}
    for each in masks_on(module):
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
        self._factors: dict[Tensor, Factor] = {}
        self._gradient_hooks: dict[nn.Parameter, RemovableHandle] = {}
        self._step_hooks: list[RemovableHandle] = []
        self._before_step()
        for optimizer in optimizers:
            self._after_step(optimizer)
            self._step_hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._step_hooks.append(optimizer.register_step_post_hook(self._after_step))

    @property
    def density(self) -> float:
        """Return the fraction of the prunable weights that is kept."""
        masks = combined_masks(self._module)
        return sum(map(count_true, masks.values())) / sum(weight.numel() for weight in masks)

    def remove(self) -> None:
        """Hold no longer: training then moves the removed weights too."""
        for handle in (*self._step_hooks, *self._gradient_hooks.values()):
            handle.remove()

    def _before_step(self, *_: object) -> None:
        """Mask what has changed since it was masked: clipped gradients and those set by hand, weights that are loaded.

        A sparse gradient is left to the end of the step.
        """
        self._follow()
        self._mask_gradients(*self._factors)
        multiply(
            [
                (factor, "weight", weight)
                for weight, factor in self._factors.items()
                if not factor.has_masked("weight", weight, as_it_is=True)
            ]
        )

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        """Mask the weights, and new tensors of the optimizer's state, which masked gradients and weights keep so."""
        self._follow()
        multiply([(factor, "weight", weight) for weight, factor in self._factors.items()])
        multiply(
            [
                (factor, role, slot)
                for weight, factor in self._factors.items()
                for role, slot in optimizer.state.get(weight, {}).items()
                if isinstance(slot, Tensor) and slot.shape == weight.shape
                if _is_sparse(weight.grad) or not factor.has_masked(role, slot, as_it_is=False)
            ]
        )

    def _follow(self) -> None:
        """Find the held weights again, because a parameter may have been replaced, or pruned for the first time."""
        before, self._factors = self._factors, {}
        for weight, places in places_of(self._module).items():
            self._factors[weight] = before.get(weight) or Factor(weight)
            self._factors[weight].places = places
            if weight.requires_grad and weight not in self._gradient_hooks:
                hook = weight.register_post_accumulate_grad_hook(self._mask_gradients)
                self._gradient_hooks[weight] = hook

    def _mask_gradients(self, *weights: Tensor) -> None:
        found = [(self._factors[weight], weight.grad) for weight in weights if weight in self._factors]
        multiply(
            [
                (factor, "gradient", gradient)
                for factor, gradient in found
                if gradient is not None and not _is_sparse(gradient)
                if not factor.has_masked("gradient", gradient, as_it_is=True)
            ]
        )


def _is_sparse(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.layout is not torch.strided


def _leave_zeros_as_masks(module: nn.Module) -> None:
    """Leave masks that keep every prunable weight that is not zero. Raise ConfigError if none is."""
    weights = _weights(module, DEFAULT_KINDS, ())
    if all(bool(weight.all()) for weight in weights.values()):
        raise ConfigError(
            f"module must be pruned before it is held, but {type(module).__name__} has no removed weight: "
            "call orchestrator.prune(module, density) first"
        )
    leave_masks(module, {weight: weight.detach() != 0 for weight in weights.values()})


def _weights(module: nn.Module, kinds: Sequence[Kind], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the prunable weights. Raise ConfigError if the module has none, or if one has no values yet."""
    weights = prunable_weights(module, exclude, kinds)
    if not weights:
        raise ConfigError(
            f"module must have trainable weights in layers of {', '.join(kinds)}, but {type(module).__name__} has none"
        )
    for name, weight in weights.items():
        if is_lazy(weight):
            raise ConfigError(f"every weight must have a shape, but {name} has none yet: call the module once first")
        if weight.is_meta:
            raise ConfigError(
                f'every weight must have values, but {name} is on the device "meta": move the module with to_empty, '
                "and load its weights first"
            )
    return weights


def _gradients(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the `.grad` of each weight; zeros for one that took no part in the loss."""
    if all(weight.grad is None for weight in weights.values()):
        raise ConfigError("the criterion reads gradients, but no weight has one: call loss.backward() before prune")
    return {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()}


def _all_kept(weight: Tensor) -> Tensor:
    return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)


def _inner_module(module: nn.Module) -> nn.Module:
    """Return the module inside one that `torch.compile` has wrapped, whose parameters have longer names."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    return uncompiled(module)


def _unwrapped(optimizer: object) -> Optimizer:
    """Return torch's optimizer inside one that Lightning or Accelerate has wrapped."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, Optimizer):
        raise ConfigError(f"optimizers must be of torch.optim, got {type(inner).__name__}")
    return inner
