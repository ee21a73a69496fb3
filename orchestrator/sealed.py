"""Seal JSON with the sha256 of its content as its last field, so that one flipped bit is detected."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from orchestrator.decode import parse


def sha256_of(value: dict[str, Any]) -> str:
    """Return the sha256 of `value` as JSON, independent of the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(value: dict[str, Any]) -> bytes:
    """Return `value` as JSON with its own sha256. Raises ValueError for NaN or infinity."""
    return json.dumps({**value, "sha256": sha256_of(value)}, indent=1, allow_nan=False).encode()


def unseal(text: bytes) -> dict[str, Any]:
    """Invert `seal`. Raises ValueError for bytes that `seal` did not write."""
    return without_seal(parse(text))


def without_seal(value: Any) -> dict[str, Any]:
    """Remove the sha256 from the parsed JSON `value`, and return `value`. Raises ValueError if it does not match."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    found = value.pop("sha256", None)
    if found is None:
        raise ValueError("it has no sha256")
    try:
        digest = sha256_of(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if found != digest:
        raise ValueError("its content does not match its sha256")
    return value
