"""JSON with the sha256 of its own content as its last field, so that one flipped bit is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any


def sha256_of(value: dict[str, Any]) -> str:
    """The sha256 of `value` as JSON, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(value: dict[str, Any]) -> bytes:
    """`value` as JSON that holds its own sha256."""
    return json.dumps({**value, "sha256": sha256_of(value)}, indent=1, allow_nan=False).encode()


def unseal(text: bytes, fields: Collection[str]) -> dict[str, Any]:
    """The inverse of `seal`.

    Earlier versions wrote no sha256: such a file may have no field but `fields`. Raises ValueError, or RecursionError
    for JSON that is nested too deep.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    found = value.pop("sha256", None)
    if found is None and (unknown := value.keys() - set(fields)):
        raise ValueError(f"it has no sha256, and a field of no known name, {min(unknown)!r:.100}")
    if found is not None and found != sha256_of(value):
        raise ValueError("its content does not have the sha256 that stands in it")
    return value
