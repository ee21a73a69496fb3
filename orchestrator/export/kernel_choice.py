"""Make a network with zeros faster in plain torch: sparse kernels in the layers where the whole network gains.

A layer's own time alone misleads where it gains little: its neighbours pay for other memory layouts. So a layer's time
only proposes, and the time of the whole network decides between the proposals and the dense network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export.batch_norm import for_inference, in_float32
from orchestrator.export.example import ExampleInputs, Observed, observe
from orchestrator.export.flat import arrays_out
from orchestrator.export.sparse_layers import SparseRows, as_sparse
from orchestrator.modules import copy_module, model_call

TOLERANCE = 1e-5  # of the largest output
SPARSE = 0.5  # part of a layer's weights that must be zero before its time is measured
MARGINS = (1.0, 0.8, 0.6)  # proposals: layers whose sparse time is below that part of their dense time
GAIN = 0.97  # part of every dense network's time, its shortest and its median, that the result must stay below
LAYER_ROUNDS, NETWORK_ROUNDS = 5, 9
NETWORK_SECONDS = 0.5  # small networks are timed more often, for so long together


@dataclass(frozen=True)
class FastNetwork:
    """Hold a network for inference, its layers with sparse kernels, and the shortest measured seconds of a call.

    `dense_seconds`: of the same network with dense kernels, in the better of torch's two memory layouts.
    """

    module: nn.Module
    sparse: tuple[str, ...]
    seconds: float
    dense_seconds: float


def fast_kernels(module: nn.Module, example: Any) -> nn.Module:
    """Return a copy of `module` for inference that is as fast on `example`'s batch as torch's kernels make it.

    Batch norm is folded, and layers with many zeros become `SparseLinear` and `SparseConv2d` where that is measured to
    make the network faster, with the threads that torch has now. `example`: a batch of inputs as the module takes it.
    The outputs are equal to 1e-5 of the largest. Its state is plain tensors, which safetensors can save.

    Raises ExportError for a module that does not take the example or cannot be copied.
    """
    return choose_kernels(module, example).module


@torch.no_grad()
def choose_kernels(module: nn.Module, example: Any) -> FastNetwork:
    """Do as `fast_kernels`, and say what was chosen."""
    observed = observe(in_float32(module), ExampleInputs(example))
    network = for_inference(module, observed)
    if not _agrees(network, observed):
        network = in_float32(module)  # its norms stay
    layers = _layers(network, example)
    proposals = _proposals(layers)
    other_layout = copy_module(network, ExportError).to(memory_format=torch.channels_last)
    variants: list[tuple[nn.Module, Collection[str]]] = [(network, ()), (other_layout, ())]
    variants += [(network, names) for names in proposals if _agrees(_with(network, layers, names), observed)]

    def prepare(made: nn.Module, names: Collection[str]) -> Callable[[], Any]:
        _with(network, layers, names)
        return partial(model_call, made, example)

    times = times_by_turns([partial(prepare, *variant) for variant in variants], NETWORK_ROUNDS, NETWORK_SECONDS)
    best = _fastest(times)
    made, names = variants[best]
    _with(network, layers, names)
    return FastNetwork(made, tuple(names), min(times[best]), min(map(min, times[:2])))


def _fastest(times: Sequence[Sequence[float]]) -> int:
    """Return the place of the fastest variant; of the first two, which are dense, if no other clearly gains on them."""

    def gains(place: int) -> bool:
        return all(of(times[place]) <= GAIN * of(times[dense]) for of in (min, median) for dense in (0, 1))

    found = [place for place in range(2, len(times)) if gains(place)] or [0, 1]
    return min(found, key=lambda place: min(times[place]))


def times_by_turns(
    prepared: Sequence[Callable[[], Callable[[], Any]]], rounds: int, seconds: float = 0.0
) -> list[list[float]]:
    """Return the seconds of each call in `rounds` or more, by turns: what slows the machine slows them all.

    Rounds go on until the calls took `seconds`. Each of `prepared` gives what is timed; it is called before every turn
    and not timed itself. A turn begins with a call that is not timed, which puts the weights into the caches.
    """
    taken: list[list[float]] = [[] for _ in prepared]
    while len(taken[0]) < rounds or sum(map(sum, taken)) < seconds:
        for mine, prepare in zip(taken, prepared, strict=True):
            run = prepare()
            run()
            begin = time.perf_counter()
            run()
            mine.append(time.perf_counter() - begin)
    return taken


@dataclass(frozen=True)
class _BothWays:
    """Hold a layer with dense and with sparse kernels, and its input in the example."""

    dense: nn.Module
    sparse: SparseRows
    given: Any


def _layers(network: nn.Module, example: Any) -> dict[str, _BothWays]:
    """Return the layers that may gain and are called: some of torch's own modules read a layer's weight instead."""
    given: dict[str, Any] = {}
    candidates = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and float((layer.weight == 0).float().mean()) > SPARSE
    }
    sparse = {name: made for name, layer in candidates.items() if (made := as_sparse(layer)) is not None}

    def see(name: str, inputs: Any) -> None:
        given.setdefault(name, inputs[0])

    hooks = [
        candidates[name].register_forward_pre_hook(lambda _, inputs, name=name: see(name, inputs)) for name in sparse
    ]
    try:
        model_call(network, example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _BothWays(candidates[name], sparse[name], given[name]) for name in sparse if name in given}


def _proposals(layers: Mapping[str, _BothWays]) -> list[tuple[str, ...]]:
    """Return different sets of layers, by how much faster each is on its own."""
    ratios = {}
    for name, layer in layers.items():
        ways = [partial(partial, way, layer.given) for way in (layer.dense, layer.sparse)]
        dense, sparse = map(min, times_by_turns(ways, LAYER_ROUNDS))
        ratios[name] = sparse / dense
    found = [tuple(name for name, ratio in ratios.items() if ratio < margin) for margin in MARGINS]
    return [names for names in dict.fromkeys(found) if names]


def _with(network: nn.Module, layers: Mapping[str, _BothWays], names: Collection[str]) -> nn.Module:
    """Return `network` with those of its `layers` sparse that `names` has, and the others dense; changed in place."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.sparse if name in names else layer.dense)
    return network


def _agrees(network: nn.Module, observed: Observed) -> bool:
    return (
        observed.error_of(lambda tensors: arrays_out(model_call(network, observed.call.inputs(tensors)))) <= TOLERANCE
    )
