"""Describe a network's layers for a search for ratios: their shapes, and how often each weight multiplies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.amc.layer_shape import LayerShape
from orchestrator.lazy import lazy
from orchestrator.modules import model_call

if TYPE_CHECKING:
    from torch import nn

    from orchestrator.amc import forward_shapes
    from orchestrator.pruning import macs
else:
    forward_shapes, macs = lazy("orchestrator.amc.forward_shapes"), lazy("orchestrator.pruning.macs")


@dataclass(frozen=True)
class Geometry:
    """Hold the `shapes` of the layers of the dense network, by their name.

    `uses`: how often each element of a weight multiplies for one sample, by the weight's name; a rounded mean where
    that differs within a tensor, as it may for the projections of attention. `macs`: of the dense network for one
    sample. `parameters`: how many it has.
    """

    shapes: dict[str, LayerShape] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    macs: int = 0
    parameters: int = 0


def geometry_of(module: nn.Module, inputs: Any) -> Geometry:
    """Return the geometry of `module`, which is left as it was. `inputs`: of one sample."""
    multiplied: Counter[int] = Counter()  # by the place of a weight in memory: attention's are parts of one tensor

    def see(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        for weight, uses in macs.weight_uses(part, given, named, output):
            multiplied[weight.untyped_storage().data_ptr()] += uses * weight.numel()

    hooks = [part.register_forward_hook(see, with_kwargs=True) for part in module.modules()]
    try:
        shapes = forward_shapes.layer_shapes(module, lambda: model_call(module, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    parameters = dict(module.named_parameters())
    memory = {name: weight.untyped_storage().data_ptr() for name, weight in parameters.items() if weight.dim() > 1}
    uses = {name: round(multiplied[place] / parameters[name].numel()) for name, place in memory.items()}
    trained = sum(parameter.numel() for parameter in parameters.values())
    return Geometry(shapes, uses, sum(multiplied.values()), trained)
