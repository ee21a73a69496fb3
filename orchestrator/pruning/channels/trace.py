"""Find out which channels of a network belong together, with the dependency graph of torch-pruning.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023. Its result is not trusted: channels that it couples
only in part are kept (a zero-padded shortcut), and the removal of the others is tried on the network itself.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.extras import extra
from orchestrator.layer_kinds import Convolution
from orchestrator.modules import logits_of, model_call
from orchestrator.nested import mapped, number_of_samples
from orchestrator.private_apis import tolerant_reshapes
from orchestrator.pruning.channels.confirm import confirmed_groups, some, traceable
from orchestrator.pruning.channels.graph import SIDES, ChannelGraph, Cut, Group, Layer, Member, tensor_sides
from orchestrator.pruning.macs import weight_uses

logger = logging.getLogger(__name__)


def trace_channels(module: nn.Module, inputs: Any) -> ChannelGraph:
    """Trace the channels of `module` in evaluation mode, on the inputs of one sample, without changing `module`.

    These channels are never removed: the network's outputs, which no layer reads; those in layers that cannot be cut
    (grouped convolutions, normalisation over channels, attention, bare parameters, layers that are called twice, share
    a weight, or have a computed one, as by weight norm or masks of torch.nn.utils.prune); those that are split other
    than between layers; and all others whose flow is not understood. A warning names the layers of the last ones.
    Raises ConfigError if torch-pruning is missing, the network cannot be copied or traced, its output is not a tensor,
    or no channel may be removed.
    """
    with extra("channels", "pruning of channels"):
        import torch_pruning
    if number_of_samples(inputs) == 0:
        raise ConfigError(
            f"inputs must be the tensors of one sample, such as torch.zeros(1, 3, 224, 224), got {inputs!r:.100}"
        )
    name = type(module).__name__
    network = traceable(module)
    inputs = mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, inputs)
    try:
        layers, macs, output = _layers(network, inputs)
        logits_of(output)
        widest = max((layer.size(side) for layer in layers.values() for side in SIDES), default=0)
        with warnings.catch_warnings(), torch.enable_grad(), tolerant_reshapes(widest):
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(
                network,
                inputs,
                forward_fn=model_call,
                output_transform=logits_of,
                ignored_layers=_without_channels(network),
                verbose=False,
            )
            found, unknown = _groups(graph)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the channels of model {name} cannot be traced ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): choose a selection that removes single weights"
        ) from error
    groups = _in_order(_whole(found, layers), layers)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    dense = ChannelGraph(layers, tuple(groups), parameters, macs)
    confirmed = confirmed_groups(network, dense, inputs)
    unknown += [member.layer for group in groups if group not in confirmed for member, _ in dense.writers(group)]
    if not confirmed:
        raise ConfigError(f"model {name} has no channels that can be removed: {_way_out(network)}")
    if unknown:
        logger.warning(
            "model %s: these layers keep all channels, because the flow of these is unknown: %s", name, some(unknown)
        )
    return replace(dense, groups=tuple(confirmed))


def _without_channels(network: nn.Module) -> list[nn.Module]:
    """Return the PReLU layers with one slope for all channels, which the trace must ignore.

    It freezes the slopes of every PReLU: the trace would treat them as another input of the layer.
    """
    found = [part for part in network.modules() if isinstance(part, nn.PReLU)]
    for part in found:
        part.requires_grad_(False)
    return [part for part in found if part.num_parameters == 1]


def _way_out(network: nn.Module) -> str:
    computed = [
        name
        for name, part in network.named_modules()
        if isinstance(part, Convolution | nn.Linear) and not isinstance(part.weight, nn.Parameter)
    ]
    if computed:
        return f"make the computed weights of {some(computed)} plain parameters first, or choose another selection"
    return "choose a selection that removes single weights"


def _layers(network: nn.Module, inputs: Any) -> tuple[dict[str, Layer], int, object]:
    """Return the layers that can lose channels, by name in the network's order; the network's MACs; its output."""
    calls: Counter[nn.Module] = Counter()
    positions: Counter[nn.Module] = Counter()
    macs = 0

    def count(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        nonlocal macs
        calls[layer] += 1
        for weight, times in weight_uses(layer, given, named, output):
            positions[layer] += times
            macs += times * weight.numel()

    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in network.modules()]
    with torch.no_grad():
        output = model_call(network, inputs)
    for hook in hooks:
        hook.remove()
    uses = Counter(id(p) for layer in network.modules() for p in layer.parameters(recurse=False))
    trained = dict(network.named_parameters())
    layers = {}
    for name, layer in network.named_modules():
        multiplies = isinstance(layer, Convolution | nn.Linear)
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
    return layers, macs, output


def _groups(graph: Any) -> tuple[list[Group | None], list[str]]:
    """Return the group of each layer's outputs (None: unknown layers in it), and the layers that cannot be traced."""
    names = {module: name for name, module in graph.model.named_modules()}
    found: list[Group | None] = []
    unknown: list[str] = []
    seen: set[object] = set()
    for layer in list(graph.module2node):
        if layer in seen or not isinstance(layer, Convolution | nn.Linear):
            continue
        try:
            pruner = graph.get_pruner_of_module(layer)
            channels = list(range(pruner.get_out_channels(layer)))
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
            found.append(_group(graph, group, names))
        except Exception:
            unknown.append(names[layer])
            continue
        seen.update(i.dep.target.module for i in group.items if graph.is_out_channel_pruning_fn(i.dep.handler))
    return found, unknown


def _group(graph: Any, found: Any, names: Mapping[nn.Module, str]) -> Group | None:
    """Convert a group of torch-pruning. Return None if it has a layer that cannot lose channels."""
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
    """Return the indices as a range if possible, which is smaller to send and to compare, else as a tuple."""
    plain = tuple(int(index) for index in indices)
    run = range(plain[0], plain[0] + len(plain))
    return run if plain == tuple(run) else plain


def _whole(found: Iterable[Group | None], layers: dict[str, Layer]) -> list[Group]:
    """Return the groups that own every place of every side that they touch, and that layers both write and read."""
    known = [g for g in found if g is not None and all(member.layer in layers for member in g.members)]
    owners: Counter[tuple[str, str, int]] = Counter()
    for group in known:
        for member in group.members:
            owners.update((member.layer, member.side, place) for place in member.positions)
    covered = Counter((layer, side) for (layer, side, _), count in owners.items() if count == 1)
    groups = []
    for group in known:
        owned = all(covered[m.layer, m.side] == layers[m.layer].size(m.side) > max(m.positions) for m in group.members)
        matched = all(set(m.channels) == set(range(group.size)) for m in group.members)
        read = any(member.side == "in" for member in group.members)
        written = any(m.side == "out" and layers[m.layer].weight is not None for m in group.members)
        if owned and matched and read and written and group.size > 1:
            groups.append(group)
    return groups


def _in_order(groups: Iterable[Group], layers: Iterable[str]) -> list[Group]:
    """Sort groups and members by the order of the layers, not of the trace, because keys depend on it."""
    place = {name: index for index, name in enumerate(layers)}
    members = [sorted(group.members, key=lambda m: (place[m.layer], m.side)) for group in groups]
    ordered = [Group(g.size, tuple(m)) for g, m in zip(groups, members, strict=True)]
    return sorted(ordered, key=lambda group: (place[group.members[0].layer], group.members[0].side))
