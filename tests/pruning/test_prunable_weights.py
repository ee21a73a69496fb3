"""Which parameters are prunable, and what masks say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.pruning import count_kept, dead_layers, prunable_weights, unpruned_weights


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
