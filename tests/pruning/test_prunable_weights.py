"""Which parameters are prunable, and what masks say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.pruning import (
    DEFAULT_KINDS,
    KINDS,
    count_kept,
    dead_layers,
    prunable_weights,
    unpruned_weights,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv1d(4, 4, 1), nn.LayerNorm(4), nn.ConvTranspose2d(4, 4, 2))
        self.embed = nn.Embedding(7, 5)
        self.fc = nn.Linear(5, 7)


ALL = ["conv1.weight", "block.0.weight", "block.2.weight", "fc.weight"]


def test_weights_of_convolutions_and_linear_layers_in_parameter_order() -> None:
    model = Net()
    weights = prunable_weights(model)
    assert list(weights) == ALL
    assert all(weight is model.get_parameter(name) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["fc"], ["conv1.weight", "block.0.weight", "block.2.weight"]),
        (["fc.weight", "conv?"], ["block.0.weight", "block.2.weight"]),
        (["block"], ["conv1.weight", "fc.weight"]),
        (["block.2"], ["conv1.weight", "block.0.weight", "fc.weight"]),
        (("*.weight",), []),
    ],
)
def test_exclusions_by_parameter_or_module(exclude: list[str], left: list[str]) -> None:
    assert list(prunable_weights(Net(), exclude)) == left


def test_a_model_names_its_own_exclusions() -> None:
    model = Net()
    model.prune_exclude = ["conv1"]
    assert list(prunable_weights(model, ["fc"])) == ["block.0.weight", "block.2.weight"]


def test_a_pattern_is_text() -> None:
    with pytest.raises(ConfigError, match=r"exclude\[0\] must be a text that is not empty, got 3"):
        prunable_weights(Net(), [3])  # type: ignore[list-item]


@pytest.mark.parametrize("pattern", ["norm", "fc.bias", "Conv1", "onv1"])
def test_a_pattern_that_matches_nothing_lists_the_names(pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{pattern}'; .*{', '.join(ALL)}"):
        prunable_weights(Net(), [pattern])


def test_one_text_is_no_list_of_patterns() -> None:
    with pytest.raises(ConfigError, match=r"exclude must be a tuple, got 'fc': write \['fc'\]"):
        prunable_weights(Net(), "fc")


def test_tied_weights_count_once_and_every_name_excludes_them() -> None:
    model = Net()
    model.fc.weight = model.embed.weight
    model.again = model.conv1
    assert list(prunable_weights(model)) == ["conv1.weight", "block.0.weight", "block.2.weight", "embed.weight"]
    assert list(prunable_weights(model, ["fc", "again"])) == ["block.0.weight", "block.2.weight"]
    assert list(prunable_weights(model, ["embed", "conv1"])) == ["block.0.weight", "block.2.weight"]


def test_attention_projections_are_linear_weights() -> None:
    same, apart = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert list(prunable_weights(same)) == ["in_proj_weight", "out_proj.weight"]
    assert sorted(prunable_weights(apart)) == ["k_proj_weight", "out_proj.weight", "q_proj_weight", "v_proj_weight"]


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.RNN(3, 2), ["weight_ih_l0", "weight_hh_l0"]),
        (
            nn.LSTM(3, 4, num_layers=2, proj_size=2),
            [f"weight_{part}_l{n}" for n in (0, 1) for part in ("ih", "hh", "hr")],
        ),
        (
            nn.GRU(3, 2, bidirectional=True),
            [f"weight_{part}_l0{way}" for way in ("", "_reverse") for part in ("ih", "hh")],
        ),
        (nn.LSTMCell(3, 2), ["weight_ih", "weight_hh"]),
        (nn.utils.parametrizations.weight_norm(nn.GRU(3, 2), "weight_hh_l0"), ["weight_ih_l0"]),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), []),
        (torch.nn.utils.prune.identity(nn.Linear(3, 2), "weight"), []),
        (nn.Conv2d(1, 1, 1).requires_grad_(False), []),
        (nn.Bilinear(2, 2, 2), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_weights_of_a_layer_are_prunable(layer: nn.Module, names: list[str]) -> None:
    prunable = prunable_weights(layer)
    assert list(prunable) == names
    others = {name for name, parameter in layer.named_parameters() if parameter.dim() > 1} - set(names)
    assert unpruned_weights(layer, prunable).keys() == others


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [0, 2])
def test_recurrent_layers_have_the_number_of_weights_of_their_formula(
    kind: type[nn.RNNBase], layers: int, bidirectional: bool, projection: int
) -> None:
    """Each gate of a cell reads the layer's input and the last output; an LSTM may project what it gives out."""
    if projection and kind is not nn.LSTM:
        return
    inputs, hidden, ways = 7, 5, 1 + bidirectional
    out, gates = projection or hidden, {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    reads = [inputs, *[ways * out] * (layers - 1)]
    expected = sum(ways * (gates * hidden * (read + out) + projection * hidden) for read in reads)
    options = {"proj_size": projection} if projection else {}
    layer = kind(inputs, hidden, num_layers=layers, bidirectional=bidirectional, **options)
    assert sum(weight.numel() for weight in prunable_weights(layer).values()) == expected
    assert unpruned_weights(layer, prunable_weights(layer)) == {}


class Every(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bags = nn.Embedding(7, 4), nn.EmbeddingBag(5, 4)
        self.conv, self.attention = nn.Conv1d(4, 4, 1), nn.MultiheadAttention(4, 2)
        self.memory, self.head = nn.GRU(4, 4), nn.Linear(4, 7)


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (["embedding"], ["words.weight", "bags.weight"]),
        (["convolution"], ["conv.weight"]),
        (["attention"], ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (["recurrent"], ["memory.weight_ih_l0", "memory.weight_hh_l0"]),
        (["linear"], ["head.weight"]),
        (["linear", "embedding"], ["words.weight", "bags.weight", "head.weight"]),
    ],
    ids=str,
)
def test_each_kind_of_layer_is_asked_for_by_its_name(kinds: list[str], names: list[str]) -> None:
    assert list(prunable_weights(Every(), kinds=kinds)) == names  # type: ignore[arg-type]


def test_embeddings_are_prunable_only_on_request() -> None:
    model = Every()
    assert set(KINDS) - set(DEFAULT_KINDS) == {"embedding"}
    assert prunable_weights(model, kinds=KINDS).keys() - prunable_weights(model).keys() == {
        "words.weight", "bags.weight",
    }  # fmt: skip
    assert unpruned_weights(model, prunable_weights(model)).keys() == {"words.weight", "bags.weight"}
    assert list(prunable_weights(model, ["words", "bags"])) == list(prunable_weights(model)), "left out already"


@pytest.mark.parametrize(
    ("kinds", "exclude", "pruned"),
    [
        (DEFAULT_KINDS, (), True),
        (KINDS, (), True),
        (["embedding"], (), True),
        (["linear"], (), True),
        (["recurrent"], (), False),
        (KINDS, ("words",), False),
        (KINDS, ("head",), False),
    ],
)
def test_a_tied_weight_is_one_tensor_of_both_its_layers(kinds, exclude, pruned: bool) -> None:
    model = Every()
    model.head.weight = model.words.weight
    weights = prunable_weights(model, exclude, kinds)
    assert ("words.weight" in weights) is pruned
    assert "head.weight" not in weights
    assert ("words.weight" in unpruned_weights(model, weights)) is not pruned


def test_biases_and_norms_are_not_weights_whatever_their_shape() -> None:
    class Swin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
            self.position = nn.Parameter(torch.zeros(9, 2))

    model = nn.ModuleDict(
        {
            "norm": nn.LayerNorm((4, 8, 8)),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "swin": Swin(),
        }
    )
    flat = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    weights = {"attention.in_proj_weight", "attention.out_proj.weight", "swin.position"}
    others = {"norm.weight", "norm.bias", "attention.bias_k", "attention.bias_v", "swin.relative_position_bias_table"}
    assert flat == weights | others
    assert unpruned_weights(model, ()).keys() == weights


def test_the_weights_of_old_weight_norm_are_not_prunable() -> None:
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.LSTM(3, 2), "weight_hh_l0")
    assert list(prunable_weights(layer)) == ["weight_ih_l0"]
    assert sorted(unpruned_weights(layer, ["weight_ih_l0"])) == ["weight_hh_l0_g", "weight_hh_l0_v"]


def test_resnet50_has_the_published_number() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        weights = prunable_weights(models.resnet50())
    assert (len(weights), sum(w.numel() for w in weights.values())) == (54, 25_502_912)
    assert (next(iter(weights)), list(weights)[-1]) == ("conv1.weight", "fc.weight")


def test_what_masks_say() -> None:
    masks = {"a": torch.tensor([[True, False], [True, True]]), "b": torch.zeros(3).bool(), "c": torch.ones(2).bool()}
    assert count_kept(masks) == 5
    assert dead_layers(masks) == ["b"]
    assert (count_kept({}), dead_layers({})) == (0, [])


@pytest.mark.parametrize("size", [1, 7, 8, 2039, 2040, 2041, 100_003])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_counting_is_exact_wherever_the_mask_lies_in_memory(size: int, share: float) -> None:
    flags = torch.rand(size + 3) < share
    for mask in (flags, flags[3:], flags[::2], flags.view(-1, 1), flags[:0]):
        assert count_kept({"a": mask}) == sum(mask.reshape(-1).tolist())
