"""Size and speed of exported files: MobileNetV2 and ResNet-50, dense, with a tenth of the weights, half the channels.

Weights are random: sizes and times do not depend on what a network has learnt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from export.networks import pruned, settled
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from orchestrator.export.deploy import Candidate, deploy
from orchestrator.export.example import ExampleInputs, observe
from orchestrator.export.interface import Call
from orchestrator.export.proof import Artifact, Facts
from orchestrator.export.runtimes import Run, runtime_of
from orchestrator.formatting import milliseconds, size
from orchestrator.models.build import build_model
from orchestrator.models.imagenet import imagenet_example
from orchestrator.pruning import fewer_channels
from orchestrator.pruning.channels.graph import Kept

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

SHAPE = (3, 224, 224)
FORMATS = ("packed", "packed-fp16", "packed-int8", "onnx", "onnx-int8")
NETWORKS: dict[str, Callable[[nn.Module], tuple[nn.Module, Kept]]] = {  # how each is made of the dense one
    "dense": lambda module: (module, {}),
    "density 0.1": lambda module: (pruned(module, 0.1), {}),
    "half the channels": lambda module: fewer_channels(module, torch.zeros(1, *SHAPE), 0.5),
}
THREADS = (1, 2)
FASTER = {"resnet50": 3.0}  # times, with half the channels
TARGETS = {  # bytes, at density 0.1
    ("resnet50", "packed"): 9_500_000,
    ("resnet50", "packed-fp16"): 5_400_000,
    ("resnet50", "packed-int8"): 4_000_000,
}


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_files(tmp_path: Path, name: str) -> None:
    candidates = []
    for title, made in NETWORKS.items():
        module = build_model(f"torchvision:{name}", {}, {"num_classes": 1000, "input_shape": SHAPE}, seed=0)
        module, kept = made(settled(module))
        inputs, about, arguments = imagenet_example(module)
        example = ExampleInputs(inputs, about=about)
        candidates.append(Candidate(title, module, f"torchvision:{name}", {}, example, arguments, kept))
    call = observe(candidates[0].module, candidates[0].example).call
    deployment = deploy(candidates, tmp_path, formats=FORMATS)
    files = {(artifact.network, artifact.format): artifact for artifact in deployment.artifacts}
    show_sizes(name, deployment.networks, files)
    for (architecture, form), most in TARGETS.items():
        assert architecture != name or files["density 0.1", form].bytes <= most
    for threads in THREADS:
        paths = {(n, f): tmp_path / a.file for (n, f), a in files.items() if f.startswith("onnx")}
        times = in_turns(paths, call, threads)
        show_times(f"{name}, {threads} thread(s) of {deployment.artifacts[0].speed.processor}", times)
        dense = times["dense", "onnx"]
        assert 0.7 < times["density 0.1", "onnx"] / dense < 1.4, "zeros are neither skipped nor in the way"
        assert dense / times["half the channels", "onnx"] >= FASTER.get(name, 1.0)


def show_sizes(name: str, networks: Iterable[Facts], files: Mapping[tuple[str, str], Artifact]) -> None:
    table = Table(title=name, box=box.SIMPLE_HEAD)
    for header in ("network", "raw", *FORMATS, "onnx to download", "parameters", "MACs", "effective MACs"):
        table.add_column(header, justify="right")
    for facts in networks:
        table.add_row(
            facts.name, size(facts.raw_bytes), *(size(files[facts.name, form].bytes) for form in FORMATS),
            size(files[facts.name, "onnx"].download_bytes), f"{facts.parameters:,}", f"{facts.macs:,}",
            f"{facts.effective_macs:,}",
        )  # fmt: skip
    Console(width=160).print(table)


def show_times(title: str, times: Mapping[tuple[str, str], float]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for header in ("network", "onnx", "x faster", "onnx-int8", "x faster than dense onnx"):
        table.add_column(header, justify="right")
    for network in NETWORKS:
        dense, *mine = times["dense", "onnx"], times[network, "onnx"], times[network, "onnx-int8"]
        table.add_row(network, *(text for t in mine for text in (milliseconds(t), f"{dense / t:.2f}")))
    Console(width=160).print(table)


def in_turns(
    files: Mapping[tuple[str, str], Path], call: Call, threads: int, rounds: int = 15
) -> dict[tuple[str, str], float]:
    """Median seconds of one image, all files in this process, by turns: what slows the machine slows them all."""
    image = np.random.default_rng(0).standard_normal((1, *SHAPE), dtype=np.float32)
    runs: dict[tuple[str, str], Run] = {key: runtime_of(path, call).load(path, threads) for key, path in files.items()}
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 2):
        for key, run in runs.items():
            begin = time.perf_counter()
            run([image])
            if turn >= 2:  # the first warm up
                taken[key].append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in taken.items()}
