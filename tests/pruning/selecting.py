"""Select and check with a `View` built from plain arguments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.pruning.selection import Selection
from orchestrator.pruning.structure import Dense, Masks
from orchestrator.pruning.view import View


def masks_of(
    selection: Selection,
    weights: Mapping[str, Tensor],
    density: float,
    *,
    masks: dict[str, Tensor] | None = None,
    **options: object,
) -> dict[str, Tensor]:
    """Return the masks that `selection` leaves of `weights` after earlier `masks`."""
    structure = Dense() if masks is None else Masks(masks)
    return selection.select(View(weights, structure, **options), density).tensors()  # type: ignore[arg-type]


def check(
    selection: Selection, shapes: Mapping[str, tuple[int, ...]], density: float, min_kept_per_layer: int = 0
) -> None:
    """Have `selection` check a density for weights of these shapes, which have no values."""
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    selection.check(View(weights, min_kept_per_layer=min_kept_per_layer), density)
