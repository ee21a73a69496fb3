"""A smaller network as a file: rebuilt bit for bit, and refused when anything in the file is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.pruning.channel_choice import keep_by_ratio
from orchestrator.pruning.channel_graph import Kept
from orchestrator.pruning.trace import trace_channels
from orchestrator.storage.network import load_network, save_network
from orchestrator.training.models import build_model

SHAPE = (1, 8, 8)
ARCHITECTURE = {"model": "resnet8", "num_classes": 10, "input_shape": SHAPE, "options": {"width": 16}}


def built(kept: Kept, seed: int = 3) -> nn.Module:
    return build_model("resnet8", {"width": 16}, num_classes=10, input_shape=SHAPE, seed=seed, kept=kept).eval()


@pytest.fixture(scope="module")
def kept() -> Kept:
    dense = built({})
    return keep_by_ratio(trace_channels(dense, SHAPE), dict(dense.named_parameters()), 0.5)


@pytest.fixture
def file(tmp_path: Path, kept: Kept) -> Path:
    path = tmp_path / "small.safetensors"
    save_network(built(kept), path, kept=kept, **ARCHITECTURE)
    return path


def test_a_network_is_rebuilt_bit_for_bit(file, kept):
    module, channels = load_network(file)
    assert channels == kept
    state = built(kept).state_dict()
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(module(images), built(kept)(images))
    assert module.layer2[0].conv1.weight.shape == (16, 8, 3, 3)


def test_a_module_that_is_another_is_not_written(tmp_path, kept):
    with pytest.raises(ConfigError, match=r"not the 'resnet8' that these channels leave: bn1.bias is .16,., it should"):
        save_network(built({}), tmp_path / "x", kept=kept, **ARCHITECTURE)
    assert not (tmp_path / "x").exists()


def rewritten(file: Path, change) -> None:
    """The file with its tensors or its header changed, whole again as safetensors."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    tensors, architecture = load_file(file), json.loads(header["architecture"])
    change(tensors, architecture, header)
    save_file(tensors, file, {**header, "architecture": json.dumps(architecture)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, a, h: t["fc.bias"].add_(1e-3), "its tensors do not have the sha256"),
        (lambda t, a, h: t.pop("fc.bias"), "fc.bias is missing, it should be"),
        (lambda t, a, h: t.update(more=torch.zeros(2)), "more is .2,., it should be absent"),
        (lambda t, a, h: t.update({"fc.bias": torch.zeros(2**20)}), "fc.bias is .1048576,., it should be .10,."),
        (lambda t, a, h: a["channels"]["conv1"]["out"].pop(), "conv1.weight is"),
        (lambda t, a, h: a["channels"]["conv1"]["out"].append(99), "kept channels must ascend within 0..15"),
        (lambda t, a, h: a["channels"].update(conv1={"out": []}), "conv1 would lose all its channels"),
        (lambda t, a, h: a.update(channels="all"), "must map layers to kept channels"),
        (lambda t, a, h: a.update(input_shape=[1]), "cannot be read as a network"),
        (lambda t, a, h: a.update(model="resnet9"), "model must be one of"),
        (lambda t, a, h: h.update(format="2"), "has format 2, this one reads up to 1"),
        (lambda t, a, h: h.pop("format"), "cannot be read as a network"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(file, change, words):
    rewritten(file, change)
    with pytest.raises(DamagedError, match=words) as caught:
        load_network(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_a_file_that_is_none_is_refused(file, damage):
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9] if damage == "cut" else b"")
    with pytest.raises(DamagedError, match="cannot be read as a network"):
        load_network(file)


def test_the_file_does_not_decide_which_code_runs(tmp_path):
    path = tmp_path / "mine"
    architecture = {"model": "tiny:model", "num_classes": 3, "input_shape": (1, 6, 6)}
    save_network(tiny.model(3, (1, 6, 6)), path, **architecture)
    with pytest.raises(ConfigError, match="pass model='tiny:model' if that is the function"):
        load_network(path)
    assert isinstance(load_network(path, model="tiny:model")[0], nn.Sequential)
    with pytest.raises(ConfigError, match="holds a network of 'tiny:model'"):
        load_network(path, model="resnet8")
