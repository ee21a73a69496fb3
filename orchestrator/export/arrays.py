"""Check and store arrays of numbers, without torch and without pickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def save_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays, in order, to a file."""
    np.savez(path, **{str(place): array for place, array in enumerate(arrays)})  # type: ignore[arg-type]


def load_arrays(path: Path) -> list[Array]:
    """Return what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return [found[str(place)] for place in range(len(found.files))]


def is_finite(outputs: Sequence[Array]) -> bool:
    """Return whether all numbers of `outputs` are finite."""
    return all(bool(np.isfinite(array).all()) for array in outputs)
