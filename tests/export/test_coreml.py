"""Core ML files, where coremltools is installed: what they hold is what the network is. Nothing here can run them."""

import hashlib
import json
import platform
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from export import networks
from export.ml_program import compute, operations, read_model, weights
from export.networks import ABOUT, ARGUMENTS, GREY, images, pruned, settled
from report.synthetic import path_of, save
from torch import nn

from orchestrator.errors import ExportError
from orchestrator.export import deploy as deploying
from orchestrator.export import fold_batch_norm, runtimes, save_coreml
from orchestrator.export.agreement import relative_error
from orchestrator.export.deploy import Candidate, deploy
from orchestrator.export.example import observe
from orchestrator.export.proof import ExportedNetworks
from orchestrator.export.runtimes import not_run, runtime_of
from orchestrator.formatting import size
from orchestrator.models.build import build_model
from orchestrator.report.chapters.exported import artifact_line

REASON = "Core ML runs on macOS only"
on_linux = pytest.mark.skipif(platform.system() == "Darwin", reason="a Mac runs the files")


def network(name, density=1.0):
    spec = f"export.networks:{name}" if hasattr(networks, name) else name
    module = settled(build_model(spec, {}, ARGUMENTS, seed=2))
    return pruned(module, density) if density < 1 else module


def parts(path):
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r"Core ML files: .*coremltools.*pip install -e '\.\[coreml\]'"):
        save_coreml(networks.tied(4), tmp_path / "n.mlpackage.zip", GREY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("name", ["flow", "tied", "resnet8"])
def test_its_program_gives_the_same_outputs(tmp_path, capfd, name, density):
    pytest.importorskip("coremltools")
    module = network(name, density).train()
    path = save_coreml(module, tmp_path / "new" / "n.mlpackage.zip", GREY)
    assert module.training
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in path.parent.iterdir()] == ["n.mlpackage.zip"]
    module.eval()
    model = read_model(path, tmp_path)
    for seed in range(3):
        image = images(1, seed)
        with torch.no_grad():
            assert relative_error(compute(model, image).numpy(), module(image).numpy()) < 1e-4


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_its_weights_are_those_of_the_network_bit_by_bit(tmp_path, density):
    pytest.importorskip("coremltools")
    module = network("resnet8", density)
    model = read_model(save_coreml(module, tmp_path / "n.mlpackage.zip", GREY), tmp_path)
    assert fold_batch_norm(module)
    stored = weights(model)
    for name, parameter in module.named_parameters():
        assert any(torch.equal(parameter, array) for array in stored), name
    sparse = [op for op in operations(model) if op.op_type == "constexpr_sparse_to_dense"]
    assert bool(sparse) == (density < 1)


def test_it_says_how_to_call_it(tmp_path):
    pytest.importorskip("coremltools")
    spec = read_model(save_coreml(network("resnet8"), tmp_path / "n.mlpackage.zip", GREY), tmp_path).get_spec()
    assert [list(each.type.multiArrayType.shape) for each in spec.description.input] == [[1, *networks.SHAPE]]
    assert [each.name for each in (*spec.description.input, *spec.description.output)] == ["x", "output"]
    assert spec.specificationVersion == 7, "iOS 16"
    found = {name: json.loads(value) for name, value in spec.description.metadata.userDefined.items()}
    assert found.pop("labels") == list(ABOUT.labels)
    assert found.pop("inputs") == [{"name": "x", "dtype": "float32", "shape": ["batch", *networks.SHAPE]}]
    assert found.pop("outputs") == [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}]
    assert found == {"mean": list(ABOUT.mean), "std": list(ABOUT.std)}


def test_zeros_take_little_zipped_and_unzipped(tmp_path):
    pytest.importorskip("coremltools")
    dense, sparse = (
        save_coreml(network("resnet8", density), tmp_path / f"{density}.mlpackage.zip", GREY) for density in (1, 0.1)
    )
    assert sparse.stat().st_size < 0.15 * dense.stat().st_size
    weights_file = "Data/com.apple.CoreML/weights/weight.bin"
    assert len(parts(sparse)[weights_file]) < 0.15 * len(parts(dense)[weights_file])


def test_a_shared_weight_is_written_once(tmp_path):
    pytest.importorskip("coremltools")
    found = parts(save_coreml(network("tied"), tmp_path / "n.mlpackage.zip", GREY))
    assert 4 * 192 * 192 < sum(map(len, found.values())) < 4 * 192 * 192 + 20_000


SAVE = """
import sys
from export.test_coreml import network, save_coreml, GREY
save_coreml(network("resnet8", 0.1), sys.argv[1], GREY)
"""


@pytest.mark.slow
def test_the_file_is_the_same_in_another_process(tmp_path):
    pytest.importorskip("coremltools")
    paths = [tmp_path / str(place) / "n.mlpackage.zip" for place in range(2)]
    save_coreml(network("resnet8", 0.1), paths[0], GREY)
    subprocess.run([sys.executable, "-c", SAVE, str(paths[1])], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_file_tells_nothing_of_this_machine_and_is_the_same_every_time(tmp_path):
    pytest.importorskip("coremltools")
    paths = [tmp_path / str(place) / "n.mlpackage.zip" for place in range(2)]
    for path in paths:
        save_coreml(network("tied", 0.1), path, GREY)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = parts(paths[0])
    assert {name for name in found if name and not name.endswith("/")} == {
        "Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
    }  # fmt: skip
    for data in found.values():
        assert not any(word in data for word in (b"site-packages", b"stack_trace", b"conversion_date", b".py"))


def test_its_temporary_package_is_gone(tmp_path, monkeypatch):
    pytest.importorskip("coremltools")
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    save_coreml(network("tied"), tmp_path / "n.mlpackage.zip", GREY)
    assert list((tmp_path / "spare").iterdir()) == []


class NoSuchLayer(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        return torch.special.bessel_j0(self.head(x.flatten(1)))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (networks.DataFlow, "DataFlow cannot be exported: torch.export must be able to follow one flow"),
        (NoSuchLayer, r"NoSuchLayer cannot be written for Core ML \(.*bessel_j0"),
    ],
)
def test_a_network_that_cannot_be_written_is_one_sentence(tmp_path, capfd, module, words):
    pytest.importorskip("coremltools")
    with pytest.raises(ExportError, match=words) as caught:
        save_coreml(module(4), tmp_path / "n.mlpackage.zip", GREY)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# Where it cannot run, and where it can.


def small_zip(network, path, example):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("n.mlpackage/Manifest.json", "{}")
    return path


@on_linux
@pytest.mark.parametrize("formats", [["coreml"], ["packed", "coreml"]])
def test_a_file_that_cannot_run_here_is_there_without_figures(tmp_path, monkeypatch, formats):
    monkeypatch.setattr(deploying, "save_coreml", small_zip)
    given = Candidate("n", networks.tied(4), "export.networks:tied", {}, GREY, ARGUMENTS)
    found = deploy([given], tmp_path, formats=formats)
    assert ExportedNetworks.load(tmp_path) == found
    assert [bool(artifact.speed) for artifact in found.artifacts] == [name != "coreml" for name in formats]
    file = found.artifacts[-1]
    assert (file.file, file.speed, file.test, file.relative_error) == ("n.mlpackage.zip", None, None, None)
    blob = (tmp_path / file.file).read_bytes()
    assert (file.bytes, file.sha256) == (len(blob), hashlib.sha256(blob).hexdigest())
    assert file.not_run == REASON
    assert artifact_line(file, tmp_path).endswith(f", not run here: {REASON}")
    page = save(path_of("fine-tuning", 0, 2, epochs=2), tmp_path, exported=found)
    assert f'<td colspan="7">not run here: {REASON}</td><td>{file.sha256[:12]}</td>' in page
    dense = f"takes {size(file.download_bytes)} in this format"
    assert f"smallest download: n.mlpackage.zip, not run here. The dense network {dense}." in page
    assert ("fastest: n.safetensors" in page) == ("packed" in formats)
    assert "fastest: n.mlpackage.zip" not in page
    assert ("Time for one sample" in page) == ("packed" in formats)
    assert f"n.mlpackage.zip: {size(file.download_bytes)}, not run here" in page, "what the bar of its size says"


@on_linux
def test_all_formats_have_it_where_it_is_installed(tmp_path):
    pytest.importorskip("coremltools")
    given = Candidate("n", networks.tied(4), "export.networks:tied", {}, GREY, ARGUMENTS)
    found = deploy([given], tmp_path)
    assert [a.not_run for a in found.artifacts if a.format == "coreml"] == [REASON]
    assert all(artifact.speed for artifact in found.artifacts if artifact.format != "coreml")


def test_a_format_that_was_asked_for_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    given = Candidate("n", networks.tied(4), "export.networks:tied", {}, GREY, ARGUMENTS)
    with pytest.raises(ExportError, match=r"pip install -e '\.\[coreml\]'"):
        deploy([given], tmp_path, formats=["packed", "coreml"])
    monkeypatch.setattr(deploying, "FORMATS", {name: deploying.FORMATS[name] for name in ("packed", "coreml")})
    (skipped,) = deploy([given], tmp_path).skipped
    assert (skipped.format, "[coreml]" in skipped.reason) == ("coreml", True)


def test_on_a_mac(tmp_path, monkeypatch):
    """With something that stands for coremltools: no Mac was there."""
    asked = []

    class Model:
        def __init__(self, path, compute_units):
            asked.append((path.rpartition("/")[2], compute_units))

        def predict(self, given):
            return {"output": given["x"].sum(axis=(2, 3))}

    stand_in = types.SimpleNamespace(
        models=types.SimpleNamespace(MLModel=Model),
        ComputeUnit=types.SimpleNamespace(CPU_ONLY="cpu"),
        __version__="9.0",
    )
    monkeypatch.setitem(sys.modules, "coremltools", stand_in)
    path = small_zip(None, tmp_path / "n.mlpackage.zip", GREY)
    for system, reason in (("Darwin", None), ("Linux", REASON), ("Windows", REASON)):
        monkeypatch.setattr(runtimes.platform, "system", lambda system=system: system)
        assert not_run(path) == reason
        assert not_run(tmp_path / "n.onnx") is None
    batch = images(3).numpy()
    runtime = runtime_of(path, observe(network("resnet8"), GREY).call)
    assert runtime.name.startswith("Core ML by coremltools 9.0")
    (found,) = runtime.load(path, 1)([batch])
    assert np.array_equal(found, batch.sum(axis=(2, 3)))
    assert asked == [("n.mlpackage", "cpu")]
