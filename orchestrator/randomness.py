"""Derive seeds from their purpose, and use them without changing the process's own generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy("numpy"), lazy("torch")


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed for `parts`, the same on every machine.

    Examples: `derive(seed, "init")`, `derive(seed, round, epoch)`.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def own_randomness() -> Iterator[None]:
    """Restore the CPU generators of torch, random and numpy after the block, which may draw and seed."""
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute each operation of torch on the thread that calls it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_all(seed: int) -> None:
    """Seed the CPU generators of torch, random and numpy (torch.manual_seed would reach for the GPU as well)."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
