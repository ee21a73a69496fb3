"""Modules of any user's: give their tensors memory of their own, copy them, and require a tensor as their answer."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, OrchestratorError


def own_memory(module: nn.Module) -> nn.Module:
    """`module`, in place, with a contiguous copy in the place of every expanded parameter or buffer.

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
    """A deep copy of `module`. Weights that hooks compute, as weight_norm's, are copied as they are now.

    Raises `error` for a module that Python cannot copy.
    """
    computed: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, computed)
    except Exception as cause:
        raise error(
            f"{type(module).__name__} cannot be copied ({type(cause).__name__}: {' '.join(str(cause).split())[:200]}): "
            "its parts must allow copy.deepcopy"
        ) from cause


def tensor_answer(module: nn.Module, answer: object, error: type[OrchestratorError] = ConfigError) -> Tensor:
    """`answer`, which `module` gave. Raises `error` unless it is a tensor."""
    if not isinstance(answer, Tensor):
        raise error(
            f"model {type(module).__name__} must answer with a tensor of logits, got {type(answer).__name__}: "
            "wrap it in a module whose forward() returns the logits alone"
        )
    return answer
