"""Tensors to bytes and back: bit-equal, as small as promised, and damage is told."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import measured

from orchestrator.errors import DamagedError
from orchestrator.storage.checkpoint import (
    pack_model,
    pack_optimizer,
    pack_progress,
    unpack_model,
    unpack_optimizer,
    unpack_progress,
)
from orchestrator.train_state import TrainState
from orchestrator.work.train import EpochMetrics, Progress


def masked(shape, density, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    return (torch.randn(shape, generator=generator) * mask).to(dtype), mask


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_round_trip(shape, density, dtype):
    weight, mask = masked(shape, density, dtype)
    model = {"conv.weight": weight, "conv.bias": torch.randn(3), "norm.batches": torch.tensor(7)}
    momentum = {"conv.weight/momentum_buffer": weight * 2, "conv.bias/momentum_buffer": torch.randn(3)}
    step = {"conv.weight/step": torch.tensor(4.0)}
    masks = {"conv.weight": mask}
    again, again_masks = unpack_model(pack_model(model, masks), "f")
    assert same(again, model)
    assert same(again_masks, masks)
    optimizer = {**momentum, **step}
    assert same(unpack_optimizer(pack_optimizer(optimizer, masks), masks, "f"), optimizer)


def test_a_dense_model_has_no_masks():
    model = {"w": torch.randn(3, 4)}
    again, masks = unpack_model(pack_model(model, {}), "f")
    assert same(again, model)
    assert masks == {}


@pytest.mark.parametrize("density", [0.8, 0.1, 0.0112])
def test_size_is_kept_values_and_one_bit_a_weight(density):
    weight, mask = masked((256, 128, 3, 3), density)
    dense = len(pack_model({"w": weight}, {}))
    assert len(pack_model({"w": weight}, {"w": mask})) <= (density + 1 / 32) * dense * 1.05


def test_progress_round_trip():
    history = (
        EpochMetrics(0, 0.1, 1.5, measured(0.5, 1.25)),
        EpochMetrics(1, 0.1, 1.0 / 3.0, measured(0.75)),
    )
    state = TrainState(
        {"a/b.weight": torch.randn(2, 2), "n": torch.tensor(3)},
        {"a/b.weight/momentum_buffer": torch.randn(2, 2)},
    )
    progress = Progress("key", 2, state, history, 12.5, 3)
    again = unpack_progress(pack_progress(progress), "f")
    assert (again.key, again.epochs_done, again.history, again.seconds, again.attempts) == (
        "key",
        2,
        history,
        12.5,
        3,
    )
    assert same(again.state.model, state.model)
    assert same(again.state.optimizer, state.optimizer)


WEIGHT, MASK = masked((16, 16), 0.3)
GOOD = pack_model({"w": WEIGHT}, {"w": MASK})


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        GOOD[:7],
        GOOD[: len(GOOD) // 2],
        GOOD[:-1],
        b"\x80\x04pickle" * 20,
        GOOD.replace(b"[16, 16]", b"[16, 17]"),
    ],
    ids=["empty", "no header", "half", "one byte short", "a pickle", "another shape"],
)
def test_damage_is_an_error_that_names_the_file(blob):
    with pytest.raises(DamagedError, match="rounds/k/model"):
        unpack_model(blob, "rounds/k/model-0123.safetensors")


def test_a_shape_is_checked_against_the_bits_before_it_is_used():
    blob = GOOD.replace(b"[16, 16]", b"[99, 99]")
    with pytest.raises(DamagedError, match=r"9801 bits of its shape \[99, 99\]"):
        unpack_model(blob, "f")


def test_optimizer_values_must_fit_the_mask():
    other = MASK.clone()
    other.view(-1)[0] = ~other.view(-1)[0]
    with pytest.raises(DamagedError, match="'w/momentum_buffer' has"):
        unpack_optimizer(pack_optimizer({"w/momentum_buffer": WEIGHT}, {"w": MASK}), {"w": other}, "f")


@pytest.mark.parametrize("blob", [GOOD, b"", b"x" * 100, hashlib.sha256(GOOD).digest() + GOOD])
def test_what_is_not_progress_is_told(blob):
    with pytest.raises(DamagedError, match="train/run/progress"):
        unpack_progress(blob, "train/run/progress.safetensors")
