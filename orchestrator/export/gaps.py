"""Store the places of few of many values as the gaps between them: a byte each, which compresses well."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
LONG = 255  # "255 removed ones, and the gap goes on"; any smaller byte ends a gap


def gap_bytes(kept: int, total: int) -> int:
    """Return how many bytes `encode_gaps` makes of `total` flags of which `kept` are True."""
    return kept + total // LONG


def encode_gaps(flags: Flags) -> Bytes:
    """Return how many False come before each True, filled up with LONG to the size that `gap_bytes` says."""
    places = np.flatnonzero(flags)
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // LONG + 1) - 1
    found = np.full(gap_bytes(len(places), flags.size), LONG, np.uint8)
    found[ends] = gaps % LONG
    return found


def decode_gaps(data: Bytes, total: int) -> Flags | None:
    """Return the `total` flags that `encode_gaps` encoded; None if the bytes are not of as many."""
    ends = np.flatnonzero(data < LONG)
    places = np.cumsum(data, dtype=np.int64)[ends] + np.arange(len(ends))
    if len(ends) and places[-1] >= total:
        return None
    flags = np.zeros(total, np.bool_)
    flags[places] = True
    return flags
