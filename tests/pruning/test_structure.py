"""Structures: what each leaves of a small network, its tensors, its counts and its record."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.structure import Dense, FewerChannels, Masks, Structure
from orchestrator.train_state import TrainState

KEPT = {"0": {"out": [1, 2]}, "2": {"in": [1, 2]}}
FEWER_KEPT = {"0": {"out": [2]}, "2": {"in": [2]}}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 2))


SHAPES = {name: tuple(weight.shape) for name, weight in network().named_parameters()}
SIZES = {name: weight.numel() for name, weight in network().named_parameters()}
MASKS = {"0.weight": torch.tensor([True, False, True]).view(3, 1, 1, 1), "4.weight": torch.zeros(2, 8).bool()}


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return trace_channels(network(), torch.zeros(1, 1, 2, 2))


def state_of(module: nn.Module) -> TrainState:
    model = {name: tensor.detach() for name, tensor in module.named_parameters()}
    slots = {f"{name}/momentum_buffer": tensor + 1 for name, tensor in model.items()}
    return TrainState(model, {**slots, "0.weight/step": torch.tensor(3.0)})


def structures(graph: ChannelGraph) -> list[Structure]:
    return [Dense(), Masks(MASKS), FewerChannels(KEPT, graph), FewerChannels({}, graph)]


@pytest.mark.parametrize("index", range(4))
def test_shapes_counts_build_and_apply_agree(graph: ChannelGraph, index: int) -> None:
    structure = structures(graph)[index]
    module = structure.build(network)
    state = structure.apply(state_of(network()), Dense())
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    assert structure.shapes(SHAPES) == shapes == {name: tuple(tensor.shape) for name, tensor in state.model.items()}
    counts = {**{n: t.numel() for n, t in state.model.items()}, **{n: int(m.sum()) for n, m in MASKS.items()}}
    weights = [name for name in SHAPES if name.endswith("weight")]
    if structure.tensors():
        assert {name: structure.counts(SIZES)[name] for name in weights} == {name: counts[name] for name in weights}
    else:
        assert {name: structure.counts(SIZES)[name] for name in weights} == {n: state.model[n].numel() for n in weights}
    again = structure.apply(state, structure)
    assert all(torch.equal(again.model[name], tensor) for name, tensor in state.model.items())
    assert all(torch.equal(again.optimizer[slot], tensor) for slot, tensor in state.optimizer.items())


def test_masks_put_zeros_into_weights_and_slots_and_hold_them_there() -> None:
    structure, module = Masks(MASKS), network()
    state = structure.apply(state_of(module), Dense())
    for tensors in (state.model, {slot.removesuffix("/momentum_buffer"): t for slot, t in state.optimizer.items()}):
        assert all(not tensors[name][~mask].any() for name, mask in MASKS.items())
    assert state.optimizer["0.weight/step"] == 3
    held = structure.hold(module)
    held.mask_weights()
    assert torch.equal(module.get_parameter("0.weight"), state.model["0.weight"])
    module(torch.ones(1, 1, 2, 2)).sum().backward()
    held.mask_gradients()
    for name, mask in MASKS.items():
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        assert not gradient[~mask].any()
    assert structure.dead_layers() == ["4.weight"]
    assert (structure.to_json(), structure.metrics(), structure.channels) == (None, {}, {})


def test_fewer_channels_of_fewer_channels_are_those_of_the_dense_network(graph: ChannelGraph) -> None:
    dense, base, smaller = state_of(network()), FewerChannels(KEPT, graph), FewerChannels(FEWER_KEPT, graph)
    at_once = smaller.apply(dense, Dense())
    in_two = smaller.apply(base.apply(dense, Dense()), base)
    assert torch.equal(at_once.model["0.weight"], dense.model["0.weight"][[2]])
    for one, two in ((at_once.model, in_two.model), (at_once.optimizer, in_two.optimizer)):
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    with pytest.raises(
        DamagedError, match=r"0.weight: its channel configuration gives it the shape \(2, 1, 1, 1\), got"
    ):
        smaller.apply(dense, base)
    with pytest.raises(DamagedError, match="keeps a channel that an earlier round removed"):
        base.apply(at_once, smaller)


def test_the_record_of_channels_gives_the_structure_back(graph: ChannelGraph) -> None:
    structure = FewerChannels(KEPT, graph, "parameters")
    content = structure.to_json()
    # A kept channel costs 1 weight, 1 bias and 2 weights of its readers, 3 multiplications at each of 4 places.
    assert content == {"unit": "parameters", "parameters": [28, 32], "macs": [40, 52], "kept": KEPT}
    assert structure.metrics() == {"parameters_kept": 28 / 32, "macs_kept": 40 / 52}
    assert FewerChannels.from_json(content, graph) == structure
    assert FewerChannels.from_json(FewerChannels({}, graph).to_json(), graph) == FewerChannels({}, graph)
    for changes in ({"unit": "pixels"}, {"kept": {"0": {"out": [3]}}}, {"kept": [1]}):
        with pytest.raises(ConfigError):
            FewerChannels.from_json({**content, **changes}, graph)


@pytest.mark.parametrize("index", range(4))
def test_tensors_travel_apart(graph: ChannelGraph, index: int) -> None:
    structure = structures(graph)[index]
    light = pickle.loads(pickle.dumps(structure.with_tensors({})))
    assert light.tensors() == {}
    joined = light.with_tensors(structure.tensors())
    assert (type(joined), joined.channels) == (type(structure), structure.channels)
    assert joined.tensors() == structure.tensors()
