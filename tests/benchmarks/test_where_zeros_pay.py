"""Where zeros pay: ratios of times in one process, by turns, each network against the dense one of the same runtime.

Weights are random and pruned by magnitude in each layer but the first: times do not depend on what a network has
learnt. Run it on a quiet machine: with 14 processes on two cores ResNet-50 at 0.1 was 1.3 and 1.8 times as fast in two
runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from export.networks import settled
from torch import nn

from orchestrator.export.example import ExampleInputs
from orchestrator.export.imagenet import imagenet_example
from orchestrator.export.kernel_choice import choose_kernels
from orchestrator.export.originals import Candidate, Original
from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.side_by_side import Cell, compare_on
from orchestrator.models.build import build_model
from orchestrator.pruning import Blocks, Pattern, prunable_weights, prune_globally

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

SHAPE = (3, 224, 224)


@torch.no_grad()
def thinned(module: nn.Module, density: float, pattern: Pattern | None = None) -> nn.Module:
    for name, weight in prunable_weights(module).items():
        if weight.dim() == 2 or weight.shape[1] > 3:  # neither the first layer nor depthwise ones
            weight.mul_(prune_globally({name: weight.detach()}, density, pattern=pattern)[name])
    return module


def built(name: str) -> nn.Module:
    return settled(build_model(f"torchvision:{name}", {}, {"num_classes": 1000, "input_shape": SHAPE}, seed=0))


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("density", "faster"), [(0.2, 1.0), (0.1, 1.5), (0.05, 1.9)])
def test_resnet50_in_torch(density: float, faster: float) -> None:
    with one_thread():
        begin = time.perf_counter()
        found = choose_kernels(thinned(built("resnet50"), density), torch.randn(1, *SHAPE))
        seconds = time.perf_counter() - begin
    ratio = found.dense_seconds / found.seconds
    print(f"ResNet-50, density {density}: {ratio:.2f} times ({len(found.sparse)} layers), chosen in {seconds:.0f} s")
    assert ratio >= faster


def test_wide_layers_in_torch() -> None:
    wide = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(2048, 2048), nn.ReLU())))
    with one_thread():
        found = choose_kernels(thinned(wide, 0.1).eval(), torch.randn(16, 2048))
    ratio = found.dense_seconds / found.seconds
    print(f"three layers 2048 wide, batch 16, density 0.1: {ratio:.2f} times")
    assert ratio >= 4


def test_mobilenet_in_mnn() -> None:
    if reason := TARGETS["mnn"].missing():
        pytest.skip(reason)
    networks = {
        "dense": built("mobilenet_v2"),
        "masks": thinned(built("mobilenet_v2"), 0.1),
        "blocks": thinned(built("mobilenet_v2"), 0.1, Blocks(4)),
    }
    found = {name: seconds_of(cell) for name, cell in zip(networks, mnn_cells(networks), strict=True)}
    ratios = {name: found["dense"] / seconds for name, seconds in found.items()}
    print("MobileNetV2 in MNN, density 0.1:", {name: f"{ratio:.2f} times" for name, ratio in ratios.items()})
    assert ratios["masks"] >= 1.6
    assert ratios["blocks"] >= 2.0


def mnn_cells(networks: dict[str, nn.Module]) -> list[Cell]:
    """Return the float32 cells of MNN, in order."""
    originals = []
    with ExitStack() as stack:
        for name, module in networks.items():
            about, arguments = imagenet_example(module)
            example = ExampleInputs(torch.randn(2, *SHAPE), about=about.about)
            candidate = Candidate(name, module, "torchvision:mobilenet_v2", {}, example, arguments)
            originals.append(stack.enter_context(Original.of(candidate, None)))
        return [cell for cell in compare_on([TARGETS["mnn"]], originals) if cell.file == "sparse float32"]


def seconds_of(cell: Cell) -> float:
    assert cell.seconds, cell.reason
    return cell.seconds
