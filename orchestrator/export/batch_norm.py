"""Fold batch norm into the convolution before it: the same function in inference, with fewer tensors."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from orchestrator.errors import ExportError
from orchestrator.export.agreement import RELATIVE
from orchestrator.export.converting import check_weights
from orchestrator.export.example import ExampleInputs, Observed, observe
from orchestrator.export.flat import arrays_out
from orchestrator.modules import copy_module, model_call
from orchestrator.private_apis import has_forward_hooks
from orchestrator.user_code import one_line

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(module: nn.Module) -> list[str]:
    """Fold, in place, every batch norm that follows a convolution, and return the names of these norms.

    W' = W * gamma / sqrt(var + eps) by output channel, b' = (b - mean) * gamma / sqrt(var + eps) + beta; the norm
    becomes an identity. Only where nothing else reads the convolution's output, each is used once, and no weight is
    shared, computed by a parametrization, or seen by a hook. A removed weight stays zero. The module goes into
    evaluation mode.

    Raises ExportError for a module whose flow cannot be traced (torch.fx).
    """
    module.eval()
    try:
        graph = fx.Tracer().trace(module)
    except Exception as error:
        raise ExportError(
            f"batch norm cannot be folded: the flow of {type(module).__name__} cannot be traced ({one_line(error)})"
        ) from error
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    named = dict(module.named_parameters(remove_duplicate=False))
    owners = Counter(named.values())
    owners.update(named[str(node.target)] for node in graph.nodes if node.op == "get_attr" and node.target in named)
    parts = dict(module.named_modules(remove_duplicate=False))
    names: list[str] = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1):
            continue
        conv_name, norm_name = str(source.target), str(node.target)
        conv, norm = parts[conv_name], parts[norm_name]
        if not (isinstance(conv, _CONVOLUTIONS) and isinstance(norm, _NORMS) and norm.running_mean is not None):
            continue
        if calls[conv_name] > 1 or calls[norm_name] > 1 or any(owners[p] > 1 for p in conv.parameters()):
            continue
        if any(is_parametrized(part) or has_forward_hooks(part) for part in (conv, norm)):
            continue
        _replace(module, conv_name, fuse_conv_bn_eval(conv, norm))
        _replace(module, norm_name, nn.Identity())
        names.append(norm_name)
    return names


def for_inference(module: nn.Module, observed: Observed) -> nn.Module:
    """Return a copy as `in_float32` does, with batch norm folded where that does not change the function.

    `observed`: the outputs of `module` for its example. Raises ExportError as `copied` does.
    """
    made = in_float32(module)
    try:
        return _checked(in_float32(module), observed)
    except ExportError:  # a network that cannot be folded keeps its norms
        return made


def folded(module: nn.Module, example: ExampleInputs) -> nn.Module:
    """Return a copy of `module` with batch norm folded, compared with `module` on the example.

    Raises ExportError as `copied` and `fold_batch_norm` do, or if the outputs change.
    """
    made = copied(module)
    return _checked(made, observe(made, example))


@torch.no_grad()
def _checked(made: nn.Module, observed: Observed) -> nn.Module:
    """Fold batch norm in `made`, in place. Raises ExportError if its outputs are no longer those observed."""
    fold_batch_norm(made)
    if not observed.error_of(lambda tensors: arrays_out(model_call(made, observed.call.inputs(tensors)))) <= RELATIVE:
        raise ExportError("batch norm cannot be folded: that changes the outputs of the network")
    return made


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the CPU in evaluation mode.

    Raises ExportError for a module without values (see `check_weights`) or one that Python cannot copy.
    """
    check_weights(module)
    return copy_module(module, ExportError).cpu().eval()


def in_float32(module: nn.Module) -> nn.Module:
    """Return a copy as `copied` does, in float32 if `module` has weights of 16 bits, which few runtimes take.

    Raises ExportError as `copied` does.
    """
    made = copied(module)
    return made.float() if any(weight.dtype.itemsize == 2 for weight in made.parameters()) else made


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, part)
