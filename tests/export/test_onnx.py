"""ONNX files: what onnxruntime makes of them is what torch makes of the network."""

import copy
import json
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from export import networks
from export.networks import ABOUT, ARGUMENTS, GREY, images, settled
from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export import batch_norm, fold_batch_norm, onnx_file, save_onnx, save_onnx_half, save_onnx_int8
from orchestrator.export.agreement import relative_error
from orchestrator.models.build import build_model
from orchestrator.pruning import fewer_channels

onnx = pytest.importorskip("onnx")


def run_onnx(path, batch):
    (output,) = onnx_file.run_onnx(path, [batch])
    return output


def logits(module, batch):
    with torch.no_grad():
        return module.eval()(batch).numpy()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """(network, its float32 file)"""
    module = settled(build_model("resnet8", {}, ARGUMENTS, seed=2))
    return module, save_onnx(module, tmp_path_factory.mktemp("onnx") / "resnet.onnx", GREY)


@pytest.mark.parametrize("name", ["flow", "tied", "mixed"])
@pytest.mark.parametrize("fold", [True, False])
def test_any_number_of_images(tmp_path, name, fold):
    torch.manual_seed(0)  # of one image, `flow` gives out little but its bias, which may be small
    module = settled(getattr(networks, name)(4)).train()
    path = save_onnx(module, tmp_path / "new" / "n.onnx", GREY, fold=fold)
    assert module.training
    assert [file.name for file in path.parent.iterdir()] == ["n.onnx"]
    for n in (1, 2, 7):
        assert relative_error(run_onnx(path, images(n)), logits(module, images(n))) < 1e-4


def test_with_fewer_channels_in_every_precision(tmp_path, resnet):
    dense, whole = resnet
    module, kept = fewer_channels(dense, images(1), 0.5)
    assert kept
    path = save_onnx(module, tmp_path / "small.onnx", GREY)
    assert path.stat().st_size < 0.5 * whole.stat().st_size
    half = save_onnx_half(path, tmp_path / "half.onnx")
    int8 = save_onnx_int8(path, tmp_path / "int8.onnx", [images(32, seed) for seed in range(2)])
    for file, error in ((path, 1e-4), (half, 0.02), (int8, 0.5)):
        assert relative_error(run_onnx(file, images(3)), logits(module, images(3))) < error


def test_batch_norm_is_gone(resnet):
    kinds = {node.op_type for node in onnx.load(str(resnet[1])).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


def test_weights_of_16_bits_are_written_as_float32(tmp_path):
    module = networks.tied(4).bfloat16()
    path = save_onnx(module, tmp_path / "n.onnx", GREY)
    assert relative_error(run_onnx(path, images(3)), logits(copy.deepcopy(module).float(), images(3))) < 1e-4
    assert module.head.weight.dtype == torch.bfloat16


def test_a_shared_weight_is_written_once(tmp_path):
    path = save_onnx(networks.tied(4), tmp_path / "n.onnx", GREY)
    assert 4 * 192 * 192 < path.stat().st_size < 4 * 192 * 192 + 10_000


def test_the_interface_is_in_every_file(tmp_path, resnet):
    half = save_onnx_half(resnet[1], tmp_path / "half.onnx")
    int8 = save_onnx_int8(resnet[1], tmp_path / "int8.onnx", [images(8)])
    for path in (resnet[1], half, int8):
        found = {entry.key: json.loads(entry.value) for entry in onnx.load(str(path)).metadata_props}
        assert found["labels"] == list(ABOUT.labels)
        assert (found["mean"], found["std"]) == (list(ABOUT.mean), list(ABOUT.std))
        assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", *networks.SHAPE]}]
        assert found["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}]


def test_the_file_tells_nothing_of_this_machine_and_is_the_same_every_time(tmp_path, resnet):
    module, path = resnet
    data = path.read_bytes()
    assert b"stack_trace" not in data
    assert b"site-packages" not in data
    assert save_onnx(module, tmp_path / "again.onnx", GREY).read_bytes() == data


def test_float16_and_int8_are_smaller_and_near(tmp_path, resnet):
    module, path = resnet
    batch = images(64)
    expected = logits(module, batch)
    half = save_onnx_half(path, tmp_path / "half.onnx")
    int8 = save_onnx_int8(path, tmp_path / "int8.onnx", (images(32, seed) for seed in range(5)))
    for file, size, error in ((half, 0.55, 0.01), (int8, 0.40, 0.20)):
        assert file.stat().st_size < size * path.stat().st_size
        got = run_onnx(file, batch)
        assert got.dtype == np.float32
        assert 1e-6 < relative_error(got, expected) < error, "other arithmetic, but not by much"


class EveryLayer(nn.Module):
    """Layers with a bias of every kind that int8 arithmetic has: a third of the filters is zero, a third tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
        self.transposed, self.head = nn.ConvTranspose2d(6, 6, 2), nn.Linear(6, 4)
        self.upsample = nn.ConvTranspose2d(6, 6, 2, groups=6)  # one scale for all its filters
        for layer, dim in ((self.conv, 0), (self.depthwise, 0), (self.transposed, 1), (self.head, 0)):
            layer.weight.data.narrow(dim, 0, 2).zero_()
            layer.weight.data.narrow(dim, 2, 2).mul_(1e-8)
            layer.bias.data.uniform_(0.1, 0.4)

    def forward(self, x):
        features = self.transposed(self.depthwise(self.conv(x).relu()).relu()).relu()
        return self.head(self.upsample(features).relu().mean(dim=(2, 3)))


def test_int8_keeps_biases_and_leaves_room_for_the_sum(tmp_path):
    """Filters of zeros do not say how fine the steps of a bias must be, and tiny ones would take all 32 bits."""
    torch.manual_seed(0)
    module = EveryLayer().eval()
    path = save_onnx(module, tmp_path / "n.onnx", GREY)
    model = onnx.load(str(save_onnx_int8(path, tmp_path / "int8.onnx", [10 * images(32)])))
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {node.output[0]: node.input for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [
        node for node in model.graph.node if len(node.input) == 3 and node.op_type in ("Conv", "ConvTranspose", "Gemm")
    ]
    for node, name in zip(layers, ("conv", "depthwise", "transposed", "upsample", "head"), strict=True):
        if name == "upsample":
            continue  # by the quantizer's own steps
        image, weight, bias = (made_by[given] for given in node.input)
        np.testing.assert_allclose(values[bias[1]], values[image[1]] * values[weight[1]], rtol=1e-6)
        expected = module.get_submodule(name).bias.detach().numpy()
        np.testing.assert_allclose(values[bias[0]][:4] * values[bias[1]][:4].astype(float), expected[:4], rtol=1e-6)
        assert abs(values[bias[0]].astype(float)).max() <= 2**28 + 32
    assert relative_error(run_onnx(tmp_path / "int8.onnx", images(32)), logits(module, images(32))) < 0.1


def test_a_weight_that_float16_cannot_hold_is_told(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with torch.no_grad():
        module[1].weight[0, :2] = torch.tensor([60_000.0, 3e-8])  # the converter alone would make them 1e4 and 1e-7
        module[1].bias.zero_()
    path = save_onnx(module, tmp_path / "n.onnx", GREY)
    half = save_onnx_half(path, tmp_path / "half.onnx")
    (weight,) = [t for t in onnx.load(str(half)).graph.initializer if len(t.dims) == 2]
    held = onnx.numpy_helper.to_array(weight)
    assert np.array_equal(np.sort(held.ravel()), np.sort(module[1].weight.detach().half().numpy().ravel()))
    with torch.no_grad():
        module[1].weight[0, 0] = 70_000.0
    with pytest.raises(ExportError, match=r"float16 holds values up to 65504, but .* has 70000"):
        save_onnx_half(save_onnx(module, path, GREY), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], r"int8\.onnx cannot be made of n\.onnx"),
        ([torch.full((2, *networks.SHAPE), float("nan"))], "samples for int8 must be finite"),
        ([torch.zeros(2, 1, 4, 4)], r"int8\.onnx cannot be made of n\.onnx"),
    ],
    ids=["none", "nan", "another shape"],
)
def test_calibration_that_is_none_is_one_sentence(tmp_path, capfd, batches, words):
    path = save_onnx(networks.tied(4), tmp_path / "n.onnx", GREY)
    with pytest.raises(ExportError, match=words):
        save_onnx_int8(path, tmp_path / "int8.onnx", batches)
    assert [file.name for file in tmp_path.iterdir()] == ["n.onnx"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [None, b"", b"no protobuf"])
@pytest.mark.parametrize("precision", ["half", "int8"])
def test_a_source_that_is_none_is_one_sentence(tmp_path, content, precision):
    source, out = tmp_path / "n.onnx", tmp_path / "out.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ExportError, match=r"out\.onnx (cannot be made of n\.onnx|is not a valid ONNX file)"):
        save_onnx_half(source, out) if precision == "half" else save_onnx_int8(source, out, [images(2)])
    assert not (tmp_path / "out.onnx").exists()


class HookedConvolution(nn.Sequential):
    """A hook that the tracer of flows does not see, behind a convolution whose norm may not be folded."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes))
        self[0].register_forward_hook(lambda part, inputs, output: output.relu())


class OldWeightNorm(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 8))
        super().__init__(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes))


class NewWeightNorm(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 8))
        super().__init__(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes))


class AttentionByName(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        rows = x.flatten(2).transpose(1, 2)
        return self.head(self.attention(query=rows, key=rows, value=rows)[0].mean(1))


@pytest.mark.parametrize("build", [HookedConvolution, OldWeightNorm, NewWeightNorm, AttentionByName])
def test_what_cannot_be_folded_is_written_as_it_is(tmp_path, build):
    module = settled(build(4))
    path = save_onnx(module, tmp_path / "n.onnx", GREY)
    assert relative_error(run_onnx(path, images(3)), logits(module, images(3))) < 1e-4


def test_a_fold_that_changes_the_function_is_not_kept(tmp_path, monkeypatch):
    """Whatever folding does not know of: the file is held against the network as it was given."""
    module = settled(networks.flow(4))

    def wrong(folded):
        fold_batch_norm(folded)
        folded.conv1.bias.data += 1.0

    monkeypatch.setattr(batch_norm, "fold_batch_norm", wrong)
    path = save_onnx(module, tmp_path / "n.onnx", GREY)
    assert relative_error(run_onnx(path, images(3)), logits(module, images(3))) < 1e-4


def test_relative_error_is_of_the_largest_logit_of_the_same_image():
    expected = np.array([[1.0, -10.0], [100.0, 0.0]], np.float32)
    got = expected + np.array([[0.5, 0.0], [0.0, 1.0]], np.float32)
    assert relative_error(got, expected) == pytest.approx(0.05)
    assert relative_error(expected, expected) == 0
    assert relative_error(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)) == 0


# What cannot be exported.


class Narrow(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(7, num_classes)


class Random(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1)) + torch.rand(4)


class Nan(Narrow):
    def forward(self, x):
        return x.flatten(1)[:, :4] * float("nan")


class OnlyTheFileIsNan(Narrow):
    def forward(self, x):
        return x.flatten(1)[:, :4] * (float("nan") if torch.compiler.is_exporting() else 1.0)


class Uncopied(Narrow):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lock = threading.Lock()


class Words(Narrow):
    def forward(self, x):
        return "a cat"


class Nothing(Narrow):
    def forward(self, x):
        return {"cache": None}


def without_values(num_classes):
    return networks.tied(num_classes).to("meta")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("module", "words"),
    [
        (networks.DataFlow, "DataFlow cannot be exported: torch.export must be able to follow one flow"),
        (networks.NoChannels, r"NoChannels cannot be exported: .*expected weight to be at least 1"),
        (Narrow, r"Narrow cannot be exported: it does not take inputs of shape \(3, 3, 8, 8\)"),
        (Random, "n.onnx differs from the network by"),
        (Nan, "the network answers NaN or infinity to its example"),
        (OnlyTheFileIsNan, "n.onnx differs from the network by nan"),
        (Uncopied, r"Uncopied cannot be copied \(TypeError: .*its parts must allow copy\.deepcopy"),
        (Words, "a file can give out tensors in tuples, lists and dicts, .* but the network returns str: wrap it in a"),
        (Nothing, "Nothing must return a tensor or several, got none"),
        (without_values, r"has no values to write, as of .*weight: load them first"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_that_cannot_be_written_is_one_sentence(tmp_path, capfd, module, words):
    with pytest.raises(ExportError, match=words) as caught:
        save_onnx(module(4), tmp_path / "n.onnx", GREY)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_file_that_would_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    with pytest.raises(ExportError, match=r"an ONNX file holds at most 1,000 bytes, n\.onnx would have"):
        save_onnx(networks.tied(4), tmp_path / "n.onnx", GREY)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_packages(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"{package}.*pip install -e '\.\[onnx\]'"):
        save_onnx(networks.tied(4), tmp_path / "n.onnx", GREY)


def test_half_without_its_package(tmp_path, monkeypatch, resnet):
    monkeypatch.setitem(sys.modules, "onnxconverter_common", None)
    with pytest.raises(ExportError, match=r"pip install -e '\.\[onnx\]'"):
        save_onnx_half(resnet[1], tmp_path / "n.onnx")
