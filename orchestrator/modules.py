"""Handle any user's modules: give their tensors own memory, copy them, call them, and read their outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy("torch")

LOGITS = ("logits", "out")  # names of the logits in outputs that hold more: transformers, torchvision's segmentation


def own_memory(module: nn.Module) -> nn.Module:
    """Replace every expanded parameter or buffer of `module` by a contiguous copy, and return `module`.

    The elements of an expanded tensor share memory, so that no value can be written to it.
    Raises ConfigError for one that views another tensor of the module: the copy would no longer follow it.
    """
    named = dict(chain(module.named_parameters(), module.named_buffers()))
    memory = {name: tensor.untyped_storage().data_ptr() for name, tensor in named.items()}
    for name, tensor in named.items():
        if tensor.numel() and any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True)):
            if others := [other for other in named if other != name and memory[other] == memory[name] != 0]:
                raise ConfigError(
                    f"{name} must not be expanded from {', '.join(others)}, which a model keeps too: expand it in "
                    "forward()"
                )
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
    return module


def copy_module(module: nn.Module, error: type[OrchestratorError] = ConfigError) -> nn.Module:
    """Return a deep copy of `module`. Weights that hooks compute, as weight_norm's, are copied as they are now.

    Raises `error` for a module that Python cannot copy.
    """
    computed: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, computed)
    except Exception as cause:
        raise error(
            f"{type(module).__name__} cannot be copied ({type(cause).__name__}: {' '.join(str(cause).split())[:200]}): "
            "its parts must allow copy.deepcopy"
        ) from cause


def model_call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call `model` with a tensor as it is, with a tuple or list as arguments, with a dict as named arguments."""
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def logits_of(outputs: Any, error: type[OrchestratorError] = ConfigError) -> Tensor:
    """Return the tensor of a model's outputs: itself, the first of several, or the part named as one of `LOGITS`.

    Raises `error` for anything else.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    found: object
    if isinstance(outputs, Mapping):
        found = next((outputs[name] for name in LOGITS if name in outputs), None)
    else:
        named = (getattr(outputs, name, None) for name in LOGITS)
        first = outputs[0] if isinstance(outputs, tuple | list) and outputs else None
        found = next((value for value in named if value is not None), first)
    if not isinstance(found, torch.Tensor):
        raise error(
            f"the model must return a tensor, a tuple that begins with one, or an object with {' or '.join(LOGITS)}, "
            f"got {type(outputs).__name__}: give the experiment a task of your own that reads it"
        )
    return found
