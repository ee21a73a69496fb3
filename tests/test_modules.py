"""Modules of any user's: expanded tensors, weights that hooks compute, answers that are not tensors."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.utils.data import TensorDataset

from orchestrator.data.image_data import image_data
from orchestrator.data.load import complete
from orchestrator.errors import ConfigError
from orchestrator.export.packed_file import load_packed, save_packed
from orchestrator.model_check import check_model
from orchestrator.models.build import build_model
from orchestrator.modules import copy_module, logits_of, model_call, own_memory
from orchestrator.storage.checkpoint import pack_model, unpack_model
from orchestrator.task import Classification
from orchestrator.training.optimizer import SGD
from orchestrator.training.state import put_state, take_state

SHAPE = (1, 4, 4)


class Expanded(nn.Module):
    """A buffer and a parameter whose elements share their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        self.register_buffer("scale", torch.full((1,), 2.0).expand(16))
        self.shift = nn.Parameter(torch.zeros(1).expand(16))

    def forward(self, images):
        return self.layer(images.flatten(1) * self.scale + self.shift)


def expanded() -> nn.Module:
    return Expanded()


def built() -> nn.Module:
    return build_model("test_modules:expanded", {}, {"num_classes": 2, "input_shape": SHAPE}, seed=0)


def test_expanded_tensors_are_trained_stored_and_packed(tmp_path):
    module = built()
    splits = [TensorDataset(torch.zeros(4, *SHAPE), torch.zeros(4).long())] * 3
    check_model(module, complete(image_data(*splits, 2, SHAPE)), Classification())
    optimizer = SGD().build(module)
    module(torch.ones(2, *SHAPE)).pow(2).sum().backward()
    optimizer.step()
    state = take_state(module, optimizer)
    assert len(state.model["shift"].unique()) > 1
    stored, _ = unpack_model(pack_model(state.model, {}), "file")
    other = built()
    put_state(type(state)(stored), other, SGD().build(other))
    assert torch.equal(other.shift, module.shift)
    assert torch.equal(other.scale, torch.full((16,), 2.0))
    path = save_packed(module, tmp_path / "n.safetensors", model="test_modules:expanded")
    assert torch.equal(load_packed(path, model="test_modules:expanded").shift, module.shift)


def test_a_buffer_expanded_from_a_parameter_is_refused():
    module = nn.Linear(4, 1)
    module.register_buffer("view", module.bias.detach().expand(4))
    with pytest.raises(ConfigError, match=r"view must not be expanded from bias, .*: expand it in forward\(\)"):
        own_memory(module)


@pytest.mark.parametrize(
    "hook", [weight_norm, spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5)]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_copy_has_the_weights_that_hooks_compute(hook):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    hook(module[0])
    images = torch.randn(3, 4)
    expected = module(images)
    other = copy_module(module)
    assert torch.equal(other(images), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1.0)
    assert torch.equal(module(images), expected)


@dataclass
class Answer:
    logits: object


@pytest.mark.parametrize(
    "outputs", [torch.ones(2), (torch.ones(2), "more"), {"out": torch.ones(2)}, Answer(torch.ones(2))]
)
def test_the_logits_are_found_in_what_models_return(outputs):
    assert logits_of(outputs).tolist() == [1, 1]


@pytest.mark.parametrize("outputs", [None, (), ("text",), {"loss": torch.ones(2)}, Answer(None), 1.0])
def test_outputs_without_a_tensor_are_refused(outputs):
    with pytest.raises(ConfigError, match=r"the model must return a tensor, .* got .*: give the experiment a task"):
        logits_of(outputs)


@pytest.mark.parametrize("inputs", [3, (3,), [3], {"number": 3}])
def test_a_model_is_called_with_a_tensor_with_arguments_or_with_named_ones(inputs):
    assert model_call(lambda number: number + 1, inputs) == 4


def test_what_cannot_be_copied_is_one_sentence():
    module = nn.Linear(4, 1)
    module.lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"Linear cannot be copied \(TypeError: .*must allow copy.deepcopy"):
        copy_module(module)
