"""Where zeros pay: ratios of times in one process, by turns, each network against the dense one of the same runtime.

Weights are random and pruned by magnitude in each layer but the first: times do not depend on what a network has
learnt. Run it on a quiet machine: with 14 processes on two cores ResNet-50 at 0.1 was 1.3 and 1.8 times as fast in two
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch
from export.networks import settled
from torch import nn

from orchestrator.export.batch_norm import folded
from orchestrator.export.example import ExampleInputs
from orchestrator.export.kernel_choice import choose_kernels, times_by_turns
from orchestrator.export.originals import Candidate, Original
from orchestrator.export.targets import TARGETS
from orchestrator.export.targets.side_by_side import Cell, compare_on
from orchestrator.export.targets.vela import CHIPS
from orchestrator.models.build import build_model
from orchestrator.pruning import AtMost, Blocks, Pattern, prunable_weights, prune_globally

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

SHAPE = (3, 224, 224)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SAME = 0.97  # the minimum ratio of two times of the same work: noise of one process


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


@pytest.fixture(scope="module")
def in_onnxruntime(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], object]:
    """Return what runs a dense ResNet-50 in onnxruntime on one thread."""
    if reason := TARGETS["onnxruntime"].missing():
        pytest.skip(reason)
    candidate = Candidate("dense", built("resnet50"), "benchmark:model", {}, ExampleInputs(torch.randn(2, *SHAPE)))
    with Original.of(candidate, None) as original:
        file = TARGETS["onnxruntime"].files(original, tmp_path_factory.mktemp("onnx"))["float32"]
        assert file.run is not None
        return partial(file.run, original.sample)


@pytest.mark.parametrize(
    ("density", "torchs", "onnxs"),
    [(0.8, SAME, 0), (0.5, SAME, 0), (0.3, SAME, 0), (0.2, SAME, 0), (0.1, 1.5, 1.15), (0.05, 1.9, 1.4)],
)
def test_resnet50_in_torch(density: float, torchs: float, onnxs: float, in_onnxruntime: Callable[[], object]) -> None:
    layers, (ours, *dense, onnx) = timed_anew(
        thinned(built("resnet50"), density), torch.randn(1, *SHAPE), in_onnxruntime
    )
    ratio = min(dense) / ours
    print(
        f"ResNet-50, density {density}, {layers} layers sparse, {1000 * ours:.1f} ms: {ratio:.2f} times torch's better"
    )
    print(f"dense layout ({1000 * dense[0]:.1f} and {1000 * dense[1]:.1f} ms), {onnx / ours:.2f} times onnxruntime's")
    print(f"dense network ({1000 * onnx:.1f} ms)")
    assert ratio >= torchs
    assert onnx / ours >= onnxs


def test_wide_layers_in_torch() -> None:
    wide = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(2048, 2048), nn.ReLU())))
    _, (ours, *dense) = timed_anew(thinned(wide, 0.1).eval(), torch.randn(16, 2048))
    ratio = min(dense) / ours
    print(f"three layers 2048 wide, batch 16, density 0.1: {ratio:.2f} times")
    assert ratio >= 4


@torch.no_grad()
def timed_anew(module: nn.Module, example: torch.Tensor, *others: Callable[[], object]) -> tuple[int, list[float]]:
    """Return how many layers of the chosen network are sparse, and the shortest seconds of a call.

    Of the chosen network, of the dense one in both layouts, and of `others`, by turns on one thread. The times by which
    a network was chosen favour it, so they are not used.
    """
    with one_thread():
        chosen = choose_kernels(module, example)
        layouts = [folded(module, ExampleInputs(example)).to(memory_format=each) for each in LAYOUTS]
        ways = [*(partial(network, example) for network in (chosen.module, *layouts)), *others]
        times = times_by_turns([partial(partial, way) for way in ways], 25)
    return len(chosen.sparse), [min(each) for each in times]


def test_mobilenet_in_mnn() -> None:
    if reason := TARGETS["mnn"].missing():
        pytest.skip(reason)
    networks = {
        "dense": built("mobilenet_v2"),
        "masks": thinned(built("mobilenet_v2"), 0.1),
        "blocks": thinned(built("mobilenet_v2"), 0.1, Blocks(4)),
    }
    ratios = gains(cells_of("mnn", networks, "sparse float32"))
    print("MobileNetV2 in MNN, density 0.1:", {name: f"{ratio:.2f} times" for name, ratio in ratios.items()})
    assert ratios["masks"] >= 1.6
    assert ratios["blocks"] >= 2.0


def test_mobilenet_in_a_browser() -> None:
    if reason := TARGETS["web"].missing():
        pytest.skip(reason)
    cells = cells_of("web", {"dense": built("mobilenet_v2"), "masks": thinned(built("mobilenet_v2"), 0.1)}, "float32")
    for cell in cells:
        print(f"MobileNetV2, {cell.network}: {1000 * seconds_of(cell):.1f} ms, {cell.bytes:,} bytes")
        print(cell.measured_by)
    ratio = gains(cells)["masks"]
    print(f"density 0.1: {ratio:.2f} times")
    assert ratio >= 2.5


def test_2_of_4_on_an_ethos_u85() -> None:
    if reason := TARGETS["vela"].missing():
        pytest.skip(reason)
    networks = {
        "dense": convolutions(),
        "masks": thinned(convolutions(), 0.1),
        "2:4": thinned(convolutions(), 0.1, AtMost(2, of=4)),
    }
    every = cells_of("vela", networks, None, (3, 32, 32))
    for chip in CHIPS:
        cells = [cell for cell in every if cell.file == chip]
        cycles = {cell.network: cell.cycles or math.nan for cell in cells}
        ratios = {name: cycles["dense"] / each for name, each in cycles.items()}
        for cell in cells:
            said = f"{cell.cycles:,.0f} cycles, {ratios[cell.network]:.2f} times, {cell.bytes:,} bytes of weights"
            print(f"3x3 convolutions on the {chip}, {cell.network}: {said}, {cell.measured_by}; {cell.detail}")
    assert ratios["2:4"] >= 1.7, "on the last one, the U85"


def convolutions() -> nn.Module:
    """Return a network of 3x3 convolutions for pictures of 32 x 32."""
    torch.manual_seed(0)
    sizes = ((3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
    layers = [part for i, o, stride in sizes for part in (nn.Conv2d(i, o, 3, stride, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()


def cells_of(
    target: str, networks: dict[str, nn.Module], file: str | None, shape: tuple[int, ...] = SHAPE
) -> list[Cell]:
    """Return the cells of a file of a target, in order; None: of all its files."""
    originals = []
    with ExitStack() as stack:
        for name, module in networks.items():
            candidate = Candidate(name, module, "benchmark:model", {}, ExampleInputs(torch.randn(2, *shape)))
            originals.append(stack.enter_context(Original.of(candidate, None)))
        cells = compare_on([TARGETS[target]], originals)
    assert [cell.reason for cell in cells if cell.reason] == []
    return [cell for cell in cells if file in (None, cell.file)]


def gains(cells: list[Cell]) -> dict[str, float]:
    """Return how many times as fast as the dense network each is."""
    found = {cell.network: seconds_of(cell) for cell in cells}
    return {name: found["dense"] / seconds for name, seconds in found.items()}


def seconds_of(cell: Cell) -> float:
    assert cell.seconds, cell.reason
    return cell.seconds
