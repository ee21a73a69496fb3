"""Global magnitude pruning of ResNet-50's 25.5 million weights, against PyTorch's own, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import Tensor, nn

from orchestrator.pruning import count_kept, prunable_weights, prune_globally

pytestmark = pytest.mark.bench

TARGET_SECONDS = 0.06  # on two quiet cores
LOOSE_SECONDS = 0.15  # on a machine that others use too
TARGET_RATIO = 30  # from the dense network; with earlier masks PyTorch's own has less to do too
MASKED_RATIO = 20


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """He-initialised weights of ResNet-50's shapes."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in prunable_weights(models.resnet50()).items()}
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator) * (2 / s[1:].numel()) ** 0.5 for n, s in shapes.items()}


def seconds(run: Callable[[], object], times: int) -> list[float]:
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def torchs_own(weights: dict[str, Tensor], amount: int, masks: dict[str, Tensor] | None) -> tuple[float, list[Tensor]]:
    """Seconds of one `global_unstructured`, and its masks; building its modules is not counted."""
    modules = []
    for name, weight in weights.items():
        module = nn.Module()
        module.weight = nn.Parameter(weight.clone())
        if masks is not None:
            torch_prune.custom_from_mask(module, "weight", masks[name])
        modules.append((module, "weight"))
    start = time.perf_counter()
    torch_prune.global_unstructured(modules, torch_prune.L1Unstructured, amount=amount)
    return time.perf_counter() - start, [module.weight_mask.bool() for module, _ in modules]


@pytest.mark.parametrize("density", [0.8, 0.64], ids=["dense to 0.8", "0.8 to 0.64 with masks"])
def test_faster_than_global_unstructured(weights: dict[str, Tensor], density: float) -> None:
    total = sum(weight.numel() for weight in weights.values())
    masks, kept, wanted = None, total, TARGET_RATIO
    if density < 0.8:
        wanted = MASKED_RATIO
        masks = prune_globally(weights, 0.8)
        kept = count_kept(masks)
        weights = {name: weight * masks[name] for name, weight in weights.items()}

    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(5):  # turn by turn, so that a slow spell of the machine meets both
        ours += seconds(lambda: prune_globally(weights, density, masks=masks), times=7)
        taken, expected = torchs_own(weights, kept - round(density * total), masks)
        theirs.append(taken)

    result = prune_globally(weights, density, masks=masks)
    assert count_kept(result) == round(density * total)
    differing = sum(int((a != b).sum()) for a, b in zip(result.values(), expected, strict=True))
    assert differing <= 20, "only equal magnitudes at the threshold may be chosen otherwise"

    own, other = statistics.median(ours), statistics.median(theirs)
    ratio = min(theirs) / min(ours)  # what other programs on the machine add, the best of each is freest of
    print(
        f"\n{total:,} weights to density {density}: prune_globally median {own:.4f} s, best {min(ours):.4f} s (target "
        f"{TARGET_SECONDS} s); global_unstructured median {other:.3f} s, best {min(theirs):.3f} s; "
        f"{other / own:.0f}x by medians, {ratio:.0f}x by bests (asserted {wanted}x)"
    )
    assert ratio >= wanted
    assert min(ours) < LOOSE_SECONDS
