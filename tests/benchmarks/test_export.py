"""Size and speed of exported files: MobileNetV2 and ResNet-50, dense and with a tenth of the weights.

Weights are random: sizes and times do not depend on what a network has learnt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export.networks import pruned, settled
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from orchestrator.export import Preprocessing
from orchestrator.export.deploy import Candidate, deploy
from orchestrator.export.proof import Artifact
from orchestrator.export.runtimes import Run, runtime_of
from orchestrator.report.text import milliseconds, size
from orchestrator.training.models import build_model

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

SHAPE = (3, 224, 224)
FORMATS = ("packed", "packed-fp16", "onnx", "onnx-int8")
NETWORKS: dict[str, Callable[[nn.Module], nn.Module]] = {  # how each is made of the dense one
    "dense": lambda module: module,
    "density 0.1": lambda module: pruned(module, 0.1),
}
TARGETS = {("resnet50", "packed"): 10_700_000, ("resnet50", "packed-fp16"): 5_800_000}  # bytes, at density 0.1


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_files(tmp_path: Path, name: str) -> None:
    candidates = []
    for title, made in NETWORKS.items():
        module = build_model(f"torchvision:{name}", {}, num_classes=1000, input_shape=SHAPE, seed=0)
        module = made(settled(module))
        candidates.append(Candidate(title, module, f"torchvision:{name}", {}, Preprocessing.imagenet(module)))
    deployment = deploy(candidates, tmp_path, formats=FORMATS)
    files = {(artifact.network, artifact.format): artifact for artifact in deployment.artifacts}
    times = in_turns({(n, f): tmp_path / a.file for (n, f), a in files.items() if f.startswith("onnx")})
    table = Table(title=f"{name}, one thread of {deployment.artifacts[0].speed.processor}", box=box.SIMPLE_HEAD)
    for header in ("network", "raw", *FORMATS, "onnx to download", "onnx ms", "x faster", "int8 ms", "effective MACs"):
        table.add_column(header, justify="right")
    for facts in deployment.networks:
        mine: list[Artifact] = [files[facts.name, form] for form in FORMATS]
        fast, dense = times[facts.name, "onnx"], times["dense", "onnx"]
        table.add_row(
            facts.name, size(facts.raw_bytes), *(size(artifact.bytes) for artifact in mine),
            size(files[facts.name, "onnx"].download_bytes), milliseconds(fast), f"{dense / fast:.2f}",
            milliseconds(times[facts.name, "onnx-int8"]), f"{facts.effective_macs / facts.macs:.0%}",
        )  # fmt: skip
    Console(width=160).print(table)
    for (architecture, form), most in TARGETS.items():
        assert architecture != name or files["density 0.1", form].bytes <= most
    ratio = times["density 0.1", "onnx"] / times["dense", "onnx"]
    assert 0.7 < ratio < 1.4, "zeros are neither skipped nor in the way"


def in_turns(files: dict[tuple[str, str], Path], rounds: int = 15) -> dict[tuple[str, str], float]:
    """Median seconds of one image, all files in this process, by turns: what slows the machine slows them all."""
    image = np.random.default_rng(0).standard_normal((1, *SHAPE), dtype=np.float32)
    runs: dict[tuple[str, str], Run] = {key: runtime_of(path).load(path, 1) for key, path in files.items()}
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 2):
        for key, run in runs.items():
            begin = time.perf_counter()
            run(image)
            if turn >= 2:  # the first warm up
                taken[key].append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in taken.items()}
