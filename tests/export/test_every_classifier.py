"""Every classifier of torchvision, with random weights, through pack, unpack and ONNX."""

import pytest
import torch
from export.networks import pruned
from torchvision import models

from orchestrator.errors import ExportError
from orchestrator.export import load_packed, save_onnx, save_packed
from orchestrator.export.example import ExampleInputs
from orchestrator.models.build import build_model
from orchestrator.models.imagenet import imagenet_example
from orchestrator.training.state import model_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SHAPE = (3, 224, 224)
TOO_LARGE = "an ONNX file holds at most 2,147,483,647 bytes"
NO_ONNX = {"vit_h_14": TOO_LARGE, "regnet_y_128gf": TOO_LARGE}  # every other one must go through


@pytest.mark.parametrize("name", models.list_models(module=models))
def test_pack_unpack_and_onnx(tmp_path, name):
    module = build_model(f"torchvision:{name}", {}, {"num_classes": 1000, "input_shape": SHAPE}, seed=0)
    module = pruned(module, 0.3).eval()
    file = save_packed(module, tmp_path / "n", model=f"torchvision:{name}")
    again = model_tensors(load_packed(file))
    expected = model_tensors(module)
    assert again.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        assert again[tensor_name].dtype == tensor.dtype
        assert torch.equal(again[tensor_name], tensor), tensor_name
    assert file.stat().st_size < 0.36 * sum(tensor.nbytes for tensor in expected.values())
    del again
    file.unlink()
    inputs, about, _ = imagenet_example(module)
    example = ExampleInputs(inputs, about=about)
    if name in NO_ONNX:
        with pytest.raises(ExportError, match=NO_ONNX[name]):
            save_onnx(module, tmp_path / "n.onnx", example)
    else:  # compares the outputs of onnxruntime and torch
        save_onnx(module, tmp_path / "n.onnx", example)
