"""Fixtures of the pruning tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick(one_thread: None) -> None:
    """Their operations are so small that threads would only wait for each other."""
