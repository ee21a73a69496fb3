"""Channels leave the network: what goes together, how much is left, and what the smaller network says."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.models.build import build_model
from orchestrator.pruning.channels.budget import keep_by_budget, keep_by_ratio
from orchestrator.pruning.channels.graph import ChannelGraph
from orchestrator.pruning.channels.removal import Channels, fewer_channels
from orchestrator.pruning.channels.shrink import check_configuration, shrink
from orchestrator.pruning.channels.trace import trace_channels
from orchestrator.pruning.li2017 import PRESETS
from orchestrator.pruning.structure import Dense, FewerChannels
from orchestrator.pruning.view import View
from orchestrator.train_state import TrainState


def built(spec: str, shape: tuple[int, int, int], classes: int = 10, **options: object) -> nn.Module:
    return build_model(spec, options, {"num_classes": classes, "input_shape": shape}, seed=0).eval()


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def macs_seen(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Counted by hand from the outputs of every convolution and linear layer of a forward pass."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        total += math.prod(output.shape[2:]) * layer.weight.numel()

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


SMALL = (1, 8, 8)


class Joined(nn.Module):
    """Features side by side, read by a norm over both, as in a dense block; then flattened, and a hidden layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.conv3 = nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3, stride=2)
        self.hidden, self.fc = nn.Linear(16 * 9, 32), nn.Linear(32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.conv1(images)
        both = torch.cat([first, self.conv2(torch.relu(first))], dim=1)
        features = torch.relu(self.conv3(torch.relu(self.norm(both))))
        return self.fc(torch.relu(self.hidden(features.flatten(1))))


@pytest.fixture(scope="module")
def resnet8() -> nn.Module:
    return built("resnet8", SMALL, width=16)


@pytest.fixture(scope="module")
def graph(resnet8: nn.Module) -> ChannelGraph:
    return trace_channels(resnet8, torch.zeros(1, *SMALL))


def test_counts_of_a_small_resnet_are_those_made_by_hand(resnet8, graph):
    # conv1 + layer1 on 8 x 8, layer2 on 4 x 4, layer3 on 2 x 2, each with a 1 x 1 shortcut where it widens
    macs = 64 * (9 * 16 + 2 * 9 * 16 * 16)
    macs += 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) + 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) + 64 * 10
    assert graph.counts({}).macs == macs == macs_seen(resnet8, SMALL)
    assert graph.counts({}).parameters == sum(p.numel() for p in resnet8.parameters())
    kept = keep_by_ratio(graph, weights_of(resnet8), {"layer1.0.conv1": 0.5})
    assert {name: {s: len(i) for s, i in sides.items()} for name, sides in kept.items()} == {
        "layer1.0.conv1": {"out": 8},
        "layer1.0.bn1": {"out": 8},
        "layer1.0.conv2": {"in": 8},
    }
    assert graph.counts(kept).macs == macs - 64 * 9 * 16 * 16
    assert graph.counts(kept).parameters == graph.counts({}).parameters - 2 * 9 * 8 * 16 - 2 * 8


def test_the_channels_of_lowest_l1_norm_go(resnet8, graph):
    norms = resnet8.layer2[0].conv1.weight.detach().abs().sum(dim=(1, 2, 3))
    kept = keep_by_ratio(graph, weights_of(resnet8), {"layer2.0.conv1": 0.75})
    assert kept["layer2.0.conv1"]["out"] == sorted(norms.argsort(descending=True)[:8].tolist())


def test_layers_that_a_residual_connection_adds_lose_the_same_channels(resnet8, graph):
    kept = keep_by_ratio(graph, weights_of(resnet8), 0.5)
    stream = kept["layer2.0.conv2"]["out"]
    assert len(stream) == 16
    for name in ("layer2.0.bn2", "layer2.0.shortcut.0", "layer2.0.shortcut.1"):
        assert kept[name]["out"] == stream
    assert kept["layer3.0.conv1"]["in"] == kept["layer3.0.shortcut.0"]["in"] == stream
    score = sum(
        layer.weight.detach().double().abs().flatten(1).sum(1)
        for layer in (resnet8.layer2[0].conv2, resnet8.layer2[0].shortcut[0])
    )  # the mean over all filters of a channel: every one has as many weights
    assert stream == sorted(score.argsort(descending=True)[:16].tolist())


def test_the_classifier_and_the_image_keep_their_channels(graph, resnet8):
    kept = keep_by_ratio(graph, weights_of(resnet8), 0.5)
    assert "out" not in kept["fc"]
    assert "in" not in kept["conv1"]


@pytest.mark.parametrize(
    ("spec", "shape", "options"),
    [
        ("test_channels:Joined", SMALL, {}),
        ("resnet8", SMALL, {"width": 16}),
        ("resnet8", SMALL, {"width": 16, "shortcut": "padding"}),
        ("torchvision:mobilenet_v2", (3, 32, 32), {}),
        ("torchvision:squeezenet1_1", (3, 64, 64), {}),
    ],
)
def test_a_removed_channel_is_one_that_says_nothing(spec, shape, options):
    """Silence channels (filters and norm at zero) or remove them: the same outputs, and as many MACs as counted."""
    module = built(spec, shape, **options).double()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.1, 0.1)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
    graph = trace_channels(module, torch.zeros(1, *shape))
    kept = keep_by_ratio(graph, weights_of(module), 0.5)
    silenced, smaller = copy.deepcopy(module), shrink(copy.deepcopy(module), kept)
    with torch.no_grad():
        for name, sides in kept.items():
            layer = silenced.get_submodule(name)
            gone = sorted(set(range(layer.weight.shape[0])) - set(sides.get("out", range(layer.weight.shape[0]))))
            layer.weight[gone] = 0
            if layer.bias is not None:
                layer.bias[gone] = 0
        images = torch.randn(3, *shape, dtype=torch.float64)
        torch.testing.assert_close(smaller(images), silenced(images), rtol=1e-9, atol=1e-9)
    counts = graph.counts(kept)
    assert counts.parameters == sum(p.numel() for p in smaller.parameters())
    assert counts.macs == macs_seen(smaller.float(), shape) < 0.6 * graph.counts({}).macs
    for name, sides in kept.items():
        if isinstance(layer := smaller.get_submodule(name), nn.Conv2d) and layer.groups > 1:
            assert layer.groups == layer.in_channels == layer.out_channels == len(sides["out"])


def test_half_the_channels_of_a_network_in_one_call(resnet8, graph):
    smaller, kept = fewer_channels(resnet8, torch.zeros(1, *SMALL))
    assert kept == keep_by_ratio(graph, weights_of(resnet8), 0.5)
    for round_to in (0, 8.0, True):
        with pytest.raises(ConfigError, match=f"round_to must be a whole number of 1 or more, got {round_to}"):
            fewer_channels(resnet8, torch.zeros(1, *SMALL), round_to=round_to)
    assert [m.out_channels for m in smaller.modules() if isinstance(m, nn.Conv2d)] == [
        m.out_channels // 2 for m in resnet8.modules() if isinstance(m, nn.Conv2d)
    ]
    assert smaller(torch.zeros(2, *SMALL)).shape == (2, 10)
    assert resnet8.conv1.out_channels == 16


def test_a_stream_that_a_padded_shortcut_continues_stays_whole():
    module = built("resnet8", SMALL, shortcut="padding")
    groups = trace_channels(module, torch.zeros(1, *SMALL)).groups
    writers = {m.layer for group in groups for m in group.members if m.side == "out"}
    assert {"layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"} <= writers
    assert not {"conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"} & writers


@pytest.mark.parametrize("unit", ["macs", "parameters"])
@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_a_budget_is_met_by_the_fewest_removals(resnet8, graph, unit, round_to):
    weights, total = weights_of(resnet8), graph.counts({}).of(unit)
    left = [graph.counts(keep_by_budget(graph, weights, d, unit=unit, round_to=round_to)) for d in (0.9, 0.5, 0.3)]
    for density, counts in zip((0.9, 0.5, 0.3), left, strict=True):
        assert 0.6 * density * total < counts.of(unit) <= density * total
    kept = keep_by_budget(graph, weights, 0.5, unit=unit, round_to=round_to)
    assert all(len(places) % round_to == 0 for sides in kept.values() for places in sides.values())
    exactly = keep_by_budget(graph, weights, left[1].of(unit) / total, unit=unit, round_to=round_to)
    assert exactly == kept
    assert keep_by_budget(graph, weights, 1.0, unit=unit, round_to=round_to) == {}


def test_rounds_are_nested_and_repeat_themselves(resnet8, graph):
    module, kept = copy.deepcopy(resnet8), {}
    for density in (0.7, 0.5, 0.3):
        again = [keep_by_budget(graph, weights_of(module), density, kept=kept, round_to=4) for _ in range(2)]
        assert again[0] == again[1]
        for name, sides in kept.items():
            assert all(set(again[0][name][side]) <= set(places) for side, places in sides.items())
        kept, module = again[0], shrink(copy.deepcopy(resnet8), again[0])


def test_the_scale_of_a_layer_decides_nothing(resnet8, graph):
    """Batch norm undoes it: a network whose layers are scaled loses the same channels."""
    scaled = {name: w * (100.0 if "layer3" in name else 1.0) for name, w in weights_of(resnet8).items()}
    kept = keep_by_budget(graph, weights_of(resnet8), 0.5)
    assert keep_by_budget(graph, scaled, 0.5) == kept
    assert {"layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"} <= {n for n, s in kept.items() if "out" in s}


def test_layers_that_are_excluded_keep_their_outputs(resnet8, graph):
    weights = {name: w for name, w in weights_of(resnet8).items() if not name.startswith("layer3")}
    kept = keep_by_ratio(graph, weights, 0.5)
    assert not any("out" in sides for name, sides in kept.items() if name.startswith("layer3"))
    assert len(kept["layer3.0.conv1"]["in"]) == 16


# Table 1 of the paper: FLOPs and parameters of the dense network, and which part of them goes, in per cent.
TABLE_1 = {
    "li2017:resnet56-A": ((3, 32, 32), 1.25e8, 8.5e5, 10.4, 9.4),
    "li2017:resnet56-B": ((3, 32, 32), 1.25e8, 8.5e5, 27.6, 13.7),
    "li2017:resnet110-A": ((3, 32, 32), 2.53e8, 1.72e6, 15.9, 2.3),
    "li2017:resnet110-B": ((3, 32, 32), 2.53e8, 1.72e6, 38.6, 32.4),
    "li2017:resnet34-A": ((3, 224, 224), 3.64e9, 2.16e7, 15.5, 7.6),
    "li2017:resnet34-B": ((3, 224, 224), 3.64e9, 2.16e7, 24.2, 10.8),
}


@pytest.fixture(scope="module")
def published_graphs() -> dict[str, tuple[ChannelGraph, dict[str, torch.Tensor]]]:
    found = {}
    for name in ("resnet56", "resnet110", "resnet34"):
        shape = TABLE_1[f"li2017:{name}-A"][0]
        options = {} if name == "resnet34" else {"shortcut": "padding"}
        spec = f"torchvision:{name}" if name == "resnet34" else name
        module = built(spec, shape, 1000 if name == "resnet34" else 10, **options)
        found[name] = (trace_channels(module, torch.zeros(1, *shape)), weights_of(module))
    return found


@pytest.mark.parametrize("preset", TABLE_1)
def test_the_published_ratios_give_the_published_sizes(preset, published_graphs):
    _, macs, parameters, macs_gone, parameters_gone = TABLE_1[preset]
    graph, weights = published_graphs[preset.removeprefix("li2017:").split("-")[0]]
    dense, small = graph.counts({}), graph.counts(keep_by_ratio(graph, weights, PRESETS[preset], round_to=1))
    assert dense.macs == pytest.approx(macs, rel=0.01)
    assert dense.parameters == pytest.approx(parameters, rel=0.01)
    assert 100 * (1 - small.macs / dense.macs) == pytest.approx(macs_gone, abs=0.15)
    assert 100 * (1 - small.parameters / dense.parameters) == pytest.approx(parameters_gone, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"unit": "flops"}, "Channels.unit must be one of macs, parameters, got 'flops'"),
        ({"round_to": 0}, "round_to must be a whole number of 1 or more, got 0"),
        ({"ratios": "li2018"}, "Channels.ratios must be one of li2017:resnet56-A, .*, got 'li2018'"),
        (
            {"ratios": {"conv1": 1.0}},
            r"the ratio of 'conv1' must be a number in \[0, 1\), got 1.0: a layer must keep a channel",
        ),
        ({"ratios": {"conv1": False}}, "the ratio of 'conv1' must be .* got False"),
        ({"ratios": {}}, "ratios must map layers to the fraction"),
    ],
)
def test_a_selection_that_is_none_is_refused_when_built(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Channels(**arguments)


@pytest.mark.parametrize(
    ("selection", "density", "words"),
    [
        (Channels(), 0.05, r"density 0.05 of the macs cannot be reached: every layer keeps 8 .* smallest density is 0"),
        (Channels(ratios={"layer1.0.conv1": 0.5}), 0.5, r"keep 0.\d+ of the macs, .* 0.5: write path=OneShot\(0"),
        (Channels(ratios={"layer9.*": 0.5}), 0.5, r"ratios must match layers .* got layer9.\*; they are: conv1, "),
        (
            Channels(ratios={"layer2.0.conv2": 0.5, "layer2.0.shortcut.0": 0.25}),
            0.5,
            "layer2.0.*lose the same channels: one ratio must hold for all",
        ),
        (Channels(ratios={"fc": 0.5}), 0.5, "ratios must match layers that may lose channels, got fc"),
    ],
)
def test_what_the_network_cannot_give_is_refused_before_training(graph, resnet8, selection, density, words):
    with pytest.raises(ConfigError, match=words):
        selection.check(View(weights_of(resnet8), graph=graph), density)


class Detached(nn.Module):
    """A network whose trace breaks off: what it computes is no tensor of the autograd graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 3), nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).mean(dim=(2, 3)).detach().numpy()
        return self.fc(torch.from_numpy(features)).detach()


class Shuffled(nn.Module):
    """Channels change places between two layers, which the dependency graph does not see."""

    def __init__(self, shuffle, width) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, width, 3), nn.Conv2d(width, 16, 3), nn.Linear(16, 10)
        self.shuffle = shuffle

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.shuffle(self.conv1(images))
        return self.fc(self.conv2(features).mean(dim=(2, 3)))


def test_a_network_without_channels_that_can_go_is_refused_with_a_sentence():
    for module in (Detached(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        with pytest.raises(ConfigError, match=f"model {type(module).__name__} has no channels that can be removed"):
            trace_channels(module, torch.zeros(1, *SMALL))


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "whole"), [("shufflenet_v2_x0_5", "stage4"), ("swin_t", "features.6.reduction")])
def test_a_network_that_is_understood_in_part_loses_channels_there(spec, whole, caplog):
    dense = built(f"torchvision:{spec}", (3, 32, 32))
    smaller, _ = fewer_channels(dense, torch.zeros(1, 3, 32, 32))
    assert "these layers keep all channels, because the flow of these is unknown" in caplog.text
    assert whole in caplog.text
    assert sum(p.numel() for p in smaller.parameters()) < 0.75 * sum(p.numel() for p in dense.parameters())


def test_frozen_parameters_are_traced_as_others(resnet8, graph):
    assert trace_channels(copy.deepcopy(resnet8).requires_grad_(False), torch.zeros(1, *SMALL)).groups == graph.groups


def test_without_its_library_the_sentence_says_what_to_install(resnet8, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ConfigError, match=r"torch_pruning.*pip install -e '\.\[channels\]'"):
        trace_channels(resnet8, torch.zeros(1, *SMALL))


def test_the_graph_is_the_same_in_another_process_with_other_hashes(graph):
    """Its hash is part of the keys."""
    code = "import sys; sys.path.insert(0, 'tests/pruning/channels'); import test_channels as t, torch\n"
    code += "print(t.trace_channels(t.built('resnet8', t.SMALL, width=16), torch.zeros(1, *t.SMALL)).identity)"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == graph.identity


@pytest.mark.parametrize("width", [15, 16])  # of 15, turned round, every second channel is every second channel
@pytest.mark.parametrize(
    "shuffle", [lambda x: x.flip(1), lambda x: x.roll(2, 1), lambda x: torch.cat([x[:, 8:], x[:, :8]], 1)]
)
def test_a_group_whose_removal_does_something_else_stays_whole(shuffle, width):
    graph = trace_channels(Shuffled(shuffle, width), torch.zeros(1, *SMALL))
    assert [group.members[0].layer for group in graph.groups] == ["conv2"]


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ([1], "must map layers to kept channels, got list"),
        ({"conv9": {"out": [0]}}, "must name layers that can lose channels, got 'conv9'"),
        ({"layer1": {"out": [0]}}, "must name layers that can lose channels, got 'layer1'"),
        ({"bn1": {"in": [0]}}, "bn1 must have kept channels for out"),
        ({"conv1": {}}, "conv1 must have kept channels for out or in"),
        ({"conv1": {"out": []}}, r"conv1 would lose all its channels \(out\)"),
        ({"conv1": {"out": [0, 16]}}, r"ascend within 0..15, got \[0, 16\] for conv1.out"),
        ({"conv1": {"out": [1, 1]}}, "ascend within"),
        ({"conv1": {"out": [-1, 1]}}, "ascend within"),
        ({"conv1": {"out": [0.5]}}, "must be a list of whole numbers"),
        ({"conv1": {"out": "01"}}, "must be a list of whole numbers"),
    ],
)
def test_a_damaged_configuration_is_refused_and_changes_nothing(resnet8, graph, kept, words):
    module = copy.deepcopy(resnet8)
    with pytest.raises(ConfigError, match=words):
        check_configuration(graph, kept)
    with pytest.raises(ConfigError, match=words):
        shrink(module, kept)
    assert {n: t.shape for n, t in module.state_dict().items()} == {n: t.shape for n, t in resnet8.state_dict().items()}


class Numbered(nn.Sequential):
    """Keeps a parameter of whole numbers, which has no gradients and says which pixels are read."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 6), nn.Flatten(), nn.Linear(8, num_classes))
        self.order = nn.Parameter(torch.arange(8).flip(0), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images[..., self.order])


def test_a_parameter_of_whole_numbers_is_left_as_it_is() -> None:
    module = Numbered(3)
    assert [group.size for group in trace_channels(module, torch.zeros(1, *SMALL)).groups] == [8, 8]
    assert torch.equal(module.order, torch.arange(8).flip(0))


def test_ratios_in_a_later_round_are_of_the_dense_network(graph, resnet8):
    """A layer that has lost as much keeps what it has; one that has more left loses its lowest of those."""
    ratios = {"layer1.0.conv1": 0.5, "layer2.0.conv1": 0.25}
    density = given_density(graph, resnet8, ratios)
    selection, weights = Channels(ratios=ratios, round_to=1), weights_of(resnet8)
    first = selection.select(View(weights, graph=graph), density)
    left = first.apply(TrainState(weights), Dense()).model
    again = selection.select(View(left, first, graph=graph), density)
    assert again.channels == first.channels != {}

    # Before: only one of the two layers, and less of it. What it lost stays lost, though its channels were the best.
    size = graph.layers["layer1.0.conv1"].size("out")
    best = weights["layer1.0.conv1.weight"].abs().flatten(1).sum(1).argsort(descending=True).tolist()
    alive = [torch.ones(group.size, dtype=torch.bool) for group in graph.groups]
    index = next(i for i, g in enumerate(graph.groups) if any(m.layer == "layer1.0.conv1" for m, _ in graph.writers(g)))
    alive[index][best[: size // 4]] = False
    before = FewerChannels(graph.configuration(alive), graph)
    left = before.apply(TrainState(weights), Dense()).model
    found = selection.select(View(left, before, graph=graph), density).channels
    assert found["layer1.0.conv1"]["out"] == sorted(best[size // 4 : size // 4 + size // 2])
    assert found["layer2.0.conv1"] == {**first.channels["layer2.0.conv1"]}


def given_density(graph, module, ratios):
    """Return the density that these ratios give, which the refusal of another one names."""
    with pytest.raises(ConfigError, match="these ratios keep") as caught:
        Channels(ratios=ratios, round_to=1).check(View(weights_of(module), graph=graph), 0.999)
    return float(str(caught.value).split("keep ")[1].split()[0])


def test_min_kept_per_layer_and_a_missing_graph_are_refused(graph, resnet8):
    weights = weights_of(resnet8)
    with pytest.raises(ConfigError, match="min_kept_per_layer must be 0 with Channels: use round_to"):
        Channels().check(View(weights, graph=graph, min_kept_per_layer=1), 0.5)
    with pytest.raises(ConfigError, match="Channels needs the graph of the network's channels"):
        Channels().select(View(weights), 0.5)
