"""Amounts as Kubernetes writes them: 250m, 8Gi, "4"."""

from __future__ import annotations

import re

_UNITS = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def quantity(text: str | int) -> float:
    match = re.fullmatch(r"([0-9.]+)(|m|[KMGT]i)", str(text))
    assert match, f"not an amount that these tests know: {text!r}"
    return float(match[1]) * _UNITS[match[2]]
