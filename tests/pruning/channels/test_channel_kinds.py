"""Networks of which some channels can go and some cannot: what goes, what stays, and what the smaller network says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm
from torch.nn.utils.parametrizations import orthogonal

from orchestrator.errors import ConfigError
from orchestrator.modules import copy_module
from orchestrator.pruning import fewer_channels
from orchestrator.pruning.channels.confirm import check_removal, confirmed_groups
from orchestrator.pruning.channels.graph import Group, Member
from orchestrator.pruning.channels.trace import trace_channels

SHAPE = (1, 6, 6)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm")


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


class Split(nn.Module):
    """C2f of YOLOv8: one half of a layer's channels goes through others, and all are joined again."""

    def __init__(self, split) -> None:
        super().__init__()
        self.split, self.stem, self.first, self.inner = split, conv(1, 8), conv(8, 16), conv(8, 8)
        self.join, self.head = conv(24, 16), nn.Linear(16, 3)

    def forward(self, images):
        one, two = self.split(self.first(self.stem(images)))
        return self.head(self.join(torch.cat([one, two, self.inner(two)], 1)).mean((2, 3)))


class Halves(nn.Module):
    """Two layers' channels are joined and split again: in the middle, where one ends while the two are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.left, self.right = conv(1, 8), conv(1, 8), conv(8, 16), conv(8, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, images):
        left, right = torch.cat([self.one(images), self.two(images)], 1).chunk(2, 1)
        return self.head((self.left(left) + self.right(right)).mean((2, 3)))


class SelectiveKernel(nn.Module):
    """Two paths, weighed channel by channel (Li et al. 2019): the weights of both are one layer's outputs, reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(1, 8), conv(8, 8), conv(8, 8)
        self.squeeze, self.choose = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1)
        self.last, self.head = conv(8, 16), nn.Linear(16, 3)

    def forward(self, images):
        features = self.stem(images)
        paths = torch.stack([self.one(features), self.two(features)], 1)
        scores = self.choose(self.squeeze(paths.sum(1).mean((2, 3), keepdim=True)).relu())
        chosen = (paths * scores.view(-1, 2, 8, 1, 1).softmax(1)).sum(1)
        return self.head(self.last(chosen).mean((2, 3)))


def three(*between: nn.Module, hook=lambda layer: None) -> nn.Module:
    """Three convolutions, `between` after the first; `hook` is done to the second."""
    second = nn.Conv2d(8, 8, 3)
    hook(second)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(1, 8, 3), *between, second, nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), *head)


def shared_slope() -> nn.Module:
    slope = nn.PReLU()
    return nn.Sequential(nn.Conv2d(1, 8, 3), slope, nn.Conv2d(8, 8, 3), slope, nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize(
    ("module", "fewer", "whole"),
    [
        (lambda: Split(lambda x: x.chunk(2, 1)), {"stem.0", "join.0"}, {"first.0"}),
        (lambda: Split(lambda x: x.split((8, 8), 1)), {"stem.0", "join.0"}, {"first.0"}),
        (lambda: Split(lambda x: (x[:, :8], x[:, 8:])), {"stem.0", "join.0"}, {"first.0"}),
        (lambda: Split(lambda x: (x[:, 1:9], x[:, 8:])), {"stem.0", "join.0"}, {"first.0"}),
        (Halves, {"left.0", "right.0"}, {"one.0", "two.0"}),
        (SelectiveKernel, {"stem.0", "squeeze", "last.0"}, {"one.0", "two.0", "choose"}),
        (lambda: three(nn.BatchNorm2d(8), nn.PReLU()), {"0", "3", "5"}, set()),
        (lambda: three(nn.PReLU(8), nn.BatchNorm2d(8)), {"0", "1", "2", "3", "5"}, set()),
        (shared_slope, {"0", "2"}, set()),
        (lambda: three(hook=weight_norm), {"3"}, {"0", "1"}),
        (lambda: three(hook=orthogonal), {"3"}, {"0", "1"}),
        (lambda: three(hook=lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), {"3"}, {"0", "1"}),
    ],
    ids=[
        "chunk",
        "split",
        "slices",
        "overlap",
        "halves",
        "selective",
        "slope",
        "slopes",
        "shared",
        "old",
        "new",
        "prune",
    ],
)
def test_what_can_go_goes_and_the_rest_stays(module, fewer, whole):
    """Silence channels or remove them: the same outputs."""
    torch.manual_seed(0)
    dense = module().eval()
    with torch.no_grad():
        for layer in dense.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.PReLU):
                layer.weight.uniform_(0.5, 1.5)
    smaller, kept = fewer_channels(dense, torch.zeros(1, *SHAPE), round_to=1)
    cut = {name for name, sides in kept.items() if "out" in sides}
    assert fewer <= cut
    assert not whole & cut
    silenced = copy_module(dense)
    with torch.no_grad():
        for name in cut:
            layer = silenced.get_submodule(name)
            gone = sorted(set(range(len(layer.weight))) - set(kept[name]["out"]))
            layer.weight[gone] = 0
            if getattr(layer, "bias", None) is not None:
                layer.bias[gone] = 0
        images = torch.randn(3, *SHAPE)
        torch.testing.assert_close(smaller(images), silenced(images), rtol=1e-4, atol=1e-5)


def test_channels_whose_removal_breaks_the_network_are_refused():
    """The network that is handed out has been run, whatever the trace did not see."""
    module = Halves().eval()
    graph = trace_channels(module, torch.zeros(1, *SHAPE))
    wrong = replace(graph, groups=(Group(8, (Member("one.0", "out", range(8), range(8)),)),))
    with pytest.raises(ConfigError, match=r"channels of one\.0 cannot be removed together"):
        check_removal(module, wrong, {"one.0": {"out": [0, 1]}}, torch.zeros(1, *SHAPE))


def test_groups_that_work_only_while_they_are_equal_stay_whole():
    module = Halves().eval()
    ends = (("one", "left"), ("two", "right"))
    sides = [((f"{a}.0", "out"), (f"{a}.1", "out"), (f"{b}.0", "in")) for a, b in ends]
    groups = tuple(Group(8, tuple(Member(*side, range(8), range(8)) for side in of)) for of in sides)
    image = torch.zeros(1, *SHAPE)
    assert confirmed_groups(module, replace(trace_channels(module, image), groups=groups), image) == []


def test_a_frozen_layer_keeps_its_channels():
    module = three(hook=lambda layer: layer.requires_grad_(False))
    smaller, kept = fewer_channels(module, torch.zeros(1, *SHAPE), round_to=1)
    assert [smaller[place].out_channels for place in (0, 1, 3)] == [4, 8, 4]
    assert kept.keys() == {"0", "1", "3", "7"}
    assert "out" not in kept["1"]
    with pytest.raises(ConfigError, match="Sequential has no channels that may be removed, because its layers are fr"):
        fewer_channels(module.requires_grad_(False), torch.zeros(1, *SHAPE))


class Answers(nn.Module):
    """A network that answers with something else than a tensor."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.layers = answer, three()

    def forward(self, images):
        return self.answer(self.layers(images))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda: Answers(lambda x: "text"), "the model must return a tensor, .*, got str"),
        (
            lambda: nn.Sequential(weight_norm(nn.Conv2d(1, 8, 6)), nn.Flatten(), nn.Linear(8, 3)),
            "no channels that can be removed: make the computed weights of 0 plain parameters first",
        ),
    ],
    ids=["text", "hooks"],
)
def test_a_network_that_cannot_lose_channels_is_one_sentence(module, words):
    with pytest.raises(ConfigError, match=words) as caught:
        fewer_channels(module(), torch.zeros(1, *SHAPE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [lambda x: (x, "more"), lambda x: {"logits": x}], ids=["tuple", "dict"])
def test_a_network_may_return_more_than_its_logits(answer):
    dense, plain = Answers(answer), Answers(lambda x: x)
    plain.load_state_dict(dense.state_dict())
    found, expected = (fewer_channels(network, torch.zeros(1, *SHAPE), round_to=1)[1] for network in (dense, plain))
    assert found == expected != {}


def test_a_shape_in_the_place_of_inputs_is_one_sentence():
    with pytest.raises(ConfigError, match=r"inputs must be the tensors of one sample, .* got \(1, 6, 6\)"):
        fewer_channels(three(), (1, 6, 6))
