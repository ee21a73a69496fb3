"""Copy a module's and an optimizer's tensors out and in, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.errors import DamagedError
from orchestrator.work import Tensors, TrainState


def model_tensors(module: nn.Module) -> Tensors:
    """Parameters and persistent buffers by name; a shared tensor once, under its first name. Views, not copies."""
    persistent = module.state_dict(keep_vars=True)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in persistent}


def take_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """A copy on the CPU, in the default memory format."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    slots = {
        f"{names[parameter]}/{slot}": value
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
        if isinstance(value, Tensor)
    }
    model = model_tensors(module)
    return TrainState(
        {name: _copy_out(tensor) for name, tensor in model.items()},
        {name: _copy_out(slots[name]) for name in sorted(slots)},
    )


def check_state(state: TrainState, module: nn.Module) -> None:
    """Raise DamagedError unless the tensors of `state` are those of `module`, and its optimizer's no larger."""
    mine = model_tensors(module)
    if mine.keys() != state.model.keys():
        differing = sorted(mine.keys() ^ state.model.keys())
        raise DamagedError(f"the saved tensors are not those of the model: {', '.join(differing[:5])!r:.500}")
    for name, tensor in mine.items():
        if tensor.shape != state.model[name].shape:
            raise DamagedError(
                f"{name}: the model has {tuple(tensor.shape)}, saved is {tuple(state.model[name].shape)}"
            )
    parameters = dict(module.named_parameters())
    for path, value in state.optimizer.items():
        parameter = parameters.get(path.rpartition("/")[0])
        if parameter is None:
            raise DamagedError(f"the optimizer's state {path!r:.200} is of no parameter of the model")
        if value.numel() > max(parameter.numel(), 1):
            raise DamagedError(f"the optimizer's state {path!r:.200} is larger than its parameter")


@torch.no_grad()
def put_state(state: TrainState, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy `state` into the module and a fresh optimizer. Raises what `check_state` raises, before anything changes."""
    check_state(state, module)
    for name, tensor in model_tensors(module).items():
        tensor.copy_(state.model[name])
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
