"""Whole filters against a slow reference that removes one after another."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import check, masks_of
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.pruning import Filters, count_kept, kept_count
from orchestrator.pruning.criteria import Criterion, magnitude

Tensors = dict[str, Tensor]


def one_by_one(weights: Tensors, density: float, masks: Tensors | None, minimum: int, criterion: Criterion) -> Tensors:
    """The rule word for word: while too much is kept, the worst filter that its layer can do without goes."""
    kept = {n: masks[n].clone() if masks else torch.ones(w.shape).bool() for n, w in weights.items()}
    budget = kept_count(density, sum(w.numel() for w in weights.values()))
    convolutions = [name for name, weight in weights.items() if weight.dim() > 2]

    def mean(name: str, filter: int) -> float:
        scores = criterion(weights[name], None)[filter].masked_fill(~kept[name][filter], 0).flatten().tolist()
        infinite = {math.inf, -math.inf} & set(scores)
        return max(infinite) if infinite else math.fsum(scores) / len(scores)

    means = {(name, f): mean(name, f) for name in convolutions for f in range(len(weights[name]))}
    ranked = sorted(means, key=lambda at: (means[at], -convolutions.index(at[0]), -at[1]))  # the worst first
    while count_kept(kept) > budget:
        for name, f in ranked:
            left = int(kept[name].sum()) - int(kept[name][f].sum())
            if kept[name][f].any() and left >= max(1, minimum):
                kept[name][f] = False
                break
        else:
            raise ConfigError("nothing more can go")
    return kept


def unusual(weight: Tensor, grad: Tensor | None) -> Tensor:
    """Scores of both signs and both infinities."""
    return weight.masked_fill(weight == 2, math.inf).masked_fill(weight == -3, -math.inf)


few = st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0])


@st.composite
def networks(draw: st.DrawFn) -> Tensors:
    weights: Tensors = {}
    for i in range(draw(st.integers(1, 3))):
        kernel = draw(st.sampled_from([(1,), (2,), (1, 2), (2, 2)]))
        shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)), *kernel)
        flat = draw(st.lists(few, min_size=math.prod(shape), max_size=math.prod(shape)))
        weights[f"conv{i}"] = torch.tensor(flat).view(shape)
    weights["fc"] = torch.ones(draw(st.integers(1, 3)), 2)
    return dict(draw(st.permutations(list(weights.items()))))


@settings(max_examples=150)
@given(
    networks(),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=3),
    st.integers(0, 9),
    st.sampled_from([magnitude, unusual]),
)
def test_equals_removing_one_filter_after_another(
    weights: Tensors, densities: list[float], minimum: int, criterion: Criterion
) -> None:
    total = sum(w.numel() for w in weights.values())
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    masks: Tensors | None = None
    for density in sorted(densities, reverse=True):
        try:
            wanted = one_by_one(weights, density, masks, minimum, criterion)
        except ConfigError:
            with pytest.raises(ConfigError, match="the smallest density is"):
                check(Filters(), shapes, density, min_kept_per_layer=minimum)
            with pytest.raises(ConfigError, match="the smallest density is"):
                masks_of(Filters(), weights, density, masks=masks, min_kept_per_layer=minimum, criterion=criterion)
            return
        check(Filters(), shapes, density, min_kept_per_layer=minimum)
        earlier, masks = (
            masks,
            masks_of(Filters(), weights, density, masks=masks, min_kept_per_layer=minimum, criterion=criterion),
        )
        for name, mask in masks.items():
            assert torch.equal(mask, wanted[name]), name
            filters = mask.flatten(1)
            assert torch.equal(filters.any(1), filters.all(1)), "a filter is split"
            assert mask.any()
            assert int(mask.sum()) >= min(minimum, mask.numel())
            assert earlier is None or not (mask & ~earlier[name]).any()
        assert masks["fc"].all()
        assert count_kept(masks) <= kept_count(density, total)


def test_the_l1_norm_ranks_within_a_layer_and_the_mean_between_layers() -> None:
    """Li et al. 2017 remove the filters of smallest sum of |w|; a larger filter is not better for being larger."""
    weights = {
        "wide": torch.tensor([0.30, 0.50, 0.10, 0.40]).view(4, 1, 1, 1).expand(4, 10, 1, 1),  # L1 norms 3, 5, 1, 4
        "narrow": torch.tensor([0.35, -0.60, 0.20]).view(3, 1, 1, 1),
    }
    order = []
    masks = masks_of(Filters(), weights, 1.0)
    for keep in (33, 32, 22, 21):
        before, masks = masks, masks_of(Filters(), weights, keep / 43, masks=masks)
        order += [(n, int(f)) for n in weights for f in (before[n] & ~masks[n]).flatten(1).any(1).nonzero()[:, 0]]
    assert order == [("wide", 2), ("narrow", 2), ("wide", 0), ("narrow", 0)]
    assert count_kept(masks) == 21


def test_of_equal_filters_the_first_stay_across_layers() -> None:
    weights = {"a": torch.ones(3, 2, 1), "b": -torch.ones(3, 1, 2), "fc": torch.zeros(1, 2)}
    kept = [
        {n: m.flatten(1).all(1).int().tolist() for n, m in masks_of(Filters(), weights, keep / 14).items()}
        for keep in (12, 10, 8, 6)
    ]
    assert [k["a"] for k in kept] == [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert [k["b"] for k in kept] == [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_the_budget_is_missed_by_less_than_a_filter() -> None:
    weights = {"conv": torch.rand(16, 4, 3, 3), "fc": torch.rand(3, 16)}
    for percent in range(20, 101):
        budget = kept_count(percent / 100, 16 * 36 + 48)
        assert budget - 36 < count_kept(masks_of(Filters(), weights, percent / 100)) <= budget


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([[0, 0], [math.inf, -9], [5, 5]], [0, 1, 0]),
        ([[math.inf, -math.inf], [5, 5], [9, 9]], [1, 0, 0]),
        ([[-math.inf, 99], [1, 1], [-9, -9]], [0, 1, 0]),
        ([[-math.inf, 0], [-math.inf, -math.inf], [-math.inf, 5]], [1, 0, 0]),
        ([[1, 2], [math.inf, 0], [0, math.inf]], [0, 1, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_infinite_scores(scores: list[list[float]], kept: list[int], dtype: torch.dtype) -> None:
    """+inf keeps a filter whatever else is in it, -inf makes it the first to go."""
    criterion = lambda w, g: torch.tensor(scores, dtype=dtype).view(3, 2, 1)  # noqa: E731
    masks = masks_of(Filters(), {"conv": torch.ones(3, 2, 1)}, 1 / 3, criterion=criterion)
    assert masks["conv"].flatten(1).all(1).int().tolist() == kept


def test_what_earlier_masks_removed_weighs_nothing_and_scores_nothing() -> None:
    weights = {"conv": torch.tensor([[4.0, 4.0], [9.0, 5.5], [3.0, 3.0]]).view(3, 2, 1)}
    earlier = {"conv": torch.tensor([[True, True], [False, True], [True, True]]).view(3, 2, 1)}
    masks = masks_of(Filters(), weights, 4 / 6, masks=earlier)
    assert masks["conv"].view(3, 2).int().tolist() == [[1, 1], [0, 0], [1, 1]]


SHAPES = {"conv": (8, 4, 3, 3), "fc": (10, 8)}  # 288 + 80 weights, a filter has 36


@pytest.mark.parametrize(
    ("density", "minimum", "least"), [(0.3, 0, 116), (0.3, 36, 116), (0.3, 37, 152), (0.5, 200, 296), (0.9, 9999, 368)]
)
def test_a_density_that_no_filters_give_is_refused_with_the_smallest(density: float, minimum: int, least: int) -> None:
    told = f"keeps {round(density * 368)} of 368 weights, .* {least} weights together"
    with pytest.raises(ConfigError, match=told) as error:
        check(Filters(), SHAPES, density, min_kept_per_layer=minimum)
    smallest = float(re.findall(r"the smallest density is ([0-9.]+)$", str(error.value))[0])
    check(Filters(), SHAPES, smallest, min_kept_per_layer=minimum)
    assert smallest - least / 368 < 1e-3
    masks = masks_of(Filters(), {n: torch.randn(s) for n, s in SHAPES.items()}, smallest, min_kept_per_layer=minimum)
    assert count_kept(masks) == least
    with pytest.raises(ConfigError, match="the smallest density is"):
        check(Filters(), SHAPES, least / 368 - 1 / 368, min_kept_per_layer=minimum)


def test_the_smallest_density_is_rounded_up() -> None:
    shapes = {"conv": (512, 512, 3, 3), "fc": (1000, 512)}  # 516,608 of 2,871,296 weights stay, 0.179921
    with pytest.raises(ConfigError, match=r"516608 weights together: the smallest density is 0.1800$"):
        check(Filters(), shapes, 0.1799)
    check(Filters(), shapes, 0.18)


def test_a_network_without_convolutions_cannot_lose_filters() -> None:
    with pytest.raises(ConfigError, match=r"linear and recurrent layers stay whole .* the smallest density is 1.0$"):
        masks_of(Filters(), {"fc": torch.ones(4, 4)}, 0.5)
