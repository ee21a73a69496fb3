"""Define optimizers as values: their fields are a part of the key, and `build` makes the PyTorch object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import ConfigError
from orchestrator.lazy import lazy
from orchestrator.validate import finite, flag, fraction

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator import layer_kinds, private_apis
else:
    torch, nn = lazy("torch"), lazy("torch.nn")
    layer_kinds, private_apis = lazy("orchestrator.layer_kinds"), lazy("orchestrator.private_apis")

_NORMALISATION = re.compile(r"Norm(?![a-z])")


class Optimizer(Protocol):
    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return a PyTorch optimizer over every trainable parameter of `module`, in parameter order within a group."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` (weight decay joins the gradient).

    `decay_normalisation=False` spares the parameters of normalisation layers (see `is_normalisation`) from the weight
    decay. Everything else decays, biases included, but for layers whose attribute `decays` is False.
    """

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_normalisation: bool = True

    def __post_init__(self) -> None:
        fraction("SGD.momentum", self.momentum, zero=True)
        if flag("SGD.nesterov", self.nesterov) and self.momentum == 0:
            raise ConfigError("SGD.nesterov needs a momentum above 0, got momentum 0")
        finite("SGD.weight_decay", self.weight_decay, minimum=0)
        flag("SGD.decay_normalisation", self.decay_normalisation)

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _groups(module, self.weight_decay, self.decay_normalisation)
        return private_apis.eager(torch.optim.SGD)(
            groups, lr=1.0, momentum=self.momentum, nesterov=self.nesterov, fused=True
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), for transformers.

    `decay_normalisation` as in `SGD`.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    decay_normalisation: bool = False

    def __post_init__(self) -> None:
        fraction("AdamW.beta1", self.beta1, zero=True)
        fraction("AdamW.beta2", self.beta2, zero=True)
        finite("AdamW.epsilon", self.epsilon, above=0)
        finite("AdamW.weight_decay", self.weight_decay, minimum=0)
        flag("AdamW.decay_normalisation", self.decay_normalisation)

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _groups(module, self.weight_decay, self.decay_normalisation)
        betas = (self.beta1, self.beta2)
        return private_apis.eager(torch.optim.AdamW)(groups, lr=1.0, betas=betas, eps=self.epsilon, fused=True)


def is_normalisation(layer: nn.Module) -> bool:
    """Return whether the class of `layer`, or a class that it derives from, has the word Norm in its name.

    All of torch's do (BatchNorm2d, RMSNorm, ...), and so do those of other libraries (LlamaRMSNorm, EvoNorm2dB0). A
    convolution, linear, recurrent or embedding layer is not one, even with such a name. An attribute `is_normalisation`
    of your class, True or False, decides for itself.
    """
    stated = getattr(layer, "is_normalisation", None)
    if isinstance(stated, bool):
        return stated
    named = any(_NORMALISATION.search(kind.__name__) for kind in type(layer).__mro__)
    others = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase)
    return named and not isinstance(layer, (layer_kinds.Convolution, *others))


def _groups(module: nn.Module, weight_decay: float, decay_normalisation: bool) -> list[dict[str, Any]]:
    undecayed = {
        id(parameter)
        for layer in module.modules()
        if not getattr(layer, "decays", True) or (is_normalisation(layer) and not decay_normalisation)
        for parameter in layer.parameters(recurse=False)
    }
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in undecayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
