"""`top_k`, which looks at the scores once, keeps what a stable sort of all of them puts first."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from orchestrator.pruning import top_k as module
from orchestrator.pruning.top_k import LayerScores, threads_of, top_k

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def by_sorting(layers: list[LayerScores], k: int) -> list[Tensor]:
    """Sort all scores, highest first and equal ones in their order; keep the first k candidates."""
    scores = torch.cat([layer.values.double().abs() if layer.absolute else layer.values.double() for layer in layers])
    masks = [torch.ones(len(layer.values), dtype=torch.bool) if layer.mask is None else layer.mask for layer in layers]
    order = torch.sort(scores, stable=True, descending=True).indices
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[order[torch.cat(masks)[order]][:k]] = True
    return list(kept.split([len(layer.values) for layer in layers]))


def random_layers(draw: random.Random, sizes: tuple[int, int], kinds: int) -> list[LayerScores]:
    """Up to five layers of mixed dtypes and of `kinds` different values, so that many scores are equal."""
    generator = torch.Generator().manual_seed(draw.randrange(2**32))
    masked, absolute = draw.random() < 0.5, draw.random() < 0.5
    layers = []
    for index in range(draw.randint(1, 5)):
        size = draw.randint(*sizes)
        values = torch.randint(-kinds, kinds + 1, (size,), generator=generator).double() / 8
        mask = torch.rand(size, generator=generator) < draw.choice([0.0, 0.3, 0.9]) if masked else None
        layers.append(LayerScores(f"layer{index}", values.to(draw.choice(DTYPES)), absolute, mask))
    return layers


def assert_top_k_sorts(layers: list[LayerScores], draw: random.Random) -> None:
    available = sum(layer.candidates for layer in layers)
    for k in {0, available, draw.randint(0, available)}:
        with threads_of(torch.device("cpu")) as threads:
            got = top_k(layers, k, threads)
        for mask, wanted in zip(got, by_sorting(layers, k), strict=True):
            assert mask.dtype is torch.bool
            assert torch.equal(mask, wanted)


@pytest.mark.parametrize("seed", range(100))
def test_small_networks_cut_into_blocks(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(module, "BLOCK", draw.choice([1, 8, 64, 100]))
    monkeypatch.setattr(module, "STRIDE", draw.choice([1, 2, 7, 211]))
    assert_top_k_sorts(random_layers(draw, (1, 200), draw.choice([1, 3, 30])), draw)


@pytest.mark.parametrize("seed", range(3))
def test_more_scores_than_a_block(seed: int) -> None:
    draw = random.Random(seed)
    assert_top_k_sorts(random_layers(draw, (200_000, 900_000), draw.choice([3, 1000])), draw)


@pytest.mark.parametrize("absolute", [False, True])
def test_infinite_scores_rank_like_others_unless_they_are_weights(absolute: bool) -> None:
    values = torch.tensor([1.0, -torch.inf, torch.inf, torch.inf])
    layer = LayerScores("fc", values, absolute)
    with threads_of(torch.device("cpu")) as threads:
        if absolute:
            with pytest.raises(ValueError, match="weights must be finite, but fc holds NaN or infinity"):
                top_k([layer], 3, threads)
        else:
            assert top_k([layer], 3, threads)[0].tolist() == [True, False, True, True]
