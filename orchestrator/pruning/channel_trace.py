"""Find out which channels of a network belong together, with the dependency graph of torch-pruning.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023. What it says is not taken on trust: channels that
it couples only in part stay (a zero-padded shortcut), and what is left is tried on the network itself.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from orchestrator.errors import ConfigError
from orchestrator.extras import extra
from orchestrator.pruning.channel_graph import SIDES, ChannelGraph, Cut, Group, Layer, Member, tensor_sides
from orchestrator.pruning.macs import weight_uses
from orchestrator.pruning.shrink import shrink


def trace_channels(module: nn.Module, input_shape: tuple[int, ...]) -> ChannelGraph:
    """The channels of `module`, traced on one image (C, H, W) in evaluation mode; `module` itself stays as it is.

    Channels that no layer reads are the network's outputs and stay, so the classifier does. So do channels in layers
    that this cannot cut: grouped convolutions, normalisation over channels, attention, bare parameters, layers that
    are called twice or share a weight. Raises ConfigError where torch-pruning is missing, the network cannot be
    traced, or no channel is left that may go.
    """
    with extra("channels", "pruning of channels"):
        import torch_pruning
    network = copy.deepcopy(module).cpu().float().eval().requires_grad_()
    image = torch.zeros((1, *input_shape))
    try:
        layers, macs = _layers(network, image)
        widest = max((layer.size(side) for layer in layers.values() for side in SIDES), default=0)
        with warnings.catch_warnings(), torch.enable_grad(), _bounded(widest):
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(network, image, verbose=False)
            kinds = [nn.modules.conv._ConvNd, nn.Linear]
            found = [_group(graph, group) for group in graph.get_all_groups(root_module_types=kinds)]
    except Exception as error:
        raise ConfigError(
            f"the channels of model {type(module).__name__} cannot be traced ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): choose another selection than Channels"
        ) from error
    groups = _in_order(_whole(found, layers), layers)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    groups = _confirmed(network, ChannelGraph(layers, tuple(groups), parameters, macs), input_shape)
    if not groups:
        raise ConfigError(
            f"model {type(module).__name__} has no channels that can be removed: choose another selection than Channels"
        )
    return ChannelGraph(layers, tuple(groups), parameters, macs)


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """End a trace in which a group comes to have more places than the widest layer.

    torch-pruning takes the windows of some transformers for flattened channels, again and again, until memory ends.
    """
    from torch_pruning.dependency.index_mapping import _FlattenIndexMapping

    original = _FlattenIndexMapping.__call__

    def bounded(self: Any, places: Any) -> Any:
        found = original(self, places)
        if len(found) > most:
            raise OverflowError("its reshapes mix channels with positions")
        return found

    _FlattenIndexMapping.__call__ = bounded
    try:
        yield
    finally:
        _FlattenIndexMapping.__call__ = original


def _layers(network: nn.Module, image: Tensor) -> tuple[dict[str, Layer], int]:
    """Layers that can lose channels, by name in the network's order, and the MACs of all that multiply."""
    calls: Counter[nn.Module] = Counter()
    positions: Counter[nn.Module] = Counter()
    macs = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        nonlocal macs
        calls[layer] += 1
        for weight, times in weight_uses(layer, inputs, named, output):
            positions[layer] += times
            macs += times * weight.numel()

    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in network.modules()]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    uses = Counter(id(p) for layer in network.modules() for p in layer.parameters(recurse=False))
    trained = dict(network.named_parameters())
    layers = {}
    for name, layer in network.named_modules():
        multiplies = isinstance(layer, _ConvNd | nn.Linear)
        sides = tensor_sides(layer)
        shared = any(uses[id(p)] > 1 for p in layer.parameters(recurse=False))
        if sides is None or calls[layer] != 1 or shared:
            continue
        cuts = {
            f"{name}.{attribute}": Cut(tuple(tensor.shape), of, f"{name}.{attribute}" in trained)
            for attribute, of in sides.items()
            if (tensor := getattr(layer, attribute, None)) is not None
        }
        layers[name] = Layer(cuts, f"{name}.weight" if multiplies else None, positions[layer])
    return layers, macs


def _group(graph: Any, found: Any) -> Group | None:
    """A group of torch-pruning's in our words; None if it holds what is no layer of ours."""
    names = {module: name for name, module in graph.model.named_modules()}
    members: dict[tuple[str, str], Member] = {}
    for item in found.items:
        target = item.dep.target.module
        if isinstance(target, nn.Parameter):
            return None
        if target not in names:
            continue  # an operation without weights
        sides = {side for of in (tensor_sides(target) or {}).values() for side in of}
        if not sides:
            if not list(target.parameters(recurse=False)):
                continue
            return None
        out = graph.is_out_channel_pruning_fn(item.dep.handler) or "in" not in sides
        member = Member(names[target], "out" if out else "in", _short(item.idxs), _short(item.root_idxs))
        if (member.layer, member.side) in members and members[member.layer, member.side] != member:
            return None
        members[member.layer, member.side] = member
    return Group(len(found.items[0].idxs), tuple(members.values()))


def _short(indices: Iterable[int]) -> Sequence[int]:
    """A range where they are one: most are, and it is smaller to send and to compare."""
    plain = tuple(int(index) for index in indices)
    run = range(plain[0], plain[0] + len(plain))
    return run if plain == tuple(run) else plain


def _whole(found: Iterable[Group | None], layers: dict[str, Layer]) -> list[Group]:
    """The groups that own every place of every side that they touch, and are written as well as read."""
    known = [g for g in found if g is not None and all(member.layer in layers for member in g.members)]
    owners: Counter[tuple[str, str, int]] = Counter()
    for group in known:
        for member in group.members:
            owners.update((member.layer, member.side, place) for place in member.positions)
    covered = Counter((layer, side) for (layer, side, _), count in owners.items() if count == 1)
    groups = []
    for group in known:
        owned = all(covered[m.layer, m.side] == layers[m.layer].size(m.side) for m in group.members)
        matched = all(set(m.channels) == set(range(group.size)) for m in group.members)
        read = any(member.side == "in" for member in group.members)
        written = any(m.side == "out" and layers[m.layer].weight is not None for m in group.members)
        if owned and matched and read and written and group.size > 1:
            groups.append(group)
    return groups


def _in_order(groups: Iterable[Group], layers: Iterable[str]) -> list[Group]:
    """By the order of the layers, whatever the order of the trace: keys depend on it."""
    place = {name: index for index, name in enumerate(layers)}
    members = [sorted(group.members, key=lambda m: (place[m.layer], m.side)) for group in groups]
    ordered = [Group(g.size, tuple(m)) for g, m in zip(groups, members, strict=True)]
    return sorted(ordered, key=lambda group: (place[group.members[0].layer], group.members[0].side))


def _confirmed(network: nn.Module, graph: ChannelGraph, input_shape: tuple[int, ...]) -> list[Group]:
    """The groups of `graph` whose removal does what it should: all of them, or those that do so with those before."""
    generator = torch.Generator().manual_seed(0)
    network = network.double()
    _randomise(network, generator)
    image = torch.randn((1, *input_shape), generator=generator, dtype=torch.float64)
    if _removal_is_masking(network, graph, image):
        return list(graph.groups)
    confirmed: list[Group] = []
    for group in graph.groups:
        if _removal_is_masking(network, replace(graph, groups=(*confirmed, group)), image):
            confirmed.append(group)
    return confirmed


@torch.no_grad()
def _randomise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights that hide nothing: no zeros, and signals that neither die nor explode."""
    for parameter in network.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.dim() > 1:
            parameter.copy_(drawn * (parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.copy_(0.5 + drawn.abs())


def _removal_is_masking(network: nn.Module, graph: ChannelGraph, image: Tensor) -> bool:
    """Whether channels gone give the outputs of the same channels silenced: every second one, and two random halves.

    Every second one alone would not tell a channel from the one two places on.
    """
    generator = torch.Generator().manual_seed(0)
    return all(
        _same_without(network, graph, image, alive)
        for alive in (
            [torch.arange(group.size) % 2 == 0 for group in graph.groups],
            *([_random_half(group.size, generator) for group in graph.groups] for _ in range(2)),
        )
    )


def _random_half(size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(size, generator=generator) < size - size // 2


@torch.no_grad()
def _same_without(network: nn.Module, graph: ChannelGraph, image: Tensor, alive: Sequence[Tensor]) -> bool:
    masked = copy.deepcopy(network)
    tensors = dict(masked.named_parameters())
    for group, kept in zip(graph.groups, alive, strict=True):
        gone = ~kept
        for member in group.members:
            places = torch.tensor(member.positions)[gone[torch.tensor(member.channels)]]
            for name, cut in graph.layers[member.layer].cuts.items():
                if member.side == "out" and cut.trained:
                    tensors[name].index_fill_(cut.sides.index("out"), places, 0)
    try:
        expected = masked(image)
        removed = shrink(copy.deepcopy(network), graph.configuration(alive))(image)
    except Exception:
        return False
    return removed.shape == expected.shape and bool(
        torch.allclose(removed, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    )
