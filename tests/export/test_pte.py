"""ExecuTorch files, where it is installed: what its runtime makes of them is what torch makes of the network."""

import sys

import numpy as np
import pytest
import torch
from export import networks
from export.networks import ARGUMENTS, GREY, images, settled

from orchestrator.errors import ExportError
from orchestrator.export import save_pte
from orchestrator.export.agreement import relative_error
from orchestrator.export.example import observe
from orchestrator.export.measure import measure
from orchestrator.export.runtimes import runtime_of
from orchestrator.models.build import build_model


def test_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.backends.xnnpack.partition.xnnpack_partitioner", None)
    with pytest.raises(ExportError, match=r"\.pte files: .*executorch.*pip install -e '\.\[mobile\]'"):
        save_pte(networks.tied(4), tmp_path / "n.pte", GREY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["flow", "tied", "resnet8"])
def test_its_runtime_gives_the_same_outputs(tmp_path, name):
    pytest.importorskip("executorch.runtime")
    spec = f"export.networks:{name}" if hasattr(networks, name) else name
    module = settled(build_model(spec, {}, ARGUMENTS, seed=2))
    path = save_pte(module, tmp_path / "n.pte", GREY)
    call, batch = observe(module, GREY).call, images(3)
    (got,) = runtime_of(path, call).load(path, 1)([batch.numpy()])
    with torch.no_grad():
        expected = np.concatenate([module(image[None]).numpy() for image in batch])
    assert relative_error(got, expected) < 1e-4
    speed = measure(path, call, [images(1).numpy()]).speed
    assert speed.runtime.startswith("executorch ")
    assert speed.threads == 1


def test_a_network_that_cannot_be_exported(tmp_path):
    pytest.importorskip("executorch.runtime")
    with pytest.raises(ExportError, match="DataFlow cannot be exported"):
        save_pte(networks.data_flow(4), tmp_path / "n.pte", GREY)
