"""Layerwise and n:m selection against rules written out slowly, and what all selections have in common."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import check, masks_of
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.pruning import (
    Blocks,
    Filters,
    Global,
    Layerwise,
    NofM,
    Selection,
    count_kept,
    kept_count,
    prunable_weights,
)
from orchestrator.pruning.criteria import Criterion, gradient_magnitude
from orchestrator.pruning.view import View

Tensors = dict[str, Tensor]

SELECTIONS = [Global(), Layerwise(), NofM(4), Filters(), Global(Blocks(2))]


def network(seed: int = 0, ties: bool = False) -> Tensors:
    """A narrow convolutional network's weights: one layer whose inputs 4 does not divide, and a depthwise one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"stem": (8, 3, 3, 3), "conv": (6, 8, 3, 3), "depth": (6, 1, 3, 3), "point": (12, 4, 1, 1), "fc": (5, 12)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: w.round() for name, w in weights.items()} if ties else weights


def best(scores: list[float], count: int) -> set[int]:
    """Places of the `count` highest, of equal ones the first."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def given_scores(scores: Tensor) -> Criterion:
    return lambda weight, grad: scores


# What all selections have in common


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_masks_nest_are_bool_and_contiguous_and_change_nothing(selection: Selection) -> None:
    weights, masks = network(), None
    before = {name: w.clone() for name, w in weights.items()}
    for density in (0.5, 0.25):
        earlier = masks
        held = {name: mask.clone() for name, mask in earlier.items()} if earlier else None
        masks = masks_of(selection, weights, density, masks=earlier)
        assert list(masks) == list(weights)
        for name, mask in masks.items():
            assert (mask.shape, mask.dtype, mask.is_contiguous()) == (weights[name].shape, torch.bool, True)
            assert torch.equal(weights[name], before[name])
            if earlier and held:
                assert not (mask & ~earlier[name]).any()
                assert torch.equal(earlier[name], held[name])
                assert mask.data_ptr() != earlier[name].data_ptr()
        weights = {name: w * masks[name] for name, w in weights.items()}
        before = {name: w.clone() for name, w in weights.items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_channels_last_gives_the_same_masks(selection: Selection, ties: bool) -> None:
    weights = network(ties=ties)
    last = {n: w.to(memory_format=torch.channels_last) if w.dim() == 4 else w for n, w in weights.items()}
    assert not last["conv"].is_contiguous()
    first = masks_of(selection, weights, 0.5)
    earlier = {n: m.to(memory_format=torch.channels_last) if m.dim() == 4 else m for n, m in first.items()}
    for masks in (masks_of(selection, last, 0.5), masks_of(selection, last, 0.5, masks=earlier)):
        for name, mask in masks.items():
            assert torch.equal(mask, first[name]), name
            assert mask.is_contiguous()


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_a_full_density_keeps_what_earlier_masks_left(selection: Selection) -> None:
    weights = network()
    assert all(mask.all() for mask in masks_of(selection, weights, 1.0).values())
    half = masks_of(selection, weights, 0.5)
    density = 0.5 if isinstance(selection, NofM) else count_kept(half) / count_kept(masks_of(selection, weights, 1.0))
    again = masks_of(selection, weights, density, masks=half)
    assert all(torch.equal(again[name], half[name]) for name in half)


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_the_criterion_decides(selection: Selection) -> None:
    """What stays by -|w| is smaller than what stays by |w|, in every layer that the selection prunes."""
    weights = network()
    largest = masks_of(selection, weights, 0.5)
    smallest = masks_of(selection, weights, 0.5, criterion=lambda w, g: -w.abs())
    pruned = [name for name in weights if not smallest[name].all()]
    assert pruned
    for name in pruned:
        assert weights[name][smallest[name]].abs().mean() < weights[name][largest[name]].abs().mean(), name


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_gradients_reach_the_criterion_by_layer_and_are_wanted(selection: Selection) -> None:
    weights = {name: torch.ones_like(w) for name, w in network().items()}
    gradients = {"bias": torch.ones(3), **dict(reversed(network(seed=1).items()))}
    masks = masks_of(selection, weights, 0.5, criterion=gradient_magnitude, gradients=gradients)
    wanted = masks_of(selection, {name: gradients[name] for name in weights}, 0.5)
    assert all(torch.equal(masks[name], wanted[name]) for name in masks)
    with pytest.raises(ConfigError, match="gradient_magnitude reads gradients, but none were given: pass gradients="):
        masks_of(selection, weights, 0.5, criterion=gradient_magnitude)
    broken = {**gradients, "conv": gradients["conv"] / 0}
    with pytest.raises(ConfigError, match="gradients must be finite, but conv holds NaN"):
        masks_of(selection, weights, 0.5, criterion=gradient_magnitude, gradients=broken)


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_a_shared_weight_counts_once(selection: Selection) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    weights = prunable_weights(model)
    assert list(weights) == ["0.weight", "3.weight"]
    masks = masks_of(selection, weights, 0.5)
    assert list(masks) == list(weights)
    wanted = {Global(): 80, Layerwise(): 80, NofM(4): 80, Filters(): 52, Global(Blocks(2)): 80}[
        selection
    ]  # 144 + 16; one filter is 36
    assert count_kept(masks) == wanted


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({}, {}, "at least one tensor|needs a layer"),
        ({"w": torch.ones(4, 4).long()}, {}, "floating point, got torch.int64 for w"),
        ({"w": torch.ones(4, 4), "bad": torch.full((4, 4), math.nan)}, {}, "weights must be finite, but bad holds"),
        ({"w": torch.ones(4, 4), "bad": torch.full((4, 4), math.inf)}, {}, "weights must be finite, but bad holds"),
        ({"w": torch.ones(4, 4)}, {"masks": {"w": torch.ones(4, 4)}}, "masks must be bool .*float32 for w"),
        ({"w": torch.ones(4, 4)}, {"masks": {}}, "every weight must have one mask, but w has none"),
        ({"w": torch.ones(4, 4)}, {"masks": {n: torch.ones(4, 4).bool() for n in "vw"}}, "mask 'v' does not belong"),
        ({"w": torch.ones(4, 4)}, {"masks": {"w": torch.ones(4).bool()}}, r"shape of its weight \(4, 4\), got \(4,\)"),
        ({"w": torch.ones(4, 4)}, {"gradients": {"v": torch.ones(4, 4)}}, "one gradient.* but w has none"),
        ({"w": torch.ones(4, 4)}, {"criterion": lambda w, g: w * math.nan}, "scores must be numbers.* NaN for w"),
        ({"w": torch.ones(4, 4)}, {"criterion": lambda w, g: w[0]}, r"scores of the weight's shape \(4, 4\), got"),
        ({"w": torch.ones(4, 4)}, {"min_kept_per_layer": -1}, "min_kept_per_layer must be a whole .*, got -1"),
    ],
)  # fmt: skip
def test_input_that_every_selection_refuses(
    selection: Selection, weights: Tensors, options: dict[str, object], message: str
) -> None:
    density = 1.0 if isinstance(selection, Filters) else 0.5  # linear layers stay whole
    with pytest.raises(ConfigError, match=message):
        masks_of(selection, weights, density, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
@pytest.mark.parametrize("density", [0.0, -0.5, 1.5, math.nan])
def test_a_density_is_a_fraction(selection: Selection, density: float) -> None:
    for call in (selection.check, selection.select):
        with pytest.raises(ConfigError, match=rf"density must be a number in \(0, 1\], got {density}"):
            call(View({"w": torch.ones(4, 4, 1)}), density)


# Layerwise


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.booleans(), st.integers(0, 40), st.floats(0.001, 1), st.floats(0.001, 1))
def test_every_layer_keeps_its_own_share_of_its_best(seed: int, ties: bool, minimum: int, a: float, b: float) -> None:
    weights = network(seed, ties)
    masks: Tensors | None = None
    for density in sorted({a, b}, reverse=True):
        earlier = {n: m.flatten().tolist() for n, m in masks.items()} if masks else None
        masks = masks_of(Layerwise(), weights, density, masks=masks, min_kept_per_layer=minimum)
        for name, weight in weights.items():
            scores = [
                abs(w) if earlier is None or earlier[name][i] else -1.0 for i, w in enumerate(weight.flatten().tolist())
            ]
            count = min(weight.numel(), max(1, minimum, kept_count(density, weight.numel())))
            assert set(masks[name].flatten().nonzero()[:, 0].tolist()) == best(scores, count), name


def test_layerwise_masks_of_another_selection_may_leave_too_little() -> None:
    weights = {"a": torch.ones(4), "b": torch.ones(4)}
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.ones(4).bool()}
    with pytest.raises(ConfigError, match=r"density 0.5 keeps 2 of 4 weights in a, but the masks given leave only 1"):
        masks_of(Layerwise(), weights, 0.5, masks=masks)
    kept = masks_of(Layerwise(), weights, 0.25, masks=masks, min_kept_per_layer=3)
    assert kept["a"].tolist() == [True, False, False, False], "a layer of one candidate cannot keep three"
    assert kept["b"].tolist() == [True, True, True, False]


def test_layerwise_infinite_scores() -> None:
    scores = torch.tensor([-math.inf, math.inf, 0.0, -5.0, math.inf, -math.inf])
    kept = [
        masks_of(Layerwise(), {"w": torch.ones(6)}, k / 6, criterion=lambda w, g: scores)["w"].tolist()
        for k in range(1, 7)
    ]
    order = [1, 4, 2, 3, 0, 5]
    assert kept == [[i in order[:k] for i in range(6)] for k in range(1, 7)]


# n:m


def n_of_m(scores: Tensor, candidates: Tensor, n: int, m: int) -> Tensor:
    """The rule word for word, for scores (C_out, C_in, ...) whose C_in m divides."""
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    kernel = [range(size) for size in scores.shape[2:]]
    for out, group, *place in itertools.product(range(scores.shape[0]), range(scores.shape[1] // m), *kernel):
        inputs = [(out, group * m + i, *place) for i in range(m)]
        ranked = sorted(inputs, key=lambda at: (not candidates[at], -float(scores[at]), at[1]))
        for at in ranked[:n]:
            mask[at] = True
    return mask


few = st.sampled_from([0.0, -1.0, 1.0, 2.0, math.inf, -math.inf])  # so that ties and infinities are common


@settings(max_examples=100)
@given(st.data(), st.sampled_from([2, 3, 4]), st.sampled_from([(), (2,), (1, 3), (2, 2)]))
def test_n_of_every_m_inputs_stay(data: st.DataObject, m: int, kernel: tuple[int, ...]) -> None:
    shape = (data.draw(st.integers(1, 3)), m * data.draw(st.integers(1, 2)), *kernel)
    masks = None
    for n in sorted(data.draw(st.sets(st.integers(1, m), min_size=1, max_size=2)), reverse=True):
        flat = data.draw(st.lists(few, min_size=math.prod(shape), max_size=math.prod(shape)))
        scores = torch.tensor(flat).view(shape)
        candidates = masks["w"] if masks else torch.ones(shape).bool()
        masks = masks_of(NofM(m), {"w": torch.ones(shape)}, n / m, masks=masks, criterion=given_scores(scores))
        assert torch.equal(masks["w"], n_of_m(scores, candidates, n, m))
        assert masks["w"].unflatten(1, (-1, m)).sum(2).eq(n).all()


def test_a_score_of_minus_infinity_is_still_better_than_a_weight_that_is_gone() -> None:
    earlier = {"fc": torch.tensor([[False, True, True, True]])}
    scores = torch.tensor([[math.inf, -math.inf, -math.inf, 1.0]])
    masks = masks_of(NofM(), {"fc": torch.ones(1, 4)}, 0.5, masks=earlier, criterion=given_scores(scores))
    assert masks["fc"].tolist() == [[False, True, False, True]]


def test_two_of_four_of_a_linear_layer() -> None:
    weight = torch.tensor([[0.1, -0.4, 0.3, 0.2, 5.0, 5.0, -5.0, 5.0]])
    masks = masks_of(NofM(), {"fc": weight}, 0.5)
    assert masks["fc"].int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]
    masks = masks_of(NofM(), {"fc": weight}, 0.25, masks=masks)
    assert masks["fc"].int().tolist() == [[0, 1, 0, 0, 1, 0, 0, 0]]


def test_layers_whose_inputs_m_does_not_divide_stay_dense() -> None:
    masks = masks_of(NofM(4), network(), 0.25)
    density = {name: float(mask.float().mean()) for name, mask in masks.items()}
    assert density == {"stem": 1.0, "conv": 0.25, "depth": 1.0, "point": 0.25, "fc": 0.25}
    again = masks_of(NofM(4), network(seed=1), 0.25, masks={**masks, "stem": torch.rand(8, 3, 3, 3) < 0.5})
    assert not again["stem"].all(), "but what earlier masks removed there does not come back"


SHAPES = {"stem": (8, 3, 3, 3), "fc": (2, 8)}


@pytest.mark.parametrize(
    ("m", "density", "minimum", "message"),
    [
        (
            4,
            0.3,
            0,
            r"density \* m must be a whole number, got 0.3 \* 4 = 1.2: with NofM\(m=4\) densities are 1/4",
        ),
        (4, 0.05, 0, r"got 0.05 \* 4 = 0.2"),
        (5, 0.2, 0, r"NofM\(m=5\) needs a layer whose inputs 5 divides, but they are \[3, 8\]"),
        (
            4,
            0.25,
            5,
            "density 0.25 keeps 4 of 16 weights in fc, but min_kept_per_layer=5 wants more: raise the density",
        ),
    ],
)
def test_what_n_of_m_refuses_before_and_when_pruning(m: int, density: float, minimum: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(NofM(m), SHAPES, density, min_kept_per_layer=minimum)
    with pytest.raises(ConfigError, match=message):
        masks_of(NofM(m), {n: torch.ones(s) for n, s in SHAPES.items()}, density, min_kept_per_layer=minimum)


@pytest.mark.parametrize(("m", "density"), [(4, 0.5), (4, 1.0), (3, 1 / 3), (3, 2 / 3), (7, 1.0)])
def test_what_n_of_m_takes(m: int, density: float) -> None:
    check(NofM(m), {"stem": (8, 3, 3, 3), "fc": (2, 8)}, density, min_kept_per_layer=4)


@pytest.mark.parametrize("m", [1, 0, -4, 2.0, "4", True])
def test_m_is_a_whole_number_of_two_or_more(m: int) -> None:
    with pytest.raises(ConfigError, match=f"m must be a whole number of 2 or more, got {m!r}"):
        NofM(m)


def test_n_of_m_within_masks_that_leave_fewer() -> None:
    masks = {"fc": torch.tensor([[True, False, False, False]])}
    with pytest.raises(ConfigError, match="2 of every 4 inputs must stay, but the masks given leave fewer in fc"):
        masks_of(NofM(), {"fc": torch.ones(1, 4)}, 0.5, masks=masks)
