"""Patterns of zeros against rules written out slowly: whole blocks, at most n of m, exact counts, nested rounds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import check, masks_of
from tiny import EXPERIMENT as TINY
from torch import Tensor

from orchestrator.amc.agents import Cem
from orchestrator.amc.amc_selection import Amc
from orchestrator.errors import ConfigError
from orchestrator.experiment import as_json
from orchestrator.pruning import AtMost, Blocks, Explicit, Global, Pattern, count_kept, kept_count, prune_globally
from orchestrator.pruning.geometry import Geometry
from orchestrator.pruning.masks import count_true
from orchestrator.pruning.view import View
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store

Tensors = dict[str, Tensor]
SHAPES = {"stem": (8, 3, 3, 3), "conv": (6, 8, 3, 3), "depth": (8, 1, 3, 3), "point": (12, 4, 1, 1), "fc": (4, 12)}


def network(seed: int = 0, ties: bool = False) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: w.round() for name, w in weights.items()} if ties else weights


def blocks_of(mask: Tensor, outputs: int) -> Tensor:
    """Return how many weights of each block a mask keeps."""
    return mask.unflatten(0, (-1, outputs)).sum(1)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([2, 4]), st.sets(st.floats(0.01, 1), min_size=1))
def test_blocks_stay_whole_counts_are_exact_and_rounds_are_nested(
    seed: int, ties: bool, outputs: int, densities: set[float]
) -> None:
    weights, masks = network(seed, ties), None
    pattern, total = Blocks(outputs), sum(w.numel() for w in network().values())
    for density in sorted(densities, reverse=True):
        earlier, masks = masks, masks_of(Global(pattern), weights, density, masks=masks)
        loose = [name for name in weights if not pattern.divides(SHAPES[name])]
        left = sum(count_true(~masks[n] & earlier[n] if earlier else ~masks[n]) for n in loose)
        missing = kept_count(density, total) - count_kept(masks)
        assert missing == 0 or (left == 0 and missing < outputs), "layers without blocks fill the count up"
        for name, mask in masks.items():
            if pattern.divides(SHAPES[name]):
                assert set(blocks_of(mask, outputs).unique().tolist()) <= {0, outputs}
            assert earlier is None or not (mask & ~earlier[name]).any()


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([(1, 2), (2, 4), (1, 4)]), st.floats(0.01, 1))
def test_at_most_n_of_m_stay_and_counts_are_exact(seed: int, ties: bool, n_of: tuple[int, int], share: float) -> None:
    pattern, weights, masks = AtMost(n_of[0], of=n_of[1]), network(seed, ties), None
    total = sum(w.numel() for w in weights.values())
    most = sum(pattern.capacity(s) if pattern.divides(s) else math.prod(s) for s in SHAPES.values())
    for density in (most / total, most / total * share):
        earlier, masks = masks, masks_of(Global(pattern), weights, density, masks=masks)
        assert count_kept(masks) == kept_count(density, total)
        for name, mask in masks.items():
            if pattern.divides(SHAPES[name]):
                assert mask.unflatten(1, (-1, pattern.of)).sum(2).max() <= pattern.n
            assert earlier is None or not (mask & ~earlier[name]).any()


def test_blocks_are_ranked_by_their_mean_score_among_single_weights() -> None:
    weights = {"fc": torch.tensor([[5.0, 1.0], [0.0, 1.5]]), "odd": torch.tensor([[2.0], [1.0], [3.0]])}
    masks = masks_of(Global(Blocks(2)), weights, 4 / 7)
    assert masks["fc"].tolist() == [[True, False], [True, False]], "means 2.5 and 1.25: the lone 5 keeps its 0"
    assert masks["odd"].tolist() == [[True], [False], [True]]


def test_the_rest_of_a_block_that_does_not_fit_goes_to_single_weights() -> None:
    weights = {"fc": torch.tensor([[9.0, 8.0], [9.0, 8.0]]), "odd": torch.tensor([[1.0], [2.0], [0.5]])}
    masks = masks_of(Global(Blocks(2)), weights, 3 / 7)
    assert (masks["fc"].tolist(), masks["odd"].tolist()) == (
        [[True, False], [True, False]],
        [[False], [True], [False]],
    )
    alone = masks_of(Global(Blocks(2)), {"fc": weights["fc"]}, 3 / 4)
    assert count_kept(alone) == 2, "without single weights the count is of whole blocks"


def test_a_criterion_reads_single_weights_and_counts_by_block() -> None:
    scores = torch.tensor([[-math.inf, 4.0, -1.0], [math.inf, 4.0, 3.0]])
    masks = masks_of(Global(Blocks(2)), {"fc": torch.ones(2, 3)}, 2 / 3, criterion=lambda w, g: scores)
    assert masks["fc"][0].tolist() == [True, True, False]


def test_at_most_two_of_four_at_a_half_is_the_best_half_of_each_four() -> None:
    weight = torch.tensor([[0.1, -0.4, 0.3, 0.2, 5.0, 5.0, -5.0, 5.0]])
    half = masks_of(Global(AtMost(2)), {"fc": weight}, 0.5)
    assert half["fc"].int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]
    less = masks_of(Global(AtMost(2)), {"fc": weight}, 0.25, masks=half)
    assert less["fc"].int().tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]], "global: the weak four loses both"


def test_what_follows_no_pattern_is_named() -> None:
    assert Global(Blocks(4)).unstructured(SHAPES) == ["conv", "depth"], "6 outputs; one input each output"
    assert Global(AtMost(2, of=4)).unstructured(SHAPES) == ["stem", "depth"]
    assert Global().unstructured(SHAPES) == []


def test_each_layer_keeps_its_minimum_in_whole_blocks() -> None:
    weights = {"big": torch.ones(4, 8), "small": torch.full((4, 8), 0.1)}
    masks = masks_of(Global(Blocks(4)), weights, 0.5, min_kept_per_layer=8)
    assert {name: count_true(mask) for name, mask in masks.items()} == {"big": 24, "small": 8}


@pytest.mark.parametrize(
    ("pattern", "density", "minimum", "message"),
    [
        (Blocks(16), 0.5, 0, r"pattern Blocks\(outputs=16\) must divide the outputs or inputs of a layer"),
        (AtMost(1, of=5), 0.5, 0, r"pattern AtMost\(n=1, of=5\) must divide"),
        (AtMost(1, of=4), 0.9, 0, r"density 0.9 keeps 734 of 816 weights, but AtMost\(n=1, of=4\) leaves at most 420"),
        (Blocks(4), 0.5, 6, "min_kept_per_layer must be a multiple of 4 with pattern"),
    ],
)
def test_what_a_pattern_refuses_before_training(pattern: Pattern, density: float, minimum: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Global(pattern), SHAPES, density, min_kept_per_layer=minimum)


def test_what_cannot_be_a_pattern() -> None:
    for make, message in (
        (lambda: Blocks(1), "Blocks.outputs must be a whole number of 2 or more, got 1"),
        (lambda: AtMost(4, of=4), "AtMost.n must be a whole number from 1 to 3, got 4"),
        (lambda: Global(4), r"Global.pattern must be None or a pattern, such as Blocks\(4\)"),
        (
            lambda: Global(Blocks),
            r"None or a pattern, such as Blocks\(4\).*, got the class Blocks: write Blocks\(\.\.\.\)$",
        ),
        (lambda: Amc(pattern=Blocks(4)), "Amc.pattern must be None unless mode is 'weights'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    with pytest.raises(ConfigError, match=r"density must keep at least one of the Blocks.*which keeps 2"):
        prune_globally({"fc": torch.ones(4, 5)}, 0.1, pattern=Blocks(4))


def test_a_pattern_is_part_of_the_key_and_its_absence_is_not() -> None:
    assert as_json(Global()) == {"type": "Global"}
    assert as_json(Global(AtMost(2))) == {"type": "Global", "pattern": {"type": "AtMost", "n": 2, "of": 4}}


def test_amc_chooses_whole_blocks_of_each_layer() -> None:
    weights = {name: network()[name] for name in ("conv", "point", "fc")}
    sizes = {name: weight.numel() for name, weight in weights.items()}
    amc = Amc(unit="weights", mode="weights", pattern=Blocks(4), agent=Cem(), evaluations=4, generation=2)
    view = View(weights, geometry=Geometry(uses=dict.fromkeys(sizes, 1), parameters=sum(sizes.values())))
    amc.check(view, 0.3)
    budget = amc.budget(view, 0.3)
    chosen = budget.fit([0.3] * 3)
    masks = amc.structure(view, chosen).tensors()
    assert {name: count_true(mask) for name, mask in masks.items()} == dict(zip(sizes, chosen, strict=True))
    for name in ("point", "fc"):
        assert set(blocks_of(masks[name], 4).unique().tolist()) <= {0, 4}
    assert amc.unstructured(view.shapes) == ["conv"]


@pytest.mark.parametrize("pattern", [Blocks(3), AtMost(2, of=4)])
def test_rounds_hold_the_pattern_and_the_record_names_the_layers_without(pattern: Pattern, tmp_path: Path) -> None:
    experiment = dataclasses.replace(TINY, selection=Global(pattern), path=Explicit([0.4, 0.2]))
    records = run(experiment, str(tmp_path))
    ledger = Ledger(open_store(str(tmp_path)))
    shapes = {name: tuple(mask.shape) for name, mask in ledger.load(records[1])[1].items()}
    loose = [name for name, shape in shapes.items() if not pattern.divides(shape)]
    assert [record.unstructured for record in records] == [[], loose, loose]
    assert loose == ["0.weight"], "its one input"
    for record in records[1:]:
        state, masks = ledger.load(record)
        assert record.kept == count_kept(masks) == kept_count(record.density, record.prunable)
        for name in masks.keys() - set(loose):
            held = state.model[name] != 0
            if isinstance(pattern, Blocks):
                assert set(blocks_of(masks[name], pattern.size).unique().tolist()) <= {0, pattern.size}
            else:
                assert held.unflatten(1, (-1, 4)).sum(2).max() <= 2
