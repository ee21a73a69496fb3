"""Use what torch, torch-pruning and ExecuTorch keep private. All of it stands here, and a test fails when it changes.

Other files import these functions, never a private name of another package (Ray's are in `distributed/ray_private.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

# The versions in which these were read, by the package's name.
READ_IN = {"torch": "2.14", "torch-pruning": "1.6", "executorch": "1.5"}

_Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]
# Change many tensors in one call, a few times as fast as a loop. Called in every step, and so bound here.
multiply_each: Callable[[_Tensors, _Tensors], None] = torch._foreach_mul_
lerp_each: Callable[[_Tensors, _Tensors, float], None] = torch._foreach_lerp_


# The function returns a number that rises with each change of a tensor in place. Called for every weight of a step.
version_of: Callable[[Tensor], int] = attrgetter("_version")


def tensor_stores(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the dictionaries in which `module` itself holds its parameters and its buffers, by name.

    Any tensor that is put into them is computed with; `setattr` takes only a Parameter for a parameter, and
    `torch.func.functional_call` looks through all modules each time.
    """
    return module._parameters, module._buffers


def copy_with(module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `module`, called `name`, that holds its parameters and buffers of `tensors` themselves.

    `copy.deepcopy` takes five times as long.
    """
    copied = nn.Module.__new__(type(module))
    own = {key: value.copy() if isinstance(value, dict | set) else value for key, value in vars(module).items()}
    vars(copied).update(own)  # what the modules share now is never changed: numbers, texts and tuples
    for key, parameter in module._parameters.items():
        copied._parameters[key] = None if parameter is None else nn.Parameter(tensors[f"{name}.{key}"])
    for key, buffer in module._buffers.items():
        copied._buffers[key] = None if buffer is None else tensors[f"{name}.{key}"]
    for key, part in module._modules.items():
        copied._modules[key] = None if part is None else copy_with(part, f"{name}.{key}", tensors)
    return copied


def has_forward_hooks(module: nn.Module) -> bool:
    """Return whether something sees or changes what goes through `module`, as weight norm and the user's hooks do."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module inside one that `torch.compile` has wrapped, whose parameters have longer names."""
    inner = getattr(module, "_orig_mod", module)
    assert isinstance(inner, nn.Module)
    return inner


def schedulers_in(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers that a sequence or a chain consists of; none for another scheduler."""
    return list(scheduler._schedulers) if isinstance(scheduler, SequentialLR | ChainedScheduler) else []


def milestones(sequence: SequentialLR) -> list[int]:
    """Return the steps at which `sequence` goes on to its next scheduler."""
    return sequence._milestones


@functools.cache
def eager(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return a subclass of `optimizer` that is never compiled, and gives the same bits.

    Torch wraps these methods so that its compiler treats them with care. The wrappers import the compiler, which takes
    as long as importing torch, in each process that trains.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


@contextmanager
def tolerant_reshapes(widest: int) -> Iterator[None]:
    """Limit failures of torch-pruning to one group of channels, or to one reshape, while the block runs.

    It mistakes some reshapes for flattened channels. For the windows of a transformer it would expand them again and
    again, until memory is full: here a group with more than `widest` places raises OverflowError. It divides by zero at
    a reshape before which it knows no channels: here that reshape is ignored.
    """
    from torch_pruning.dependency import index_mapping

    flatten, reshape = index_mapping._FlattenIndexMapping.__call__, index_mapping.update_reshape_index_mapping

    def bounded(self: Any, places: Any) -> Any:
        found = flatten(self, places)
        if len(found) > widest:
            raise OverflowError("its reshapes mix channels with positions")
        return found

    def guarded(graph: Any, node: Any) -> None:
        with suppress(ZeroDivisionError):
            reshape(graph, node)

    index_mapping._FlattenIndexMapping.__call__ = bounded
    index_mapping.update_reshape_index_mapping = guarded
    try:
        yield
    finally:
        index_mapping._FlattenIndexMapping.__call__ = flatten
        index_mapping.update_reshape_index_mapping = reshape


@contextmanager
def onnx_operators_kept() -> Iterator[None]:
    """Keep the operators of torch's ONNX exporter from one file of this process to the next while the block runs.

    The exporter parses the source code of all of them for each file, which takes 0.3 s.
    """
    from torch.onnx._internal.exporter import _registration

    packages: Any = _registration
    exporter = packages.onnxscript_apis
    parse = exporter.get_torchlib_ops
    exporter.get_torchlib_ops = lambda: _parsed(parse)
    try:
        yield
    finally:
        exporter.get_torchlib_ops = parse


@cache
def _parsed(parse: Callable[[], list[Any]]) -> list[Any]:
    return parse()


def set_executorch_threads(threads: int) -> None:
    """Have ExecuTorch compute with so many threads. Its public runtime has no setting for it."""
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(threads)
