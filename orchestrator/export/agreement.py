"""Measure how far the outputs of a file are from those of its network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.errors import ExportError
from orchestrator.export.arrays import Array

RELATIVE = 1e-4  # of the largest value of a sample: how far float32 arithmetic may be from torch's


class Agreement:
    """Measure the largest difference over batches of outputs, relative to the largest value of the same sample.

    The first dimension counts samples. Where each has one value, which may be close to 0, the difference is relative to
    the largest value of all samples. `class_dim`: the dimension of the first output that counts classes, of which the
    largest is the prediction; None: the outputs are not predictions.
    """

    def __init__(self, class_dim: int | None = None) -> None:
        self._class_dim = class_dim
        self._equal = self._predictions = 0
        self._largest: dict[int, Any] = {}
        self._alone: dict[int, tuple[Any, Any]] = {}  # by output: largest difference and largest value

    def add(self, got: Sequence[Array], expected: Sequence[Array]) -> None:
        """Add a batch of outputs. Raises ExportError for outputs of other shapes than expected."""
        self._compare_predictions(got, expected)
        for place, (mine, other) in enumerate(zip(got, expected, strict=True)):
            if mine.shape != other.shape:
                raise ExportError(f"an output has shape {mine.shape}, that of the network has {other.shape}")
            if not other.size:
                continue
            values, other = (
                array.reshape(len(array) if array.ndim else 1, -1).astype(float) for array in (mine, other)
            )
            apart, scale = np.abs(values - other).max(axis=1), np.abs(other).max(axis=1)
            if values.shape[1] == 1:
                before = self._alone.get(place, (0.0, 0.0))
                self._alone[place] = (np.maximum(before[0], apart.max()), np.maximum(before[1], scale.max()))
            else:
                self._largest[place] = np.maximum(self._largest.get(place, 0.0), (apart / _above_zero(scale)).max())

    def _compare_predictions(self, got: Sequence[Array], expected: Sequence[Array]) -> None:
        """Count the equal predictions of the first output."""
        if self._class_dim is None or not got or got[0].ndim < 2 or got[0].shape != expected[0].shape:
            return
        equal = got[0].argmax(axis=self._class_dim) == expected[0].argmax(axis=self._class_dim)
        self._equal += int(equal.sum())
        self._predictions += equal.size

    @property
    def equal_predictions(self) -> float | None:
        """Return the share of equal predictions, in [0, 1]; None if the outputs are not predictions."""
        return self._equal / self._predictions if self._predictions else None

    @property
    def error(self) -> float:
        """Return the largest relative difference; NaN if the outputs hold NaN."""
        parts = [*self._largest.values(), *(apart / _above_zero(scale) for apart, scale in self._alone.values())]
        return float(np.max(parts)) if parts else 0.0


def relative_error(got: Array, expected: Array) -> float:
    """Return the error of one batch of one output (see `Agreement`)."""
    agreement = Agreement()
    agreement.add([got], [expected])
    return agreement.error


def _above_zero(scale: Any) -> Any:
    return np.maximum(scale, np.finfo(np.float32).tiny)
