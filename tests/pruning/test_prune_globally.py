"""`prune_globally` against torch's own global pruning, and against a stable sort that needs no cleverness."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import psutil
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.pruning import count_kept, kept_count, magnitude, prune_globally, top_k
from orchestrator.pruning.criteria import Criterion

Tensors = dict[str, Tensor]


def by_sorting(
    weights: Tensors, density: float, masks: Tensors | None = None, minimum: int = 0, criterion: Criterion = magnitude
) -> Tensors:
    """The rule word for word: each layer's best `minimum` first, then the best of all the rest, in stable order."""
    scores = torch.cat([criterion(w.double(), None).reshape(-1) for w in weights.values()])
    total = scores.numel()
    candidate = torch.cat([m.reshape(-1) for m in masks.values()]) if masks else torch.ones(total, dtype=torch.bool)
    layer = torch.cat([torch.full((w.numel(),), i) for i, w in enumerate(weights.values())])
    best_first = [int(i) for i in torch.argsort(-scores, stable=True) if candidate[i]]
    reserved = [i for n in range(len(weights)) for i in [j for j in best_first if layer[j] == n][:minimum]]
    others = [i for i in best_first if i not in set(reserved)]
    kept = torch.zeros(total, dtype=torch.bool)
    kept[reserved + others[: kept_count(density, total) - len(reserved)]] = True
    parts = kept.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}


def assert_same(got: Tensors, wanted: Tensors) -> None:
    assert list(got) == list(wanted)
    for name, mask in wanted.items():
        assert got[name].dtype is torch.bool
        assert torch.equal(got[name], mask), name


def without_ties(shapes: list[tuple[int, ...]], seed: int) -> Tensors:
    """Weights of random sign whose magnitudes all differ (exact in float32 up to 2^24 of them)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    magnitudes = (torch.randperm(sum(sizes), generator=generator) + 1) / 2**20
    signs = torch.randint(0, 2, magnitudes.shape, generator=generator) * 2 - 1
    parts = torch.split(magnitudes * signs, sizes)
    return {f"layer{i}": part.view(shape) for i, (part, shape) in enumerate(zip(parts, shapes, strict=True))}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_chooses_the_same_and_the_number_stays(
    monkeypatch: pytest.MonkeyPatch, threads: int, masked: bool
) -> None:
    monkeypatch.setattr(top_k, "BLOCK", 64)
    weights = {f"layer{i}": torch.randint(-9, 9, (n, 7)).float() for i, n in enumerate((1, 40, 3, 90, 11))}
    masks = {name: torch.rand(weight.shape) < 0.7 for name, weight in weights.items()} if masked else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seen = []

    def watched(weight: Tensor, gradient: Tensor | None) -> Tensor:
        seen.append(torch.get_num_threads())
        return magnitude(weight)

    try:
        assert_same(prune_globally(weights, 0.31, masks=masks), by_sorting(weights, 0.31, masks))
        with torch.inference_mode():
            assert_same(prune_globally(weights, 0.31, criterion=watched), by_sorting(weights, 0.31))
        assert set(seen) == {1}
        weights["layer3"][5, 5] = math.nan
        with pytest.raises(ConfigError, match="layer3 holds NaN"):
            prune_globally(weights, 0.31)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


NARROW_RESNET20 = [(8, 3, 3, 3), *[(8, 8, 3, 3)] * 6, (16, 8, 3, 3), *[(16, 16, 3, 3)] * 5, (32, 16, 3, 3)]
NARROW_RESNET20 += [*[(32, 32, 3, 3)] * 5, (10, 32)]


def test_fourteen_rounds_equal_torchs_own_global_pruning() -> None:
    weights = without_ties(NARROW_RESNET20, seed=0)
    total = sum(w.numel() for w in weights.values())
    modules = []
    for weight in weights.values():
        module = nn.Module()
        module.weight = nn.Parameter(weight.clone())
        modules.append((module, "weight"))
    masks: Tensors | None = None
    kept = total
    for r in range(1, 15):
        earlier, masks = masks, prune_globally(weights, 0.8**r, masks=masks)
        removed, kept = kept - round(0.8**r * total), round(0.8**r * total)
        torch_prune.global_unstructured(modules, torch_prune.L1Unstructured, amount=removed)
        assert count_kept(masks) == kept
        assert_same(masks, {n: m.weight_mask.bool() for n, (m, _) in zip(weights, modules, strict=True)})
        if earlier is not None:
            assert all(not (masks[name] & ~earlier[name]).any() for name in masks)
        weights = {name: weight * masks[name] for name, weight in weights.items()}  # as retraining leaves them


@pytest.mark.parametrize("density", [0.8**r for r in range(1, 15)] + [1.0, 0.5, 1e-4])
def test_exact_count_whatever_the_ties(density: float) -> None:
    weights = {"a": torch.randn(300, 7).round(decimals=1), "b": torch.randint(-2, 3, (4000,)) / 2}
    assert count_kept(prune_globally(weights, density)) == round(density * 6100)


def test_of_equal_weights_the_lower_flat_index_stays_across_tensors() -> None:
    weights = {"z": torch.ones(2, 3), "a": -torch.ones(4), "m": torch.ones(5, 1)}
    masks = prune_globally(weights, 8 / 15)
    assert masks["z"].all()
    assert masks["a"].tolist() == [True, True, False, False]
    assert not masks["m"].any()


def test_removed_weights_never_return_even_when_all_that_is_kept_is_zero() -> None:
    weights = {"a": torch.tensor([5.0, 0.0, -0.0, 0.0]), "b": torch.tensor([7.0, 0.0])}
    earlier = {"a": torch.tensor([False, True, True, True]), "b": torch.tensor([False, True])}
    masks = prune_globally(weights, 0.5, masks=earlier)
    assert masks["a"].tolist() == [False, True, True, True]
    assert masks["b"].tolist() == [False, False]


# Few values, so that ties, zeros of both signs and the extremes are common; all exact in every dtype below.
values = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 6.103515625e-05, -65504.0 + 480]) | st.floats(
    -4, 4, width=16
)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@st.composite
def networks(draw: st.DrawFn) -> tuple[Tensors, Tensors | None]:
    """Up to four layers of mixed dtypes, some of them not contiguous, and sometimes earlier masks."""
    weights: Tensors = {}
    masks: Tensors = {}
    for name in draw(st.permutations("abcd"))[: draw(st.integers(1, 4))]:
        rows, columns = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
        flat = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
        weight = torch.tensor(flat, dtype=torch.float64).to(draw(dtypes)).view(rows, columns)
        weights[name] = weight.t() if draw(st.booleans()) else weight
        bits = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
        masks[name] = torch.tensor(bits).view(weights[name].shape)
    return weights, masks if draw(st.booleans()) and any(m.any() for m in masks.values()) else None


def squared_upside_down(weight: Tensor, grad: Tensor | None) -> Tensor:
    return -weight.double().square()


@settings(max_examples=200)
@given(networks(), st.data())
def test_equals_a_stable_sort(network: tuple[Tensors, Tensors | None], data: st.DataObject) -> None:
    weights, masks = network
    total = sum(w.numel() for w in weights.values())
    candidates = {n: int(masks[n].sum()) if masks else w.numel() for n, w in weights.items()}
    minimum = data.draw(st.integers(0, 4), "minimum")
    least = max(1, sum(min(minimum, c) for c in candidates.values()))
    keep = data.draw(st.integers(least, max(least, sum(candidates.values()))), "keep")
    criterion = data.draw(st.sampled_from([magnitude, squared_upside_down]), "criterion")
    # The sizes that matter at 25 million weights, scaled down to these networks.
    block, stride = data.draw(st.sampled_from([1, 3, 8, 16, 100])), data.draw(st.sampled_from([1, 2, 7, 211]))
    with mock.patch.multiple(top_k, BLOCK=block, STRIDE=stride, SIGMAS=(1, math.inf)):
        got = prune_globally(weights, keep / total, masks=masks, min_kept_per_layer=minimum, criterion=criterion)
    assert_same(got, by_sorting(weights, keep / total, masks, minimum, criterion))


@contextmanager
def brackets_of(bracket: tuple[float, float]) -> Iterator[None]:
    """The first bracket tried is `bracket`, wherever the threshold is."""
    tries = [tuple(sorted(bracket)), (-math.inf, math.inf)]
    with mock.patch.object(top_k, "_bracket", side_effect=tries):
        yield


@settings(max_examples=100)
@given(networks(), st.tuples(values, values), st.data())
def test_a_wrong_bracket_costs_time_but_not_exactness(
    network: tuple[Tensors, Tensors | None], bracket: tuple[float, float], data: st.DataObject
) -> None:
    weights, masks = network
    total = sum(w.numel() for w in weights.values())
    keep = data.draw(st.integers(1, count_kept(masks) if masks else total))
    with brackets_of(bracket):
        got = prune_globally(weights, keep / total, masks=masks)
    assert_same(got, by_sorting(weights, keep / total, masks))


def only_the_sampled_are_large(n: int) -> Tensor:
    weight = torch.rand(n)
    weight[:: top_k.STRIDE] += 10
    return weight


@pytest.mark.parametrize("density", [0.8, 0.3, 0.001])
@pytest.mark.parametrize(
    "make",
    [
        torch.randn,
        torch.ones,
        lambda n: torch.arange(n, dtype=torch.float32),
        lambda n: torch.arange(n, 0, -1, dtype=torch.float32),
        lambda n: torch.randn(n).relu(),
        lambda n: torch.randn(n).bfloat16(),
        lambda n: torch.randn(n, dtype=torch.float64),
        lambda n: torch.randn(n) ** 15,
        only_the_sampled_are_large,
    ],
    ids=["normal", "equal", "rising", "falling", "relu", "bfloat16", "float64", "heavy tails", "fools the sample"],
)
def test_more_weights_than_a_block(make: Callable[[int], Tensor], density: float) -> None:
    n, head = top_k.BLOCK + 12345, 1001  # neither is a multiple of 8
    weight = make(n)
    scores = weight.double().abs()
    masks = prune_globally({"head": weight[:head], "rest": weight[head:]}, density)
    kept = torch.cat([masks["head"], masks["rest"]])
    keep = round(density * n)
    assert int(kept.sum()) == keep
    threshold = scores[kept].min()
    assert scores[~kept].max() <= threshold
    tied = kept[scores == threshold]
    assert not (tied[1:] & ~tied[:-1]).any(), "of equal scores the lower indices are kept"


def test_weights_of_two_precisions_are_compared_exactly() -> None:
    weights = {"single": torch.tensor([1.0, -1.0]), "double": torch.tensor([1 - 1e-12, 1 + 1e-12], dtype=torch.float64)}
    masks = prune_globally(weights, 0.5)
    assert (masks["single"].tolist(), masks["double"].tolist()) == ([True, False], [False, True])


def test_channels_last_weights_are_counted_in_logical_order() -> None:
    weight = torch.randint(-3, 4, (8, 5, 3, 3)).float()
    last = weight.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    mask = prune_globally({"conv": last}, 0.4)["conv"]
    assert torch.equal(mask, prune_globally({"conv": weight}, 0.4)["conv"])
    assert mask.is_contiguous()


def test_each_layer_keeps_its_best_up_to_the_minimum() -> None:
    weights = {"big": torch.arange(10.0, 20.0), "small": torch.arange(1.0, 6.0), "tiny": torch.tensor([0.5])}
    masks = prune_globally(weights, 8 / 16, min_kept_per_layer=2)
    assert masks["big"].tolist() == [False] * 5 + [True] * 5
    assert masks["small"].tolist() == [False, False, False, True, True]
    assert masks["tiny"].tolist() == [True], "a layer of one weight cannot keep two"


def test_nothing_passed_in_changes_and_memory_does_not_grow() -> None:
    weights = {"a": nn.Parameter(torch.randn(1000, 1000)), "b": nn.Parameter(torch.randn(10))}  # masks of 1 MB
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = prune_globally(weights, 0.8)
    held = {name: mask.clone() for name, mask in masks.items()}
    process = psutil.Process(os.getpid())
    for repeat in range(35):
        prune_globally(weights, 0.64, masks=masks)
        if repeat == 4:
            warm = process.memory_info().rss
    assert process.memory_info().rss - warm < 15e6, "30 masks kept would be 30 MB"
    assert all(torch.equal(weights[name], before[name]) and weights[name].requires_grad for name in weights)
    assert_same(masks, held)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_masks_of_the_cpu() -> None:
    weights = {"a": torch.randn(300, 1000).half().float(), "b": torch.randn(3_000_000)}
    first = prune_globally(weights, 0.8, min_kept_per_layer=5)
    second = prune_globally({n: w.cuda() for n, w in weights.items()}, 0.8, min_kept_per_layer=5)
    assert {mask.device.type for mask in second.values()} == {"cuda"}
    assert_same({name: mask.cpu() for name, mask in second.items()}, first)


FOUR = {"conv": torch.tensor([1.0, 2.0]), "fc": torch.tensor([3.0, 4.0])}
ONE_LEFT = {"conv": torch.tensor([True, False]), "fc": torch.tensor([False, False])}


@pytest.mark.parametrize(
    ("weights", "density", "options", "message"),
    [
        (FOUR, 1.5, {}, r"density must be a number in \(0, 1\], got 1.5"),
        (FOUR, 0.0, {}, r"density must be a number in \(0, 1\], got 0.0"),
        (FOUR, float("nan"), {}, r"density must be a number in \(0, 1\], got nan"),
        (FOUR, 0.1, {}, "must keep at least 1 of 4 weights, got 0.1, which keeps 0"),
        (FOUR, 0.5, {"masks": ONE_LEFT}, "keeps 2 of 4 weights, but the masks given leave only 1.*at most 0.25"),
        (FOUR, 0.25, {"min_kept_per_layer": 1}, "keeps 1 of 4 weights, but min_kept_per_layer=1 needs 2 in 2 layers"),
        (FOUR, 0.5, {"min_kept_per_layer": -1}, "min_kept_per_layer must be a whole number of 0 or more, got -1"),
        ({}, 0.5, {}, "at least one tensor"),
        ({"w": torch.tensor(1.0)}, 0.5, {}, r"got shape \(\) for w"),
        ({"w": torch.ones(0, 3)}, 0.5, {}, r"got shape \(0, 3\) for w"),
        ({"w": torch.ones(3, dtype=torch.int64)}, 0.5, {}, "floating point, got torch.int64 for w"),
        ({**FOUR, "bad": torch.tensor([1.0, float("nan")])}, 0.5, {}, "bad holds NaN or infinity"),
        ({**FOUR, "bad": torch.tensor([1.0, float("inf")])}, 1.0, {}, "bad holds NaN or infinity"),
        ({**FOUR, "bad": torch.tensor([1.0, -float("inf")])}, 0.5, {}, "bad holds NaN or infinity"),
        ({**FOUR, "bad": torch.tensor([float("nan")] * 9, dtype=torch.bfloat16)}, 0.5, {}, "bad holds NaN or infinity"),
        ({"bad": torch.tensor([float("inf")])}, 1.0, {"criterion": squared_upside_down}, "bad holds NaN or infinity"),
        (FOUR, 0.5, {"masks": {"conv": ONE_LEFT["conv"]}}, "one mask, but fc has none"),
        (FOUR, 0.5, {"masks": {}}, "one mask, but conv has none"),
        (FOUR, 0.5, {"masks": {**ONE_LEFT, "old": ONE_LEFT["fc"]}}, "mask 'old' does not belong to a prunable weight"),
        (FOUR, 0.5, {"masks": {**ONE_LEFT, "fc": torch.ones(3).bool()}}, r"mask .*\(2,\), got \(3,\) for fc"),
        (FOUR, 0.5, {"masks": {n: m.float() for n, m in ONE_LEFT.items()}}, "bool.*float32 for conv"),
        (FOUR, 0.5, {"gradients": {"conv": torch.ones(2)}}, "one gradient, but fc has none"),
        (FOUR, 0.5, {"gradients": {**FOUR, "fc": torch.ones(2, 1)}}, r"gradient .*\(2,\), got \(2, 1\) for fc"),
        (FOUR, 0.5, {"criterion": lambda w, g: w * float("nan")}, "NaN for conv"),
        (FOUR, 0.5, {"criterion": lambda w, g: w.sum()}, r"shape \(2,\), got torch.float32 \(\) for conv"),
        (FOUR, 0.5, {"criterion": lambda w, g: w.long()}, r"floating-point .*got torch.int64 \(2,\) for conv"),
    ],
)
def test_what_is_refused(weights: Tensors, density: float, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prune_globally(weights, density, **options)  # type: ignore[arg-type]
