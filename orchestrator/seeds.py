"""Seeds derived from what they are for, so that nothing random depends on what ran before."""

from __future__ import annotations

import hashlib


def derive(*parts: int | str) -> int:
    """A 63-bit seed for `parts`, the same on every machine: `derive(seed, "init")`, `derive(seed, round, epoch)`."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
