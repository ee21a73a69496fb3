"""Copy a module's and an optimizer's tensors out and in, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.errors import DamagedError
from orchestrator.train_state import Tensors, TrainState


def model_tensors(module: nn.Module) -> Tensors:
    """Return parameters and persistent buffers by name, not copied; a shared tensor once, under its first name."""
    persistent = module.state_dict(keep_vars=True)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in persistent}


def take_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Return a copy on the CPU, in the default memory format."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    slots = {
        f"{names[parameter]}/{slot}": value
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
        if isinstance(value, Tensor)
    }
    return TrainState(take_model(module), {name: _copy_out(slots[name]) for name in sorted(slots)})


def take_model(module: nn.Module) -> Tensors:
    """Return the module's part of `take_state`."""
    return {name: _copy_out(tensor) for name, tensor in model_tensors(module).items()}


def check_model_tensors(model: Tensors, module: nn.Module) -> None:
    """Raise DamagedError unless `model` has the tensors of `module`."""
    mine = model_tensors(module)
    if mine.keys() != model.keys():
        differing = sorted(mine.keys() ^ model.keys())
        raise DamagedError(f"the saved tensors are not those of the model: {', '.join(differing[:5])!r:.500}")
    for name, tensor in mine.items():
        if tensor.shape != model[name].shape:
            raise DamagedError(f"{name}: the model has {tuple(tensor.shape)}, saved is {tuple(model[name].shape)}")


def check_state(state: TrainState, module: nn.Module) -> None:
    """Raise DamagedError unless the tensors of `state` are those of `module`, and its optimizer's no larger."""
    check_model_tensors(state.model, module)
    parameters = dict(module.named_parameters())
    for path, value in state.optimizer.items():
        parameter = parameters.get(path.rpartition("/")[0])
        if parameter is None:
            raise DamagedError(f"the optimizer's state {path!r:.200} is of no parameter of the model")
        if value.numel() > max(parameter.numel(), 1):
            raise DamagedError(f"the optimizer's state {path!r:.200} is larger than its parameter")


@torch.no_grad()
def put_model(model: Tensors, module: nn.Module) -> None:
    """Copy `model` into the module. Raises DamagedError, before anything changes, unless the tensors fit."""
    check_model_tensors(model, module)
    for name, tensor in model_tensors(module).items():
        tensor.copy_(model[name])


@torch.no_grad()
def put_state(state: TrainState, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy `state` into the module and a fresh optimizer. Raises what `check_state` raises, before anything changes."""
    check_state(state, module)
    put_model(state.model, module)
    optimizer.state.clear()
    parameters = dict(module.named_parameters())
    for path, value in state.optimizer.items():
        name, slot = path.rsplit("/", 1)
        parameter = parameters[name]
        # A copy in the parameter's own layout: the source may be shared, read-only memory.
        like = parameter if value.shape == parameter.shape else value
        copy = torch.empty_like(like, dtype=value.dtype, device=parameter.device)  # a fused step counts on the GPU
        optimizer.state[parameter][slot] = copy.copy_(value)


def _copy_out(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
