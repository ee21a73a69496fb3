"""Take out channels that a mask has silenced, without changing what the network says.

Zero filters do not make a channel zero: it still gives relu(beta - gamma * mean / deviation) everywhere, the same for
every image. Whoever reads it gets that constant as a bias, and then the channel can go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from orchestrator.modules import copy_module
from orchestrator.pruning.channel_graph import ChannelGraph, Kept
from orchestrator.pruning.shrink import shrink


@dataclass(frozen=True)
class Folding:
    """What became of the constants of removed channels, by the layer that read them.

    `folded`: channels whose constant, other than 0, its bias (or the running mean after it) now holds. `borders`: of
    these, those that a zero padding kept from the edge of the image, where the outputs now differ; inside they do not.
    `lost`: channels with nowhere to put their constant, or none because they vary (in a squeeze-and-excitation block,
    after a padded average). `difference`: between the outputs before and after, on two images of noise, the largest
    over the largest output; measured, so that nothing is exact by claim alone.
    """

    folded: dict[str, int] = field(default_factory=dict)
    borders: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    difference: float = 0.0

    @property
    def exact(self) -> bool:
        return not self.borders and not self.lost and self.difference < 1e-5


def silent_channels(graph: ChannelGraph, weights: Mapping[str, Tensor]) -> Kept:
    """The configuration without the channels that only zero filters write; one of each group stays in any case."""
    alive = []
    for group in graph.groups:
        flags = torch.zeros(group.size, dtype=torch.bool)
        for member, name in graph.writers(group):
            dim = graph.layers[member.layer].cuts[name].sides.index("out")
            heard = weights[name].detach().cpu().movedim(dim, 0).flatten(1).ne(0).any(1)
            flags[torch.tensor(member.channels)] |= heard[torch.tensor(member.positions)]
        flags[0] |= not flags.any()
        alive.append(flags)
    return graph.configuration(alive)


def remove_silent(module: nn.Module, graph: ChannelGraph, input_shape: tuple[int, ...]) -> tuple[Kept, Folding]:
    """Shrink the dense `module`, in place, by its silent channels; (configuration, what became of their constants).

    In evaluation mode the outputs stay the same, up to rounding, where the answer is `exact`.
    """
    kept = silent_channels(graph, dict(module.named_parameters()))
    noise = torch.randn((2, *input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = _outputs(module, noise)
    folding = _fold(module, kept, noise)
    after = _outputs(shrink(module, kept), noise)
    difference = float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))
    return kept, replace(folding, difference=difference)


@torch.no_grad()
def _outputs(module: nn.Module, images: Tensor) -> Tensor:
    outputs: Tensor = copy_module(module).cpu().double().eval()(images)
    return outputs


@torch.no_grad()
def _fold(module: nn.Module, kept: Kept, noise: Tensor) -> Folding:
    folding = Folding()
    inputs, norms = _observe(module, kept, noise)
    for name, seen in inputs.items():
        layer: Any = module.get_submodule(name)
        gone = torch.ones(seen.shape[1], dtype=torch.bool)
        gone[torch.tensor(kept[name]["in"])] = False
        values = seen[:, gone].flatten(2).transpose(0, 1).flatten(1)  # (channels, all that was seen)
        constant = values.mean(1)
        varies = (values - constant[:, None]).abs().amax(1) > 1e-9 * (1 + constant.abs())
        if isinstance(layer, _ConvTransposeNd):  # how many taps meet depends on the place
            varies |= constant != 0
        if count := int(varies.sum()):
            folding.lost[name] = count
        constant = constant.masked_fill(varies, 0)
        if not (count := int((constant != 0).sum())):
            continue
        taps = layer.weight.double().cpu()[:, gone].flatten(2).sum(2) if layer.weight.dim() > 2 else None
        shift = (layer.weight.double().cpu()[:, gone] if taps is None else taps) @ constant
        if layer.bias is not None:
            layer.bias += shift.to(layer.bias)
        elif (norm := norms.get(name)) is not None:
            norm.running_mean -= shift.to(norm.running_mean)
        else:
            folding.lost[name] = folding.lost.get(name, 0) + count
            continue
        folding.folded[name] = count
        if isinstance(layer, _ConvNd) and layer.padding_mode == "zeros" and _pads(layer):
            folding.borders[name] = count
    return folding


def _pads(layer: _ConvNd) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(layer.padding)


def _observe(module: nn.Module, kept: Kept, noise: Tensor) -> tuple[dict[str, Tensor], dict[str, _BatchNorm]]:
    """Of each layer that reads removed channels: its input (n, C, places) on noise, and the batch norm right after."""
    network = copy_module(module).cpu().double().eval()
    readers = {network.get_submodule(name): name for name, sides in kept.items() if "in" in sides}
    inputs: dict[str, Tensor] = {}
    outputs: list[tuple[Tensor, int, str]] = []  # with their version, which an activation in place changes
    norms: dict[str, _BatchNorm] = {}
    originals = dict(module.named_modules())
    names = {layer: name for name, layer in network.named_modules()}

    def read(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            original: Any = originals[names[layer]]
            same = [name for tensor, version, name in outputs if tensor is given[0] and tensor._version == version]
            norms.update(dict.fromkeys(same, original))
        elif layer in readers:
            seen = given[0].movedim(-1, 1) if isinstance(layer, nn.Linear) else given[0]
            inputs[readers[layer]] = seen.detach().clone().flatten(2) if seen.dim() > 2 else seen[:, :, None].clone()
            outputs.append((output, output._version, readers[layer]))

    hooks = [layer.register_forward_hook(read) for layer in network.modules()]
    network(noise)
    for hook in hooks:
        hook.remove()
    return inputs, norms
